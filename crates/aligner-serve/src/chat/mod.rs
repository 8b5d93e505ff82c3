//! Chat completions and completions: an upstream's answers, corrected.

mod buffer;
mod passing;
mod sentence;
mod upstream_stream;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

use tracing::Instrument;

use crate::api_error::ApiError;
use crate::config::{Action, Mode};
use crate::http_client::{Answer, HttpError};
use crate::openai::{Asked, ChunkHead, Shape};
use crate::outcome::Outcome;
use crate::random::seed_of;
use crate::ruling::{Case, Ruling, Wishes, millis};
use crate::service::{Service, Settings};
use crate::sse;

pub(crate) use passing::pass;

/// Frames of a stream that wait for a reader.
const FRAMES: usize = 64;

/// One request, and what it needs to be answered; cheap to clone.
#[derive(Clone)]
pub(crate) struct Exchange {
    pub service: Service,
    pub settings: Arc<Settings>,
    pub asked: Arc<Asked>,
    pub mode: Mode,
    pub headers: HeaderMap,
    pub request_id: String,
    pub started: Instant,
}

/// Answers a request of either shape.
pub(crate) async fn answer(
    service: Service,
    shape: Shape,
    request_id: String,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let settings = service.settings();
    settings.upstream()?;
    // With the Aligner off and no word of it in the request, nothing needs to be understood.
    if settings.config.mode == Mode::Off && !mentions_aligner(&body) {
        return passing::off(&service, &settings, shape, &headers, body).await;
    }
    let asked = Asked::read(shape, &body)?;
    let exchange = Exchange {
        mode: asked.extension.mode.unwrap_or(settings.config.mode),
        asked: Arc::new(asked),
        service,
        settings,
        headers,
        request_id,
        started: Instant::now(),
    };
    match (exchange.mode, exchange.asked.stream) {
        (Mode::Off, _) => {
            let Exchange {
                service,
                settings,
                headers,
                ..
            } = &exchange;
            let body = exchange.asked.upstream_body(exchange.asked.stream).into();
            passing::off(service, settings, shape, headers, body).await
        }
        (Mode::Audit, _) => passing::audit(exchange).await,
        (Mode::Sentence, true) => sentence::stream(exchange).await,
        (_, true) => buffer::stream(exchange).await,
        (_, false) => buffer::whole(exchange).await,
    }
}

fn mentions_aligner(body: &[u8]) -> bool {
    let word = b"\"aligner\"";
    body.windows(word.len()).any(|window| window == word)
}

/// Why there is no answer of the upstream.
#[derive(Debug)]
enum UpstreamFailure {
    Http(HttpError),
    /// It answered with an error of its own.
    Status(StatusCode, Box<HeaderMap>, Bytes),
    Malformed(String),
}

impl Exchange {
    fn case<'a>(&'a self, choice: &'a Value) -> Case<'a> {
        Case {
            mode: self.mode,
            question: &self.asked.question,
            chat_history: &self.asked.chat_history,
            guarded: self.asked.shape.guarded(choice, self.asked.wants_json),
            before: "",
            stops: &self.asked.stops,
            wishes: Wishes {
                seed: seed_of(self.asked.seed, choice["index"].as_u64().unwrap_or(0)),
                ..Wishes::default()
            },
        }
    }

    /// Asks the upstream; a response that is a success.
    async fn ask(&self, stream: bool) -> Result<Response<Answer>, UpstreamFailure> {
        self.ask_with(self.asked.upstream_body(stream)).await
    }

    /// Asks the upstream to go on from the beginning of an answer.
    async fn ask_on(&self, begun: &str) -> Result<Response<Answer>, UpstreamFailure> {
        self.ask_with(self.asked.upstream_body_from(begun)).await
    }

    async fn ask_with(&self, body: Vec<u8>) -> Result<Response<Answer>, UpstreamFailure> {
        let body = body.into();
        let upstream = self
            .settings
            .upstream()
            .map_err(|error| UpstreamFailure::Malformed(error.message))?;
        let sent = upstream.send(Method::POST, self.asked.shape.path(), &self.headers, body);
        let response = sent.await.map_err(UpstreamFailure::Http)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let headers = Box::new(response.headers().clone());
        let body = response.into_body().whole(1 << 20).await;
        Err(UpstreamFailure::Status(status, headers, body.unwrap_or_default()))
    }

    /// Asks the upstream for a whole response with choices.
    async fn ask_whole(&self) -> Result<Value, UpstreamFailure> {
        let most = self
            .settings
            .upstream
            .as_ref()
            .map_or(0, |upstream| upstream.max_answer_bytes);
        let bytes = self
            .ask(false)
            .await?
            .into_body()
            .whole(most)
            .await
            .map_err(UpstreamFailure::Http)?;
        let response: Value = serde_json::from_slice(&bytes)
            .map_err(|error| UpstreamFailure::Malformed(format!("its answer is no JSON: {error}")))?;
        let choices = response["choices"].as_array();
        if !choices.is_some_and(|choices| choices.iter().all(Value::is_object)) {
            let reason = "its answer has no choices, or one that is no object";
            return Err(UpstreamFailure::Malformed(reason.into()));
        }
        Ok(response)
    }

