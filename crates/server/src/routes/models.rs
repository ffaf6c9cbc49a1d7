//! `GET /v1/models`: the model and its tasks as ids, with what the catalogue knows.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::preferred_wait;
use crate::app::{App, SharedApp};
use crate::error::ApiError;
use crate::model::Model;

/// `GET /v1/models`.
///
/// # Errors
/// 503 while the model loads.
pub async fn list(
    State(app): State<SharedApp>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let service = app.service(preferred_wait(&headers)).await?;
    let model = &service.model;
    let data: Vec<Value> = model.ids().iter().map(|id| card(&app, model, id)).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

/// `GET /v1/models/{id}`.
///
/// # Errors
/// 404 for an unknown id, 503 while the model loads.
pub async fn one(
    State(app): State<SharedApp>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let service = app.service(preferred_wait(&headers)).await?;
    let model = &service.model;
    if model.ids().contains(&id) {
        Ok(Json(card(&app, model, &id)))
    } else {
        Err(ApiError::unknown_model(&id, &model.ids()))
    }
}

/// What the model itself says comes from its checkpoint, the rest from its catalogue entry; null where
/// that is silent.
fn card(app: &App, model: &Model, id: &str) -> Value {
    let config = model.embedder.config();
    let entry = app.served_entry();
    let license = entry.and_then(|entry| entry.license.as_ref());
    let languages = entry.and_then(|entry| entry.languages.as_ref());
    json!({
        "id": id,
        "object": "model",
        "created": model.created,
        "owned_by": "quintet",
        "dimensions": config.hidden_size,
        "matryoshka_dimensions": config.matryoshka_dimensions,
        "max_tokens": config.max_tokens,
        "tasks": model.tasks().collect::<Vec<_>>(),
        "system_fingerprint": model.fingerprint,
        "status": entry.map(|entry| app.status(entry)),
        "catalogue_id": entry.map(|entry| &entry.id),
        "name": entry.map(|entry| &entry.name),
        "description": entry.map(|entry| &entry.line),
        "provider": entry.map(|entry| &entry.provider),
        "parameters": entry.and_then(|entry| entry.parameters),
        "languages": languages.map(|languages| &languages.best),
        "license": license,
        "pricing": app.price,
    })
}
