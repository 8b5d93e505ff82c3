//! Connections, from their first byte to their last.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;

use crate::config::secs;
use crate::server::handle;
use crate::service::Service;

/// How often a peer of HTTP/2 is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);

/// Serves the connections of a listener until `stop` is done and their requests have ended.
///
/// Axum's own loop sets no limit to how long a head may take: whoever sends one byte a minute would keep a connection for ever.
pub(crate) async fn serve<L: Listener>(mut listener: L, service: Service, stop: impl Future<Output = ()>)
where
    L::Addr: std::fmt::Debug,
{
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let (io, from) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        // Settings may have been exchanged since the last one.
        let idle = secs(service.settings().config.limits.idle_secs);
        let asked = Arc::new(AtomicBool::new(false));
        let (service, has_asked) = (service.clone(), Arc::clone(&asked));
        let answer = service_fn(move |request: hyper::Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            let service = service.clone();
            async move { Ok::<_, Infallible>(handle(State(service), request.map(Body::new)).await) }
        });
        let connection = builder(idle)
            .serve_connection(TokioIo::new(io), answer)
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(?from, %error, "a connection broke off");
                },
                () = silence(idle, &asked) => tracing::debug!(?from, "a connection on which nothing was asked"),
            }
        });
    }
    // Nobody is to connect to a service that stops.
    drop(listener);
    graceful.shutdown().await;
}

fn builder(idle: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// Done when nothing was asked for so long. Until the version of HTTP is known, no limit of the builder's holds.
async fn silence(idle: Duration, asked: &AtomicBool) {
    tokio::time::sleep(idle).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}
