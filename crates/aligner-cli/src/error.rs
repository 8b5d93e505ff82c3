//! Errors of the command line and their exit status.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;

use aligner_data::DataError;
use aligner_eval::EvalError;
use aligner_hub::HubError;
use aligner_infer::InferError;
use aligner_model::ModelError;
use aligner_report::ReportError;
use aligner_serve::ServeError;
use aligner_train::TrainError;

/// The result of a command.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was typed makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It failed on the way.
    #[error("{0}")]
    Failed(String),
    /// The reader of our output has gone.
    #[error("the output was closed")]
    ClosedPipe,
    /// Data could not be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A model could not be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Correcting failed.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// An evaluation could not be done.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A report could not be made.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The service could not be started, or stopped.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A model could not be had from the Hub.
    #[error("{source} (there is no {typed} on this machine)")]
    Hub {
        /// The model as it was typed.
        typed: String,
        /// Why.
        source: HubError,
    },
}

impl CliError {
    /// 2 when it was asked wrongly, 1 when it failed.
    pub fn status(&self) -> u8 {
        let asked_wrongly = match self {
            Self::Usage(_) => true,
            Self::Hub { source, .. } => matches!(
                source,
                HubError::Name { .. } | HubError::NotFound { .. } | HubError::Environment { .. }
            ),
            Self::Eval(error) => matches!(error, EvalError::Invalid(_)),
            Self::Report(error) => matches!(error, ReportError::NoRun(_)),
            Self::Failed(_) | Self::ClosedPipe => false,
            Self::Data(error)
            | Self::Infer(InferError::Data(error))
            | Self::Train(TrainError::Data(error)) => {
                matches!(
                    error,
                    DataError::Template { .. }
                        | DataError::Columns { .. }
                        | DataError::UnknownFormat { .. }
                        | DataError::Prefer(_)
                        | DataError::Exists(_)
                )
            }
            Self::Model(error)
            | Self::Infer(InferError::Model(error))
            | Self::Train(TrainError::Model(error)) => {
                matches!(
                    error,
                    ModelError::Device { .. } | ModelError::ModelExists(_) | ModelError::NoModelDirectory(_)
                )
            }
            Self::Infer(error) => matches!(
                error,
                InferError::NoTemplate(_)
                    | InferError::NoSteering(_)
                    | InferError::Export(_)
                    | InferError::WrongTemplate { .. }
                    | InferError::Sampling { .. }
                    | InferError::KvMemory { .. }
            ),
            Self::Serve(error) => matches!(
                error,
                ServeError::Config { .. }
                    | ServeError::Setting { .. }
                    | ServeError::ReadConfig { .. }
                    | ServeError::Tls { .. }
                    | ServeError::Telemetry(_)
            ),
            Self::Train(error) => matches!(
                error,
                TrainError::Config { .. } | TrainError::RunExists(_) | TrainError::NothingToResume { .. }
            ),
        };
        if asked_wrongly { 2 } else { 1 }
    }

    /// What to do about an error of the file system, whichever file it was.
    pub fn advice(&self) -> Option<&'static str> {
        use ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self.io_kind()? {
            StorageFull | QuotaExceeded => {
                Some("free some space and try again; nothing that was complete is lost")
            }
            FileTooLarge => {
                Some("this user or file system takes no larger files (`ulimit -f` shows the limit)")
            }
            ReadOnlyFilesystem | PermissionDenied => {
                Some("it must be readable and writable for this user; or name another place")
            }
            _ => None,
        }
    }

    /// What the operating system said, where it is at the bottom of the error.
    fn io_kind(&self) -> Option<ErrorKind> {
        let mut cause: Option<&dyn Error> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return Some(io.kind());
            }
            cause = error.source();
        }
        None
    }

    /// An error of reading or writing a file.
    pub fn io(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let what = format!("cannot {action} {}", path.display());
        move |error| Self::Failed(format!("{what}: {error}"))
    }
}

/// Writing to stdout.
pub fn stdout_error(error: std::io::Error) -> CliError {
    if error.kind() == ErrorKind::BrokenPipe {
        CliError::ClosedPipe
    } else {
        CliError::Failed(format!("cannot write to stdout: {error}"))
    }
}
