//! The HTTP interface.

use crate::failure::Failure;
use crate::health::Health;
use crate::load::blocking;
use crate::status::{Phase, Progress, Shared};
use crate::{metrics, progress};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use std::sync::Arc;

pub(crate) fn router(status: Shared) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/progress", get(progress))
        .route("/metrics", get(metrics))
        .with_state(status)
}

/// The answer of `/health` if nothing has failed.
#[derive(Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Alive {
    Loading(Progress),
    Ok(Health),
}

async fn health(State(shared): State<Shared>) -> Result<Response, Failure> {
    let resident = {
        let status = shared.borrow();
        match &status.phase {
            Phase::Loading => {
                let progress = Json(Alive::Loading(status.progress.clone()));
                return Ok((StatusCode::SERVICE_UNAVAILABLE, progress).into_response());
            }
            Phase::Failed(error) => return Err(Failure(error.clone())),
            Phase::Ready(resident) => Arc::clone(resident),
        }
    };
    let health = blocking(move || resident.check(&shared)).await.map_err(Failure)?;
    Ok(Json(Alive::Ok(health)).into_response())
}

async fn progress(State(shared): State<Shared>) -> impl IntoResponse {
    let lines = Body::from_stream(progress::lines(shared.subscribe()));
    ([(CONTENT_TYPE, "application/x-ndjson")], lines)
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&shared.borrow()))
}
