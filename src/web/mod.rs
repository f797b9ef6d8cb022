//! The HTTP listener: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::admin::{Listener, Stream};
use crate::report::{Sources, exposition};

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// A connection may take so long to send a request's head, also until its first.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// And lives no longer than this: scrapers connect anew.
const CONNECTION_LIMIT: Duration = Duration::from_secs(3600);

/// What is buffered of a request, whose head must fit.
const REQUEST_BYTES: usize = 16 << 10;

/// After an error of `accept` the next try waits a little.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The type of Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until it is dropped.
pub async fn serve(listeners: Vec<Listener>, sources: Sources) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(sources);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        tracing::info!(address = %listener.address(), "listening for HTTP");
        accepting.spawn(accept_all(listener, router.clone(), places.clone()));
    }
    while accepting.join_next().await.is_some() {}
}

async fn accept_all(listener: Listener, router: Router, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((arrived, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    // What goes wrong with one connection ends it, and concerns nobody else.
                    if let Ok(stream) = arrived.secured().await {
                        let _ = timeout(CONNECTION_LIMIT, converse(stream, router)).await;
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "an HTTP connection could not be accepted on {}", listener.address());
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: Box<dyn Stream>, router: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

async fn metrics(State(sources): State<Sources>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_TYPE)], exposition(&sources.facts()))
}

/// 503 until the cluster was found, and from the moment the proxy is told to stop.
async fn ready(State(sources): State<Sources>) -> impl IntoResponse {
    if sources.is_ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}
