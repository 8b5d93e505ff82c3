//! Who judges, and how they are asked.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ureq::http::{HeaderValue, Uri};

use crate::error::{EvalError, Result};
use crate::row::Dimension;

/// Who judges, and how they are asked.
#[derive(Debug, Clone)]
pub struct JudgeConfig {
    /// The base URL of an OpenAI-compatible API, such as `https://api.openai.com/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// The key, where one is needed.
    pub api_key: Option<ApiKey>,
    /// What is asked about, each in calls of its own.
    pub dimensions: Vec<Dimension>,
    /// Calls at a time.
    pub parallel: usize,
    /// No more calls are begun in a minute, retries included; they are spread evenly.
    pub requests_per_minute: Option<u32>,
    /// Most tokens of a reply, sent as `max_tokens`. A reply that reaches it is not read.
    pub max_tokens: u32,
    /// 0 is the most repeatable.
    pub temperature: f64,
    /// Whether the rubric is a message of the role `system`. Some models know none; then it leads the only message.
    pub has_system_role: bool,
    /// Further fields of the request, or others in place of `max_tokens` and `temperature`; `null` leaves a field out. So
    /// a model that refuses `max_tokens` is asked with `{"max_tokens": null, "max_completion_tokens": 1024}`.
    pub extra: Map<String, Value>,
    /// How long one call may take.
    pub timeout: Duration,
    /// How often a call is tried again after a 429, a 5xx or a broken connection.
    pub retries: u32,
    /// The wait before the first retry; each next one is twice as long.
    pub first_wait: Duration,
    /// No wait is longer; a server that asks for a longer one ends the run.
    pub longest_wait: Duration,
    /// What tokens cost, for the estimate.
    pub price: Option<Price>,
}

/// What a million tokens cost, in any currency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// A million tokens of prompts.
    pub prompt_per_million: f64,
    /// A million tokens of replies.
    pub completion_per_million: f64,
}

/// An API key. It is read from the environment alone, and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key in a variable of the environment.
    ///
    /// # Errors
    /// When the variable is not set, is empty, or holds what no header can.
    pub fn from_env(variable: &str) -> Result<Self> {
        let refuse =
            |reason: &str| EvalError::Invalid(format!("{variable}, where the judge's key is, {reason}"));
        let key = match std::env::var(variable) {
            Ok(key) => key.trim().to_string(),
            Err(std::env::VarError::NotPresent) => return Err(refuse("is not set: export it")),
            Err(std::env::VarError::NotUnicode(_)) => return Err(refuse("is not UTF-8: set it anew")),
        };
        if key.is_empty() {
            return Err(refuse("is empty: set it"));
        }
        let key = Self(key);
        match key.header() {
            Some(_) => Ok(key),
            None => Err(refuse("has characters that no header can hold: set it anew")),
        }
    }

    /// As a header's value, which is kept out of logs.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut header = HeaderValue::try_from(format!("Bearer {}", self.0)).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// A text without the key: some servers repeat it in their errors.
    pub(super) fn redacted(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

impl JudgeConfig {
    /// A judge that is asked about all dimensions, four calls at a time, without a key.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            api_key: None,
            dimensions: vec![Dimension::Helpful, Dimension::Harmless, Dimension::Honest],
            parallel: 4,
            requests_per_minute: None,
            max_tokens: 1024,
            temperature: 0.0,
            has_system_role: true,
            extra: Map::new(),
            timeout: Duration::from_secs(120),
            retries: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(300),
            price: None,
        }
    }

    /// The most tokens of one reply, as the request says it; `None` where it leaves that to the server.
    pub(super) fn most_completion_tokens(&self) -> Option<u64> {
        let named = ["max_completion_tokens", "max_tokens"].map(|name| self.extra.get(name));
        let limit = named.into_iter().flatten().find_map(Value::as_u64);
        let is_left_out = named[1].is_some_and(Value::is_null);
        limit.or_else(|| (!is_left_out).then_some(u64::from(self.max_tokens)))
    }

    /// Where calls go, and how that is shown: without a query, which may hold a secret.
    pub(super) fn endpoint(&self) -> Result<(String, String)> {
        let (base, query) = match self.url.split_once('?') {
            Some((base, query)) => (base, Some(query)),
            None => (self.url.as_str(), None),
        };
        let base = base.trim_end_matches('/');
        let uri: Option<Uri> = base.parse().ok();
        let authority = uri.as_ref().and_then(Uri::authority);
        if authority.is_some_and(|authority| authority.as_str().contains('@')) {
            let reason =
                "the judge's URL holds a user or a password: give the key in a variable of the environment";
            return Err(EvalError::Invalid(reason.into()));
        }
        let is_http = uri
            .as_ref()
            .is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        if !is_http || authority.is_none() {
            let reason = "the judge's URL is none: give the base of an OpenAI-compatible API, such as \
                          http://127.0.0.1:8000/v1";
            return Err(EvalError::Invalid(reason.into()));
        }
        let shown = match base.ends_with("/chat/completions") {
            true => base.to_string(),
            false => format!("{base}/chat/completions"),
        };
        let url = query.map_or_else(|| shown.clone(), |query| format!("{shown}?{query}"));
        Ok((url, shown))
    }

    /// # Errors
    /// When a setting makes no sense.
    pub(super) fn check(&self) -> Result<()> {
        let price = self.price.map_or([0.0; 2], |price| {
            [price.prompt_per_million, price.completion_per_million]
        });
        let ours = ["model", "messages", "stream", "n"];
        let taken = ours.into_iter().find(|name| self.extra.contains_key(*name));
        let mut dimensions = self.dimensions.clone();
        dimensions.sort_unstable();
        dimensions.dedup();
        let wrong = [
            (self.model.trim().is_empty(), "the judge's model has no name"),
            (
                self.dimensions.is_empty(),
                "the judge is asked about nothing: name a dimension",
            ),
            (
                dimensions.len() < self.dimensions.len(),
                "a dimension is named twice",
            ),
            (self.parallel == 0, "a judge needs at least one call at a time"),
            (
                self.requests_per_minute == Some(0),
                "0 requests a minute never end: leave the limit out",
            ),
            (self.max_tokens == 0, "a judge that may say 0 tokens says nothing"),
            (
                self.timeout.is_zero(),
                "a judge that may take no time says nothing",
            ),
            (
                !self.temperature.is_finite() || self.temperature < 0.0,
                "the temperature is a number from 0 up",
            ),
            (
                price.iter().any(|price| !price.is_finite() || *price < 0.0),
                "a price is a number from 0 up",
            ),
        ];
        if let Some((_, reason)) = wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            return Err(EvalError::Invalid(reason.into()));
        }
        if let Some(name) = taken {
            let reason = format!("{name:?} of a request cannot be set from outside: the judge sets it");
            return Err(EvalError::Invalid(reason));
        }
        self.endpoint().map(|_| ())
    }
}
