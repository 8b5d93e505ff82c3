//! Paths, keys, limits and the life of the service.

use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::serve::Listener;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};
use tracing::Instrument;

use crate::api_error::ApiError;
use crate::chat::{self, json_response};
use crate::config::secs;
use crate::connections;
use crate::corrections;
use crate::error::Result;
use crate::openai::Shape;
use crate::page;
use crate::random::random;
use crate::service::{Service, Settings};
use crate::telemetry;

/// Serves at a [`PlainListener`](crate::PlainListener) or a [`TlsListener`](crate::TlsListener), until `stop` is done and the requests of then have ended, or `limits.shutdown_secs` have passed.
///
/// # Errors
/// When the listener fails.
pub async fn serve<L>(
    service: Service,
    listener: L,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let patience = secs(service.settings().config.limits.shutdown_secs);
    let (told, mut heard) = tokio::sync::watch::channel(false);
    let stopping = async move {
        stop.await;
        let _ = told.send(true);
    };
    tokio::select! {
        () = connections::serve(listener, service.clone(), stopping) => {}
        () = async {
            let _ = heard.wait_for(|stopped| *stopped).await;
            tokio::time::sleep(patience).await;
        } => tracing::warn!("requests were still being served after {} s and are given up", patience.as_secs_f64()),
    }
    service.background().close();
    if tokio::time::timeout(patience, service.background().wait())
        .await
        .is_err()
    {
        tracing::warn!("corrections behind answers are given up");
    }
    Ok(())
}

/// The paths of a service, to be mounted in a program of one's own.
pub fn router(service: Service) -> Router {
    Router::new().fallback(handle).with_state(service)
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Page,
    Health,
    Ready,
    About,
    Metrics,
    Models,
    Corrections,
    Answer(Shape),
    /// Anything else below `/v1/`, which the upstream may know.
    Other,
    Unknown,
}

impl Endpoint {
    fn of(method: &Method, path: &str) -> Self {
        let is_get = matches!(*method, Method::GET | Method::HEAD);
        match path {
            "/" | "/app.js" | "/style.css" | "/openapi.json" if is_get => Self::Page,
            "/health" if is_get => Self::Health,
            "/ready" if is_get => Self::Ready,
            "/metrics" if is_get => Self::Metrics,
            "/v1/aligner" if is_get => Self::About,
            "/v1/models" if is_get => Self::Models,
            "/v1/corrections" if method == Method::POST => Self::Corrections,
            "/v1/chat/completions" if method == Method::POST => Self::Answer(Shape::Chat),
            "/v1/completions" if method == Method::POST => Self::Answer(Shape::Completion),
            "/v1/corrections" | "/v1/chat/completions" | "/v1/completions" | "/v1/aligner" => Self::Unknown,
            // A path that climbs could leave the upstream's base URL.
            _ if path.starts_with("/v1/") && !climbs(path) => Self::Other,
            _ => Self::Unknown,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::About => "aligner",
            Self::Metrics => "metrics",
            Self::Models => "models",
            Self::Corrections => "corrections",
            Self::Answer(shape) => shape.endpoint(),
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }

    /// Whether a request needs a key, where there are keys.
    fn needs_key(self, settings: &Settings) -> bool {
        match self {
            Self::Page | Self::Health | Self::Ready | Self::About | Self::Unknown => false,
            Self::Metrics => settings.config.auth.protect_metrics,
            Self::Models | Self::Corrections | Self::Answer(_) | Self::Other => true,
        }
    }

    /// Whether it is work, of which only so much is done at once.
    fn is_work(self) -> bool {
        matches!(
            self,
            Self::Models | Self::Corrections | Self::Answer(_) | Self::Other
        )
    }
}

fn climbs(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    lower.split('/').any(|part| part == "..")
        || lower.contains("%2e")
        || lower.contains("%2f")
        || lower.contains('\\')
}

pub(crate) async fn handle(State(service): State<Service>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let settings = service.settings();
    let endpoint = Endpoint::of(request.method(), request.uri().path());
    let id = request_id(request.headers());
    let origin = allowed_origin(&settings, request.headers());
    let method = request.method().clone();
    let span = tracing::info_span!(
        "request",
        otel.name = endpoint.name(),
        otel.kind = "server",
        request.id = id,
        http.response.status_code = tracing::field::Empty,
        aligner.outcome = tracing::field::Empty,
    );
    telemetry::continue_from(&span, request.headers());
    let answered = match method == Method::OPTIONS && origin.is_some() {
        true => Ok(preflight()),
        false => {
            let answering = answer(&service, &settings, endpoint, &id, request);
            answering.instrument(span.clone()).await
        }
    };
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", value);
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let exposed =
            "x-request-id, x-aligner-mode, x-aligner-outcome, x-aligner-edit-ratio, x-aligner-added-ms";
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(exposed),
        );
    }
    let outcome = headers
        .get("x-aligner-outcome")
        .and_then(|outcome| outcome.to_str().ok());
    outcome.map(|outcome| span.record("aligner.outcome", outcome));
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    service.metrics().request(endpoint.name(), status);
    // No text of users: what was asked and answered is theirs.
    tracing::info!(
        request = id,
        endpoint = endpoint.name(),
        status,
        ms = started.elapsed().as_millis() as u64,
        "answered"
    );
    response
}

