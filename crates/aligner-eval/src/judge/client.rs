//! Calls of a judge.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{HeaderValue, StatusCode};

use super::config::{ApiKey, JudgeConfig};
use super::pace::Pace;
use super::reply::{self, Reply};
use crate::error::Result;

const USER_AGENT: &str = concat!("aligner-eval/", env!("CARGO_PKG_VERSION"));
/// A reply is some kilobytes.
const MOST_BYTES: u64 = 16 << 20;

/// Sends calls to one endpoint. Its errors are texts: who calls knows the row they belong to.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    url: String,
    /// The URL as errors show it.
    pub shown: String,
    authorization: Option<HeaderValue>,
    key: Option<ApiKey>,
    retries: u32,
    first_wait: Duration,
    longest_wait: Duration,
}

/// Why a call failed.
enum Failure {
    /// It would fail again.
    Final(String),
    /// It may not, after the time that the server asks for.
    Passing(String, Option<Duration>),
}

impl Client {
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &JudgeConfig) -> Result<Self> {
        let (url, shown) = config.endpoint()?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // The key is for this server alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .max_idle_connections_per_host(config.parallel)
            .timeout_global(Some(config.timeout))
            .build();
        Ok(Self {
            agent: agent.into(),
            url,
            shown,
            authorization: config.api_key.as_ref().and_then(ApiKey::header),
            key: config.api_key.clone(),
            retries: config.retries,
            first_wait: config.first_wait,
            longest_wait: config.longest_wait,
        })
    }

    /// Asks, and asks again when it failed for a passing reason; `None` when `pace` was stopped.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn ask(&self, body: &str, pace: &Pace) -> Result<Option<Reply>, String> {
        let mut retries = 0;
        loop {
            if !pace.take() {
                return Ok(None);
            }
            match self.once(body) {
                Ok(reply) => return Ok(Some(Reply { retries, ..reply })),
                Err(Failure::Final(reason)) => return Err(self.redacted(&reason)),
                Err(Failure::Passing(reason, retry_after)) => {
                    let reason = self.redacted(&reason);
                    self.wait(retries, &reason, retry_after, pace)?;
                    retries += 1;
                }
            }
        }
    }

    /// Waits for the next try; an error where there is none.
    fn wait(
        &self,
        retries: u32,
        reason: &str,
        retry_after: Option<Duration>,
        pace: &Pace,
    ) -> Result<(), String> {
        if retries >= self.retries {
            return Err(format!("{reason}; tried {} times", u64::from(retries) + 1));
        }
        if let Some(wait) = retry_after.filter(|wait| *wait > self.longest_wait) {
            let (wait, most) = (wait.as_secs_f64(), self.longest_wait.as_secs_f64());
            return Err(format!(
                "{reason}; it asks to wait {wait} s, which is more than {most} s: run it again later"
            ));
        }
        let doubled = self
            .first_wait
            .saturating_mul(1 << retries.min(16))
            .min(self.longest_wait);
        // Behind the colon are the server's words, which may repeat the texts.
        let failed = reason.split(':').next();
        tracing::info!(url = self.shown, failed, "the judge is asked again");
        match retry_after {
            // The limit is one of the account: nobody else would get through meanwhile. A server that always asks for nothing is
            // not asked all the time.
            Some(wait) => pace.hold(wait.max(doubled)),
            None => pace.sleep(doubled),
        }
        Ok(())
    }

    fn once(&self, body: &str) -> Result<Reply, Failure> {
        let broken = |error: ureq::Error| Failure::Passing(format!("no answer: {error}"), None);
        let mut call = self
            .agent
            .post(&self.url)
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            call = call.header(AUTHORIZATION, authorization.clone());
        }
        let response = call.send(body).map_err(broken)?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
        let bytes = response
            .into_body()
            .into_with_config()
            .limit(MOST_BYTES)
            .read_to_vec()
            .map_err(broken)?;
        let text = String::from_utf8_lossy(&bytes);
        let json: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() {
            // Proxies answer 200 with an error of the model behind them.
            return Reply::parse(&json).ok_or_else(|| {
                Failure::Passing(
                    format!("its answer is no chat completion: {}", reply::message(&text)),
                    None,
                )
            });
        }
        let reason = format!("the server answers {status}: {}", reply::message(&text));
        let passes = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        if passes && !reply::is_out_of_quota(&json) {
            return Err(Failure::Passing(reason, retry_after));
        }
        Err(Failure::Final(format!("{reason}{}", self.hint(status))))
    }

    fn hint(&self, status: StatusCode) -> &'static str {
        match status.as_u16() {
            401 | 403 if self.key.is_none() => " (no key was given)",
            401 | 403 => " (is the key the right one?)",
            404 => " (is the URL the base of the API, and the model served there?)",
            300..=399 => " (redirects are not followed: give the URL it leads to)",
            _ => "",
        }
    }

    fn redacted(&self, text: &str) -> String {
        self.key
            .as_ref()
            .map_or_else(|| text.to_string(), |key| key.redacted(text))
    }
}

/// `Retry-After` in seconds. A date is left to the doubled waits.
fn seconds(header: &HeaderValue) -> Option<Duration> {
    let seconds: f64 = header.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
