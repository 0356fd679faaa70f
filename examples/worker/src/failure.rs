//! Errors of the loader as HTTP responses.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use loader::{Error, FailureClass};
use serde_json::json;

/// The answer to a request if the load or a check has failed.
pub(crate) struct Failure(pub(crate) Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = match (error.class(), error.retriable()) {
            (FailureClass::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
            (FailureClass::InsufficientVram, false) => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(json!({ "status": "failed", "error": error }))).into_response()
    }
}