async fn answer(
    service: &Service,
    settings: &Settings,
    endpoint: Endpoint,
    id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if endpoint.needs_key(settings) && !settings.keys.allow(request.headers()) {
        return Err(ApiError::unauthorized());
    }
    let permit = match endpoint.is_work() {
        true => Some((settings.admit()?, service.metrics().in_flight())),
        false => None,
    };
    let response = match endpoint {
        Endpoint::Page => page::file(request.uri().path()).ok_or_else(unknown)?,
        Endpoint::Health => json_response(&json!({"status": "ok"})),
        // A service answers once its engine is there.
        Endpoint::Ready => json_response(&json!({"status": "ready", "model": service.engine().model()})),
        Endpoint::About => about(service, settings),
        Endpoint::Metrics => metrics(service),
        Endpoint::Models => models(service, settings, request.headers()).await,
        Endpoint::Corrections => {
            let body = read(settings, request.into_body()).await?;
            corrections::correct(service.clone(), id.to_string(), body).await?
        }
        Endpoint::Answer(shape) => {
            let (parts, body) = request.into_parts();
            let body = read(settings, body).await?;
            chat::answer(service.clone(), shape, id.to_string(), parts.headers, body).await?
        }
        Endpoint::Other => {
            let (parts, body) = request.into_parts();
            let body = read(settings, body).await?;
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let path = path.strip_prefix("/v1").unwrap_or(path);
            chat::pass(service, settings, parts.method, path, &parts.headers, body).await?
        }
        Endpoint::Unknown => return Err(unknown()),
    };
    // A stream is served until its last byte: the place is kept as long.
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &permit;
            frame
        }))
    }))
}

fn unknown() -> ApiError {
    ApiError::not_found("there is no such path, or it takes another method; /openapi.json lists them")
}

/// A request's body, within the limits of size and time.
async fn read(settings: &Settings, body: Body) -> Result<Bytes, ApiError> {
    let limits = &settings.config.limits;
    let whole = Limited::new(body, limits.max_body_bytes).collect();
    match tokio::time::timeout(secs(limits.body_secs), whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(limits.max_body_bytes)),
        Ok(Err(_)) => Err(ApiError::invalid("", "the body broke off")),
        Err(_) => Err(ApiError {
            status: StatusCode::REQUEST_TIMEOUT,
            ..ApiError::invalid(
                "",
                format!("the body was not there within {} s", limits.body_secs),
            )
        }),
    }
}

fn about(service: &Service, settings: &Settings) -> Response<Body> {
    json_response(&json!({
        "model": service.engine().model(),
        "mode": settings.config.mode,
        "upstream": settings.upstream.is_some(),
        "keys": !settings.keys.is_open(),
        "gate_holds_streams": settings.config.gate.holds(service.rewards().is_set()),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

fn metrics(service: &Service) -> Response<Body> {
    let mut response = Response::new(Body::from(service.metrics().render(service.engine().load())));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The upstream's models, and the Aligner.
async fn models(service: &Service, settings: &Settings, headers: &HeaderMap) -> Response<Body> {
    let mut models = Vec::new();
    if let Some(upstream) = &settings.upstream
        && let Ok(response) = upstream.send(Method::GET, "/models", headers, Bytes::new()).await
        && let Ok(bytes) = response.into_body().whole(upstream.max_answer_bytes).await
        && let Ok(mut list) = serde_json::from_slice::<Value>(&bytes)
        && let Some(Value::Array(data)) = list.get_mut("data").map(Value::take)
    {
        models = data;
    }
    models.push(json!({
        "id": service.engine().model(), "object": "model", "created": 0, "owned_by": "aligner",
    }));
    json_response(&json!({"object": "list", "data": models}))
}

/// A client's own id where it is a plain word, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |text: &&str| {
        (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let own = headers.get("x-request-id").and_then(|value| value.to_str().ok());
    own.filter(plain)
        .map_or_else(|| format!("{:016x}", random()), str::to_string)
}

fn allowed_origin(settings: &Settings, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let allowed = &settings.config.cors_origins;
    let known = allowed
        .iter()
        .any(|known| known == "*" || known.as_bytes() == origin.as_bytes());
    known.then(|| origin.clone())
}

fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization, content-type, x-request-id"),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_are_not_handed_on() {
        for path in [
            "/v1/../admin",
            "/v1/%2e%2e/admin",
            "/v1/a/..",
            "/v1/..%2fadmin",
            "/v1/a\\..\\b",
            "/admin",
        ] {
            assert_eq!(Endpoint::of(&Method::GET, path), Endpoint::Unknown, "{path}");
        }
        assert_eq!(Endpoint::of(&Method::POST, "/v1/embeddings"), Endpoint::Other);
        assert_eq!(Endpoint::of(&Method::GET, "/v1/models/a..b"), Endpoint::Other);
    }

    #[test]
    fn ids_that_could_break_a_log_are_not_taken() {
        let with = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_bytes(id).expect("a header"));
            request_id(&headers)
        };
        assert_eq!(with(b"abc-1.2_3"), "abc-1.2_3");
        for bad in [&b"a b"[..], b"a=\"b\"", b"\xff", "x".repeat(129).as_bytes()] {
            assert_eq!(with(bad).len(), 16);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
