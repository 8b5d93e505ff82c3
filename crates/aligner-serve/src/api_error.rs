//! Errors of a request, in OpenAI's shape.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::outcome::Outcome;

/// What a client is told: `{"error": {"message", "type", "param", "code"}}`, as a response or as a frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Status of the response.
    pub status: StatusCode,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error`, `upstream_error` or `server_error`.
    pub kind: &'static str,
    /// The field of the request, where one is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// What became of the answer, where that is why there is none.
    pub outcome: Option<Outcome>,
    /// After how many seconds another try makes sense.
    pub retry_after_secs: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            kind,
            param: None,
            code: Some(code),
            outcome: None,
            retry_after_secs: None,
        }
    }

    /// A request that is not understood.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self {
            param: (!param.is_empty()).then(|| param.to_string()),
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "invalid_value",
                message,
            )
        }
    }

    /// A key that is missing or unknown.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "invalid_api_key",
            "no valid API key: send it in the header Authorization, behind the word Bearer",
        )
    }

    /// A path that is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            "not_found",
            message,
        )
    }

    /// A body beyond the limit.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            "request_too_large",
            format!("the request's body is larger than {limit} bytes (limits.max_body_bytes)"),
        )
    }

    /// More requests than are allowed at once.
    pub fn busy(limit: usize) -> Self {
        Self {
            retry_after_secs: Some(1),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "too_many_requests",
                format!(
                    "as many requests as may be ({limit}, limits.max_requests) are being served: try again"
                ),
            )
        }
    }

    /// The upstream did not answer as it should.
    pub fn upstream(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "upstream_error",
            "upstream_failed",
            message,
        )
    }

    /// The upstream took too long.
    pub fn upstream_timeout(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_error",
            "upstream_timeout",
            message,
        )
    }

    /// The correction failed, and the policy forbids to serve the answer as it is.
    pub fn correction(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome: Some(outcome),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "server_error",
                outcome.as_str(),
                message,
            )
        }
    }

    /// The error as clients read it.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(outcome) = self.outcome {
            headers.insert("x-aligner-outcome", HeaderValue::from_static(outcome.as_str()));
        }
        if let Some(seconds) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
