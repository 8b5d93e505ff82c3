//! What can go wrong between a model's name and its directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of this crate's functions.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// An error of this crate: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name is not `org/name[@revision]`.
    #[error("{name:?} is not a model of the Hub (org/name or org/name@revision): {reason}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A variable of the environment has a value that cannot be used.
    #[error("{variable}: {reason}")]
    Environment {
        /// The variable or the token file.
        variable: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The Hub has no such repository, revision or file.
    #[error("{what} was not found: {url}")]
    NotFound {
        /// The repository, revision or file.
        what: String,
        /// Where it was looked for.
        url: String,
    },
    /// The repository is gated: its licence must be accepted.
    #[error(
        "{model} is gated ({status}): accept its licence on {page} and set HF_TOKEN to a token of that account{}",
        sent(*token_sent)
    )]
    Gated {
        /// The model.
        model: String,
        /// The HTTP status.
        status: u16,
        /// The model's page.
        page: String,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The Hub does not say whether the repository exists.
    #[error(
        "no access to {model} ({status}): it does not exist, or it is private or gated; check the name, set HF_TOKEN to a \
         token of an account that may read it, and accept its licence on {page} if it asks for that{}",
        sent(*token_sent)
    )]
    NoAccess {
        /// The model.
        model: String,
        /// The HTTP status.
        status: u16,
        /// The model's page.
        page: String,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The repository lacks what a model directory needs.
    #[error("{model} is not a model that can be used: {reason}")]
    NotAModel {
        /// The model.
        model: String,
        /// What it lacks.
        reason: String,
    },
    /// No connection may be made and a file is not in the cache.
    #[error(
        "HF_HUB_OFFLINE is set and {file} of {model} is not in the cache {}; unset HF_HUB_OFFLINE and run this again, \
         or fetch it with `hf download {}`",
        cache.display(), model.split('@').next().unwrap_or_default()
    )]
    Offline {
        /// The model.
        model: String,
        /// The file.
        file: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The Hub cannot be reached, or the connection broke again and again.
    #[error(
        "{url}: {reason} (tried {attempts} times); what is fetched so far is kept: run it again to go on"
    )]
    Network {
        /// What was asked for.
        url: String,
        /// How often.
        attempts: u32,
        /// The last failure.
        reason: String,
    },
    /// The Hub asks to wait for longer than this crate does.
    #[error("{url}: the Hub asks to wait {} s before the next request; requests with HF_TOKEN have a higher limit", wait.as_secs())]
    RateLimited {
        /// What was asked for.
        url: String,
        /// How long to wait.
        wait: Duration,
    },
    /// An answer that makes no sense.
    #[error("{url}: {reason}")]
    Response {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// What arrived is not what the Hub declared.
    #[error(
        "{url} is damaged: its {what} is {got}, declared is {expected}; it was thrown away: run it again"
    )]
    Damaged {
        /// The file's address.
        url: String,
        /// `size` or `SHA-256`.
        what: &'static str,
        /// The declared value.
        expected: String,
        /// The value of what arrived.
        got: String,
    },
    /// An index names a file that does not lie beside it.
    #[error("{index} of {model} names {file:?}, which is not a plain file name")]
    ShardName {
        /// The model.
        model: String,
        /// The index file.
        index: String,
        /// The name.
        file: String,
    },
    /// The disk is full.
    #[error(
        "no space is left for {}: free some, or set HF_HOME to a larger disk; what is fetched so far is kept",
        path.display()
    )]
    DiskFull {
        /// What was written.
        path: PathBuf,
    },
    /// A file of the cache could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

fn sent(token_sent: bool) -> &'static str {
    if token_sent {
        " (a token was sent; it does not give access)"
    } else {
        " (no token was sent)"
    }
}

impl HubError {
    /// Whether the Hub could not be reached, so that what the cache holds is the best there is.
    pub fn is_network(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::RateLimited { .. })
    }

    /// An error of reading or writing a file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { action, path, source },
        }
    }
}
