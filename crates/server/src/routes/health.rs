//! Whether the server lives, whether it is ready, and what it counted.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::preferred_wait;
use crate::app::SharedApp;
use crate::error::ApiError;

/// `GET /health/live`: the process answers.
pub async fn live() -> Json<Value> {
    Json(json!({"status": "live"}))
}

/// `GET /health` and `/health/ready`: the model is loaded and has proven itself.
///
/// # Errors
/// 503 while it loads.
pub async fn ready(
    State(app): State<SharedApp>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let service = app.service(preferred_wait(&headers)).await?;
    Ok(Json(json!({
        "status": "ready",
        "model": service.model.id(),
        "system_fingerprint": service.model.fingerprint,
    })))
}

/// `GET /metrics`: the OpenMetrics text format.
pub async fn metrics(State(app): State<SharedApp>) -> impl IntoResponse {
    let service = app.service_now();
    let queued = service
        .as_ref()
        .map_or(0, |service| service.batcher.queued_tokens());
    let text = app
        .metrics
        .text(service.is_some(), queued, app.body_bytes.used());
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text)
}