    /// What a client gets when the upstream fails, by the policy.
    fn upstream_failed(&self, failure: UpstreamFailure) -> Result<Response<Body>, ApiError> {
        let metrics = self.service.metrics();
        metrics.outcome(Outcome::UpstreamFailed);
        let (kind, error) = match &failure {
            UpstreamFailure::Http(error @ HttpError::Timeout(_)) => (
                error.kind(),
                ApiError::upstream_timeout(format!("the upstream failed: {error}")),
            ),
            UpstreamFailure::Http(error) => (
                error.kind(),
                ApiError::upstream(format!("the upstream failed: {error}")),
            ),
            UpstreamFailure::Malformed(reason) => (
                "malformed",
                ApiError::upstream(format!("the upstream failed: {reason}")),
            ),
            UpstreamFailure::Status(status, ..) => (
                "status",
                ApiError::upstream(format!("the upstream answered with status {status}")),
            ),
        };
        metrics.upstream_error(kind);
        tracing::warn!(request = self.request_id, kind, "upstream failed");
        let mut response = match (self.settings.config.policy.upstream_fails, failure) {
            (Action::Block, _) => self.blocked(),
            (Action::Original, UpstreamFailure::Status(status, headers, body)) => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = status;
                hand_on(&headers, response.headers_mut());
                response
            }
            (Action::Original | Action::Error, _) => {
                use axum::response::IntoResponse;
                error.into_response()
            }
        };
        mark(response.headers_mut(), self.mode, Some(Outcome::UpstreamFailed));
        Ok(response)
    }

    /// A response of the fixed text alone.
    fn blocked(&self) -> Response<Body> {
        let text = &self.settings.config.policy.block_text;
        let head = ChunkHead {
            shape: self.asked.shape,
            id: format!("chatcmpl-{}", self.request_id).into(),
            created: unix_time().into(),
            model: self.asked.body.get("model").cloned().unwrap_or(Value::Null),
        };
        let report = json!({"mode": self.mode, "outcome": Outcome::UpstreamFailed, "served": "block"});
        if self.asked.stream {
            let mut end = head.end(0, "content_filter".into());
            end["aligner"] = report;
            let frames: Vec<Bytes> = head
                .role(0)
                .into_iter()
                .chain([head.text(0, text), end])
                .map(|chunk| sse::frame(&chunk))
                .chain([sse::done()])
                .collect();
            return event_stream(Body::from(frames.concat()));
        }
        let (object, choice) = match self.asked.shape {
            Shape::Chat => (
                "chat.completion",
                json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "content_filter"}),
            ),
            Shape::Completion => (
                "text_completion",
                json!({"index": 0, "text": text, "finish_reason": "content_filter"}),
            ),
        };
        json_response(&json!({
            "id": head.id, "object": object, "created": head.created, "model": head.model, "choices": [choice], "aligner": report,
        }))
    }

    /// The `aligner` object of a response or a last chunk.
    fn report(&self, ruling: &Ruling, original: &str) -> Map<String, Value> {
        let mut report = Map::new();
        report.insert("mode".into(), self.mode.as_str().into());
        report.insert("model".into(), self.service.engine().model().into());
        report.append(&mut ruling.report(self.asked.extension.edits));
        report.insert("total_ms".into(), millis(self.started.elapsed()).into());
        if self.asked.extension.include_original {
            report.insert("original".into(), original.into());
        }
        report
    }

    /// Hands a row to the shadow file, where there is a correction.
    fn shadow(&self, ruling: &Ruling, answer: &str, upstream_model: &Value) {
        if !matches!(ruling.outcome, Outcome::Corrected | Outcome::Unchanged) {
            return;
        }
        self.service.write_shadow(|| {
            let mut row = json!({
                "question": self.asked.question,
                "answer": answer,
                "correction": ruling.text,
            });
            if !self.asked.chat_history.is_empty() {
                row["chat_history"] = json!(self.asked.chat_history);
            }
            row["aligner"] = json!({
                "request_id": self.request_id,
                "created": unix_time(),
                "mode": self.mode,
                "outcome": ruling.outcome,
                "edit_ratio": ruling.edit_ratio,
                "model": self.service.engine().model(),
                "upstream_model": upstream_model,
            });
            row
        });
    }

    /// A stream of frames that `write` sends; it is dropped when nobody reads any more, and with it what it waits for.
    fn streaming<F>(self, write: impl FnOnce(Self, Sender<Bytes>) -> F) -> Response<Body>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (frames, body) = channel(FRAMES);
        let mode = self.mode;
        let gone = frames.clone();
        let work = write(self, frames);
        let task = async move {
            tokio::select! {
                () = work => {}
                () = gone.closed() => {}
            }
        };
        tokio::spawn(task.in_current_span());
        let body =
            tokio_stream::StreamExt::map(ReceiverStream::new(body), Ok::<Bytes, std::convert::Infallible>);
        let mut response = event_stream(Body::from_stream(body));
        mark(response.headers_mut(), mode, None);
        response
    }
}

/// Hands on what of an upstream's headers is a client's business.
fn hand_on(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [
        header::CONTENT_TYPE,
        header::RETRY_AFTER,
        header::CONTENT_ENCODING,
    ] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}

/// Marks a response with how and with what end its answer was corrected.
pub(crate) fn mark(headers: &mut HeaderMap, mode: Mode, outcome: Option<Outcome>) {
    headers.insert("x-aligner-mode", HeaderValue::from_static(mode.as_str()));
    if let Some(outcome) = outcome {
        headers.insert("x-aligner-outcome", HeaderValue::from_static(outcome.as_str()));
    }
}

/// A response of JSON.
pub(crate) fn json_response(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response of server-sent events, which no proxy should hold back.
pub(crate) fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
