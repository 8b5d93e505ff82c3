//! Answers that reach the client as the upstream gave them: with the Aligner off, and with corrections made behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use tracing::Instrument;

use super::{Exchange, hand_on, mark};
use crate::api_error::ApiError;
use crate::config::Mode;
use crate::http_client::{Answer, HttpError, Passing};
use crate::openai::Shape;
use crate::outcome::Outcome;
use crate::ruling::rule;
use crate::service::{Service, Settings};
use crate::sse::SseParser;

/// Hands a request on and its response back.
pub(super) async fn off(
    service: &Service,
    settings: &Settings,
    shape: Shape,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let mut response = pass(service, settings, Method::POST, shape.path(), headers, body).await?;
    mark(response.headers_mut(), Mode::Off, Some(Outcome::Off));
    Ok(response)
}

/// Hands any request on: path and body as they are.
pub(crate) async fn pass(
    service: &Service,
    settings: &Settings,
    method: Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let sent = settings.upstream()?.send(method, path, headers, body).await;
    let response = sent.map_err(|error| failed(service, &error))?;
    let service = service.clone();
    Ok(handed_on(response, move |passing| {
        if let Passing::Failed(error) = passing {
            service.metrics().upstream_error(error.kind());
        }
    }))
}

fn failed(service: &Service, error: &HttpError) -> ApiError {
    service.metrics().upstream_error(error.kind());
    let message = format!("the upstream failed: {error}");
    match error {
        HttpError::Timeout(_) => ApiError::upstream_timeout(message),
        _ => ApiError::upstream(message),
    }
}

/// Status, kind and body of a response; its other headers are the upstream's business.
fn handed_on(response: Response<Answer>, each: impl FnMut(Passing<'_>) + Send + 'static) -> Response<Body> {
    let (parts, answer) = response.into_parts();
    let mut response = Response::new(answer.into_body(each));
    *response.status_mut() = parts.status;
    hand_on(&parts.headers, response.headers_mut());
    response
}

/// The original reaches the client; its correction is made behind it, counted and recorded.
pub(super) async fn audit(exchange: Exchange) -> Result<Response<Body>, ApiError> {
    let response = match exchange.ask(exchange.asked.stream).await {
        Ok(response) => response,
        Err(failure) => return exchange.upstream_failed(failure),
    };
    let mode = exchange.mode;
    let mut listener = Listener::new(exchange);
    let mut response = handed_on(response, move |passing| listener.take(passing));
    mark(response.headers_mut(), mode, Some(Outcome::Audited));
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Reads along while an answer passes.
struct Listener {
    exchange: Exchange,
    parser: SseParser,
    /// The response so far, where it is no stream.
    body: Vec<u8>,
    most: usize,
    heard: usize,
    /// Text of each choice, and whether it calls tools.
    choices: BTreeMap<u64, (String, bool)>,
    model: Value,
    broken: bool,
}

impl Listener {
    fn new(exchange: Exchange) -> Self {
        let upstream = exchange.settings.upstream.as_ref();
        Self {
            most: upstream.map_or(0, |upstream| upstream.max_answer_bytes),
            exchange,
            parser: SseParser::default(),
            body: Vec::new(),
            heard: 0,
            choices: BTreeMap::new(),
            model: Value::Null,
            broken: false,
        }
    }

    fn take(&mut self, passing: Passing<'_>) {
        match passing {
            Passing::Failed(error) => self.exchange.service.metrics().upstream_error(error.kind()),
            Passing::Bytes(bytes) => {
                self.heard += bytes.len();
                self.broken |= self.heard > self.most;
                if !self.broken {
                    self.hear(bytes);
                }
            }
            Passing::End if self.broken => self.exchange.service.metrics().dropped(),
            Passing::End => self.end(),
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if !self.exchange.asked.stream {
            self.body.extend_from_slice(bytes);
            return;
        }
        let (shape, choices, model) = (self.exchange.asked.shape, &mut self.choices, &mut self.model);
        let fed = self.parser.feed(bytes, |event| {
            let Ok(chunk) = serde_json::from_str::<Value>(&event) else {
                return;
            };
            if model.is_null() {
                *model = chunk["model"].clone();
            }
            for choice in chunk["choices"].as_array().into_iter().flatten() {
                let (text, calls) = shape.delta(choice);
                let heard = choices.entry(choice["index"].as_u64().unwrap_or(0)).or_default();
                heard.0.push_str(text);
                heard.1 |= calls;
            }
        });
        self.broken |= fed.is_err();
    }

    fn end(&mut self) {
        let shape = self.exchange.asked.shape;
        if !self.exchange.asked.stream {
            let Ok(response) = serde_json::from_slice::<Value>(&self.body) else {
                return self.exchange.service.metrics().upstream_error("malformed");
            };
            self.model = response["model"].clone();
            for (index, choice) in (0..).zip(response["choices"].as_array().into_iter().flatten()) {
                let guarded = shape.guarded(choice, false);
                let heard = (guarded.answer.to_string(), guarded.calls_tools);
                self.choices.insert(index, heard);
            }
        }
        let (exchange, model) = (self.exchange.clone(), self.model.clone());
        let answers = std::mem::take(&mut self.choices).into_values().collect();
        behind(exchange, answers, model);
    }
}

/// Corrects answers that have been served.
fn behind(exchange: Exchange, answers: Vec<(String, bool)>, model: Value) {
    let Some(permit) = exchange.settings.admit_background() else {
        exchange.service.metrics().dropped();
        return;
    };
    let service = exchange.service.clone();
    let exchange = Arc::new(exchange);
    let work = async move {
        let _permit = permit;
        for (index, (answer, calls_tools)) in answers.into_iter().enumerate() {
            let choice = json!({"index": index});
            let mut case = exchange.case(&choice);
            case.guarded.answer = &answer;
            case.guarded.calls_tools = calls_tools;
            match rule(&exchange.service, &exchange.settings, case, None).await {
                Ok(ruling) => {
                    tracing::info!(
                        request = exchange.request_id,
                        outcome = ruling.outcome.as_str(),
                        edit_ratio = ruling.edit_ratio,
                        "audited"
                    );
                    exchange.shadow(&ruling, &answer, &model);
                }
                Err(error) => tracing::warn!(request = exchange.request_id, error.message, "audit failed"),
            }
        }
    };
    service.background().spawn(work.in_current_span());
}
