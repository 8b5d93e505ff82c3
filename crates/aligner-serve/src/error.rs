//! What can go wrong before the service runs.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = ServeError> = std::result::Result<T, E>;

/// An error of starting or configuring the service; what goes wrong with a request is an [`ApiError`](crate::ApiError).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration file cannot be read.
    #[error("cannot read {path}: {source}")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not understood.
    #[error("{path}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A setting cannot be used.
    #[error("{name}: {reason}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another program there? choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The file of shadow rows cannot be written.
    #[error("cannot write shadow rows to {path}: {source}")]
    Shadow {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use {path} for TLS: {reason}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Spans cannot be exported.
    #[error("cannot export spans as OTEL_EXPORTER_OTLP_ENDPOINT says: {0}")]
    Telemetry(String),
    /// The service stopped by itself.
    #[error("the service stopped: {0}")]
    Io(#[from] std::io::Error),
}
