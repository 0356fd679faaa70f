//! The HTTP interface.

use crate::failure::Failure;
use crate::load::blocking;
use crate::status::{Phase, Shared};
use crate::{metrics, progress};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;

pub(crate) fn router(status: Shared) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/progress", get(progress))
        .route("/metrics", get(metrics))
        .with_state(status)
}

async fn health(State(shared): State<Shared>) -> Result<Response, Failure> {
    let resident = {
        let status = shared.borrow();
        match &status.phase {
            Phase::Loading => {
                let loading = (StatusCode::SERVICE_UNAVAILABLE, Json(&status.progress));
                return Ok(loading.into_response());
            }
            Phase::Failed(error) => return Err(Failure(error.clone())),
            Phase::Ready(resident) => Arc::clone(resident),
        }
    };
    let stats = resident.model.stats();
    let (device, of_weights) = (stats.device.to_string(), stats.resident);
    let status = shared.clone();
    let residency = blocking(move || resident.check(&status)).await.map_err(Failure)?;
    let ok = json!({
        "status": "ok",
        "device": device,
        "vram_bytes": residency.vram_bytes,
        "resident": of_weights,
        "pointers_checked": residency.pointers_checked,
        "rehash": shared.borrow().rehash,
    });
    Ok(Json(ok).into_response())
}

async fn progress(State(shared): State<Shared>) -> impl IntoResponse {
    let lines = Body::from_stream(progress::lines(shared.subscribe()));
    ([(CONTENT_TYPE, "application/x-ndjson")], lines)
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&shared.borrow()))
}
