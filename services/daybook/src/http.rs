//! Metrics and health over HTTP: `/metrics`, `/healthz` (the process is alive) and `/readyz` (it
//! can do its work).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How a part of the process is doing.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The name of the part.
    pub part: String,
    /// `ok`, `degraded` (it works, but something needs attention) or `down`.
    pub state: &'static str,
    /// What is the matter; empty when all is well.
    pub problem: String,
}

impl Report {
    /// The report of a part that works; degraded when there is a problem.
    pub fn working(part: impl Into<String>, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        let state = if problem.is_empty() { "ok" } else { "degraded" };
        Self { part: part.into(), state, problem }
    }

    /// Whether the part can do its work, maybe degraded.
    pub fn is_working(&self) -> bool {
        self.state != "down"
    }

    /// The report of a part that does not work.
    pub fn down(part: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { part: part.into(), state: "down", problem: problem.into() }
    }
}

/// Tells how parts are doing.
pub trait Health: Send + Sync + 'static {
    /// One report for each part.
    fn reports(&self) -> Vec<Report>;
}

/// What the HTTP side shows.
#[derive(Clone)]
pub struct Views {
    /// The recorder of metrics.
    pub metrics: PrometheusHandle,
    /// The parts of this process.
    pub health: Vec<Arc<dyn Health>>,
    /// True when the process is stopping.
    pub closing: watch::Receiver<bool>,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, views: Views) -> std::io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(views);
    axum::serve(listener, app).await
}

async fn metrics(State(views): State<Views>) -> impl IntoResponse {
    views.metrics.run_upkeep();
    ([("content-type", "text/plain; version=0.0.4")], views.metrics.render())
}

async fn ready(State(views): State<Views>) -> impl IntoResponse {
    let mut parts: Vec<Report> = views.health.iter().flat_map(|health| health.reports()).collect();
    if *views.closing.borrow() {
        parts.push(Report::down("process", "it is stopping"));
    }
    let ready = parts.iter().all(Report::is_working);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(serde_json::json!({ "ready": ready, "parts": parts })))
}
