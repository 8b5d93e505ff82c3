//! When a request is tried again.

use std::time::Duration;

use crate::error::{HubError, Result};

/// How often a request that failed for a passing reason is tried, and how long is waited in between.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries of one request, the first included. A download that got further starts counting anew.
    pub attempts: u32,
    /// The first wait; each next one is twice as long.
    pub first_wait: Duration,
    /// No wait is longer, and a server that asks for a longer one is not asked again.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
        }
    }
}

/// Why a try failed.
#[derive(Debug)]
pub enum Failure {
    /// Another try would fail too.
    Final(HubError),
    /// Another try may succeed.
    Passing {
        /// What happened.
        reason: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// A failure that may pass.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self::Passing {
            reason: reason.into(),
            retry_after: None,
        }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// The tries of one request.
#[derive(Debug)]
pub struct Tries {
    policy: RetryPolicy,
    done: u32,
}

impl Tries {
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, done: 0 }
    }

    /// There was progress: count anew.
    pub fn reset(&mut self) {
        self.done = 0;
    }

    /// Waits for the next try.
    ///
    /// # Errors
    /// When there is none.
    pub fn wait(&mut self, url: &str, failure: Failure) -> Result<()> {
        let (reason, retry_after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { reason, retry_after } => (reason, retry_after),
        };
        self.done += 1;
        let policy = self.policy;
        if let Some(wait) =
            retry_after.filter(|wait| *wait > policy.longest_wait || self.done >= policy.attempts)
        {
            let url = url.to_string();
            return Err(HubError::RateLimited { url, wait });
        }
        if self.done >= policy.attempts {
            return Err(HubError::Network {
                url: url.to_string(),
                attempts: self.done,
                reason,
            });
        }
        let wait = retry_after.unwrap_or_else(|| {
            let doubled = policy.first_wait.saturating_mul(1 << (self.done - 1).min(16));
            doubled.min(policy.longest_wait)
        });
        tracing::info!(url, reason, wait_secs = wait.as_secs_f32(), "trying again");
        std::thread::sleep(wait);
        Ok(())
    }
}
