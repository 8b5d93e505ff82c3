//! The upstream: where answers come from.

use axum::http::{HeaderMap, HeaderValue, Method, Response, header};
use bytes::Bytes;
use tracing::Instrument;

use crate::config::{UpstreamConfig, secs};
use crate::engine::bearer;
use crate::error::Result;
use crate::http_client::{Answer, HttpClient, HttpError};
use crate::telemetry;

/// Headers of a client's request that the upstream is told.
const HANDED_ON: [&str; 5] = [
    "content-type",
    "accept",
    "user-agent",
    "traceparent",
    "tracestate",
];

/// The upstream of a service. Its URL is configuration: no request chooses where it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    client: HttpClient,
    key: Option<HeaderValue>,
    hands_on_keys: bool,
    pub max_answer_bytes: usize,
}

impl Upstream {
    /// `hands_on_keys` says whether a client's own `Authorization` is meant for the upstream, where it has no key here.
    pub fn new(config: &UpstreamConfig, hands_on_keys: bool) -> Result<Self> {
        let client = HttpClient::new(
            "upstream.url",
            &config.url,
            secs(config.first_byte_secs),
            secs(config.idle_secs),
        )?;
        let key = match std::env::var(&config.api_key_env) {
            Ok(key) if !key.trim().is_empty() => Some(bearer("upstream.api_key_env", key.trim())?),
            _ => None,
        };
        Ok(Self {
            client,
            key,
            hands_on_keys,
            max_answer_bytes: config.max_answer_bytes,
        })
    }

    /// Sends a request below the upstream's base URL.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        asked_with: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Answer>, HttpError> {
        let span = tracing::info_span!("upstream", otel.kind = "client", url.path = path);
        let mut headers = self.headers(asked_with);
        span.in_scope(|| telemetry::tell(&mut headers));
        self.client
            .send(method, path, headers, body)
            .instrument(span)
            .await
    }

    fn headers(&self, asked_with: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in asked_with {
            if HANDED_ON.contains(&name.as_str()) || name.as_str().starts_with("openai-") {
                headers.append(name.clone(), value.clone());
            }
        }
        let own = asked_with.get(header::AUTHORIZATION);
        let key = self.key.as_ref().or(own.filter(|_| self.hands_on_keys));
        if let Some(key) = key {
            headers.insert(header::AUTHORIZATION, key.clone());
        }
        headers
    }
}
