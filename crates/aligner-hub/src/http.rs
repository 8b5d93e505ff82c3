//! Requests to the Hub: the token to the endpoint alone, redirects followed by hand, answers turned into errors.

use std::time::Duration;

use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderName, HeaderValue, LOCATION, RANGE,
    RETRY_AFTER,
};
use ureq::http::{StatusCode, Uri};
use ureq::{Agent, Body};

use crate::config::HubConfig;
use crate::error::{HubError, Result};
use crate::model_ref::ModelRef;
use crate::retry::{Failure, RetryPolicy, Tries};

pub type Response = ureq::http::Response<Body>;

const USER_AGENT: &str = concat!("aligner-hub/", env!("CARGO_PKG_VERSION"), "; rust/unknown");
const MAX_REDIRECTS: usize = 10;
const CONNECT_SECS: u64 = 15;
/// A server that sends nothing for this long has gone.
const SILENCE_SECS: u64 = 30;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub model: &'a ModelRef,
    /// The file, when it is about one.
    pub file: Option<&'a str>,
    pub url: &'a str,
    pub kind: Kind,
}

/// How it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The headers of the Hub itself: a redirect to another host, where the file's bytes lie, is not followed.
    Head,
    /// The body from this byte on.
    Get {
        /// Bytes that are here already.
        from: u64,
    },
}

/// A client of one Hub.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    endpoint: String,
    origin: Option<Origin>,
    authorization: Option<HeaderValue>,
    retry: RetryPolicy,
}

impl Client {
    /// A client for a configuration.
    ///
    /// # Errors
    /// When the token cannot be sent.
    pub fn new(config: &HubConfig) -> Result<Self> {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(USER_AGENT)
            .timeout_connect(Some(Duration::from_secs(CONNECT_SECS)))
            .timeout_per_read(Some(Duration::from_secs(SILENCE_SECS)))
            .build();
        let authorization = config.token.as_ref().map(|token| {
            let header = HeaderValue::try_from(token.header());
            header.map(|mut header| {
                header.set_sensitive(true);
                header
            })
        });
        Ok(Self {
            agent: agent.into(),
            endpoint: config.endpoint.clone(),
            origin: config.endpoint.parse().ok().as_ref().and_then(Origin::of),
            authorization: authorization.transpose().map_err(|_| HubError::Environment {
                variable: "HF_TOKEN".into(),
                reason: "it cannot be sent in a header".into(),
            })?,
            retry: config.retry,
        })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn tries(&self) -> Tries {
        Tries::new(self.retry)
    }

    /// Asks, and asks again when it failed for a passing reason.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn send(&self, request: &Request<'_>) -> Result<Response> {
        let mut tries = self.tries();
        loop {
            match self.try_once(request) {
                Ok(response) => return Ok(response),
                Err(failure) => tries.wait(request.url, failure)?,
            }
        }
    }

    /// Asks for a whole body of at most so many bytes, again when it failed for a passing reason.
    ///
    /// # Errors
    /// When there is no good answer.
    pub fn read(&self, request: &Request<'_>, limit_bytes: u64) -> Result<Vec<u8>> {
        let mut tries = self.tries();
        loop {
            let body = self.try_once(request).and_then(|response| {
                let body = response.into_body().into_with_config().limit(limit_bytes);
                body.read_to_vec().map_err(|error| passing(&error))
            });
            match body {
                Ok(body) => return Ok(body),
                Err(failure) => tries.wait(request.url, failure)?,
            }
        }
    }

