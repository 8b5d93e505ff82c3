//! Where connections come from: plain, or with TLS for a service that no proxy stands before.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, channel};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::error::{Result, ServeError};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that have shaken hands and wait to be served.
const WAITING: usize = 64;

/// Accepts plain connections, on which a small frame of a stream does not wait for more to be sent with it.
#[derive(Debug)]
pub struct PlainListener(TcpListener);

impl PlainListener {
    /// Connections of a listener.
    pub fn new(listener: TcpListener) -> Self {
        Self(listener)
    }
}

impl Listener for PlainListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, from) = Listener::accept(&mut self.0).await;
        send_at_once(&stream);
        (stream, from)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// Where it cannot be set, frames come a little later.
fn send_at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
}

/// Accepts TLS connections; handshakes run side by side, so that one that hangs holds up nobody.
#[derive(Debug)]
pub struct TlsListener {
    ready: Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    /// TLS over a listener, with a chain of certificates and a key in PEM. It needs a runtime.
    ///
    /// # Errors
    /// When a file cannot be read or used, or the two do not belong together.
    pub fn new(listener: TcpListener, certificates: &Path, key: &Path) -> Result<Self> {
        let acceptor = acceptor(certificates, key)?;
        let address = listener.local_addr()?;
        let (shaken, ready) = channel(WAITING);
        tokio::spawn(async move {
            let mut listener = listener;
            loop {
                // Axum's own way of accepting, which outlives errors such as too many open files.
                let (stream, from) = Listener::accept(&mut listener).await;
                send_at_once(&stream);
                if shaken.is_closed() {
                    return;
                }
                let (acceptor, shaken) = (acceptor.clone(), shaken.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        // A service that has stopped takes no more.
                        Ok(Ok(stream)) => drop(shaken.send((stream, from)).await),
                        Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS"),
                        Err(_) => tracing::debug!(%from, "a handshake that took too long"),
                    }
                });
            }
        });
        Ok(Self { ready, address })
    }
}

fn acceptor(certificates: &Path, key: &Path) -> Result<TlsAcceptor> {
    let unusable = |path: &Path, reason: &dyn std::fmt::Display| ServeError::Tls {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(certificates, &error))?;
    if chain.is_empty() {
        return Err(unusable(certificates, &"it has no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(certificates, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| unusable(key, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // Whoever accepts has ended, with the runtime: nothing comes any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}
