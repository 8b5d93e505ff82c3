//! Requests to other servers: the upstream, and a remote engine.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::error::{Result, ServeError};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Sends requests below one base URL; connections are kept.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    first_byte: Duration,
    idle: Duration,
}

/// Why there is no response, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Timeout(String),
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl HttpError {
    /// Its word in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Failed(_) => "connection",
            Self::Timeout(_) => "timeout",
            Self::TooLarge(_) => "too_large",
        }
    }
}

impl HttpClient {
    /// A client below `base`, an `http` or `https` URL.
    pub fn new(name: &'static str, base: &str, first_byte: Duration, idle: Duration) -> Result<Self> {
        let base = base.trim_end_matches('/').to_string();
        let refuse = |reason: String| ServeError::Setting { name, reason };
        let uri: Uri = base
            .parse()
            .map_err(|error| refuse(format!("{base:?} is no URL: {error}")))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            let reason = format!("{base:?} is no URL such as http://127.0.0.1:8000/v1");
            return Err(refuse(reason));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            base,
            first_byte,
            idle,
        })
    }

    /// The base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request and waits for the head of the response.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Answer>, HttpError> {
        let failed = |error: &dyn std::fmt::Display| HttpError::Failed(error.to_string());
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = format!("{}{path}", self.base)
            .parse()
            .map_err(|error: axum::http::uri::InvalidUri| failed(&error))?;
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        let response = tokio::time::timeout(self.first_byte, self.client.request(request))
            .await
            .map_err(|_| {
                let seconds = self.first_byte.as_secs_f64();
                HttpError::Timeout(format!("it did not begin to answer within {seconds} s"))
            })?
            .map_err(|error| failed(&Chain(&error)))?;
        Ok(response.map(|body| Answer {
            body: Body::new(body),
            idle: self.idle,
        }))
    }
}

/// An error with its causes: the outermost alone says "client error".
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// A response's body, piece by piece.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    idle: Duration,
}

impl Answer {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame())
                .await
                .map_err(|_| {
                    let seconds = self.idle.as_secs_f64();
                    HttpError::Timeout(format!("nothing came from it for {seconds} s"))
                })?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(HttpError::Failed(format!("it broke off: {}", Chain(&error))));
                }
                // Trailers are no bytes.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
            }
        }
    }

    /// All of it.
    pub async fn whole(mut self, most: usize) -> Result<Bytes, HttpError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > most {
                return Err(HttpError::TooLarge(most));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }

    /// The body as it comes, to be handed on; `each` sees its pieces, and whether it came to its end.
    pub fn into_body<F: FnMut(Passing<'_>) + Send + 'static>(self, each: F) -> Body {
        let step = |(mut answer, mut each): (Self, F)| async move {
            match answer.next().await {
                Ok(Some(bytes)) => {
                    each(Passing::Bytes(&bytes));
                    Some((Ok(bytes), (answer, each)))
                }
                Ok(None) => {
                    each(Passing::End);
                    None
                }
                Err(error) => {
                    each(Passing::Failed(&error));
                    Some((Err(error), (answer, each)))
                }
            }
        };
        Body::from_stream(futures_util::stream::unfold((self, each), step))
    }
}

/// What is seen of a body that is handed on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Passing<'a> {
    Bytes(&'a [u8]),
    End,
    Failed(&'a HttpError),
}