    /// Asks once, following redirects. A good answer has a status of 2xx, 3xx for [`Kind::Head`], or 416.
    pub fn try_once(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let mut url = parse(request.url, request.url)?;
        for _ in 0..MAX_REDIRECTS {
            let response = self.one(&url, request.kind).map_err(|error| passing(&error))?;
            if !response.status().is_redirection() {
                return self.checked(request, response);
            }
            let next = redirect(&url, &response, request.url)?;
            // A redirect within the Hub is a repository that was renamed; another host is where large files lie.
            if request.kind == Kind::Head && Origin::of(&next) != self.origin {
                return Ok(response);
            }
            if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(malformed(request.url, "it redirects from https to http").into());
            }
            url = next;
        }
        Err(malformed(request.url, "it redirects in circles").into())
    }

    fn one(&self, url: &Uri, kind: Kind) -> Result<Response, ureq::Error> {
        let mut call = match kind {
            Kind::Head => self.agent.head(url.clone()),
            Kind::Get { .. } => self.agent.get(url.clone()),
        };
        // Sizes and hashes are those of the file as it is.
        call = call.header(ACCEPT_ENCODING, "identity");
        if let Kind::Get { from: from @ 1.. } = kind {
            call = call.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(authorization) = &self.authorization
            && self.origin.is_some()
            && Origin::of(url) == self.origin
        {
            call = call.header(AUTHORIZATION, authorization.clone());
        }
        call.call()
    }

    fn checked(&self, request: &Request<'_>, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        let passes = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        if passes {
            return Err(Failure::Passing {
                reason: format!("the server answers {status}"),
                retry_after: header(&response, &RETRY_AFTER)
                    .and_then(|text| text.trim().parse().ok())
                    .map(Duration::from_secs),
            });
        }
        Err(self.refusal(request, &response).into())
    }

    /// The Hub says in a header of its own what its status is about.
    fn refusal(&self, request: &Request<'_>, response: &Response) -> HubError {
        let code = header(response, &HeaderName::from_static("x-error-code")).unwrap_or_default();
        let (model, status) = (request.model.to_string(), response.status().as_u16());
        let page = format!("{}/{}", self.endpoint, request.model.id());
        let token_sent = self.authorization.is_some();
        match (status, code) {
            (401 | 403, "GatedRepo") => HubError::Gated {
                model,
                status,
                page,
                token_sent,
            },
            (401 | 403, _) => HubError::NoAccess {
                model,
                status,
                page,
                token_sent,
            },
            (404 | 410, code) => HubError::NotFound {
                what: match (code, request.file) {
                    ("RepoNotFound", _) => format!("the repository {}", request.model.id()),
                    ("RevisionNotFound", _) => {
                        format!("revision {} of {}", request.model.revision(), request.model.id())
                    }
                    (_, Some(file)) => format!("{file} of {model}"),
                    (_, None) => model,
                },
                url: request.url.to_string(),
            },
            _ => malformed(request.url, &format!("the server answers {}", response.status())),
        }
    }
}

/// A header's text.
pub fn header<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Size of a whole body, as its headers say it.
pub fn content_length(response: &Response) -> Option<u64> {
    header(response, &CONTENT_LENGTH)?.trim().parse().ok()
}

/// The first byte of a partial body.
pub fn range_start(response: &Response) -> Option<u64> {
    let range = header(response, &CONTENT_RANGE)?.trim().strip_prefix("bytes ")?;
    range.split_once('-')?.0.parse().ok()
}

/// A connection that broke: it may hold the next time.
fn passing(error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::HostNotFound => Failure::passing("the host is not known; is there a network?"),
        error => Failure::passing(error.to_string()),
    }
}

pub fn malformed(url: &str, reason: &str) -> HubError {
    HubError::Response {
        url: url.to_string(),
        reason: reason.to_string(),
    }
}

fn parse(url: &str, shown: &str) -> Result<Uri> {
    url.parse()
        .map_err(|_| malformed(shown, "it is not an address that can be asked"))
}

/// Where an answer sends us. Its address is not shown in messages: it is signed, like a password.
fn redirect(from: &Uri, response: &Response, shown: &str) -> Result<Uri> {
    let target = header(response, &LOCATION).ok_or_else(|| malformed(shown, "it redirects to nowhere"))?;
    let scheme = from.scheme_str().unwrap_or("https");
    let host = from.authority().map(ToString::to_string).unwrap_or_default();
    if target.starts_with("https://") || target.starts_with("http://") {
        parse(target, shown)
    } else if target.starts_with("//") {
        parse(&format!("{scheme}:{target}"), shown)
    } else if target.starts_with('/') {
        parse(&format!("{scheme}://{host}{target}"), shown)
    } else {
        Err(malformed(
            shown,
            "it redirects to something that is not an address",
        ))
    }
}

/// What must be the same for the token to be sent.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Uri) -> Option<Self> {
        let scheme = url.scheme_str()?.to_ascii_lowercase();
        let port = match (url.port_u16(), scheme.as_str()) {
            (Some(port), _) => port,
            (None, "https") => 443,
            (None, _) => 80,
        };
        Some(Self {
            scheme,
            host: url.host()?.to_ascii_lowercase(),
            port,
        })
    }
}
