//! The handlers, one file a subject, and what they share.
//!
//! - `embeddings`, `classify`, `rerank`, `segment`, `models`: OpenAI's and Jina's
//! - `quality`: what sizes and types of vectors cost, on the caller's own collection
//! - `tei`: Text Embeddings Inference's; `cohere`: Cohere's
//! - `account`, `admin`: what callers ask about money, and what operators change
//! - `files`, `batches`: OpenAI's, for requests that may take a day
//! - `health`, `docs`: for operators and readers
//! - `rows`, `late_chunks`, `outputs`: checked inputs to rows, rows to vectors

pub mod account;
pub mod admin;
pub mod batches;
pub mod classify;
pub mod cohere;
pub mod docs;
pub mod embeddings;
pub mod files;
pub mod health;
pub mod models;
pub mod quality;
pub mod rerank;
pub mod segment;
pub mod tei;

mod late_chunks;
mod outputs;
mod query;
mod rows;

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use quintet_engine::{Embedder, Task};
use serde::Serialize;

use crate::auth::Caller;
use crate::batcher::{OwnedContent, OwnedInput, Tier};
use crate::config::Config;
use crate::error::ApiError;
use crate::model::Model;
use crate::task_names::{self, TaskFields};
use crate::wire::input::{InputItem, InputList};

/// The task that a request names in its fields or behind its model's id, `None` where it leaves it open.
///
/// # Errors
/// [`ApiError`] for an unknown model and an unknown task.
fn requested_task(
    model_id: Option<&str>,
    fields: TaskFields<'_>,
    model: &Model,
) -> Result<Option<Task>, ApiError> {
    let by_model = model_id.map(|id| model.resolve(id)).transpose()?.flatten();
    Ok(fields.resolve(&model.embedder)?.or(by_model))
}

/// The task of requests that leave it open: the key's, else the server's, else none.
///
/// # Errors
/// [`ApiError`] for a default that this model does not have.
fn default_task(caller: &Caller, config: &Config, embedder: &Embedder) -> Result<Task, ApiError> {
    match caller.default_task().or(config.default_task.as_deref()) {
        Some(name) => task_names::find(embedder, "task", name),
        None => Ok(Task::RAW),
    }
}

/// The texts of a field that takes no token ids, each with its own task or this one.
///
/// # Errors
/// [`ApiError`] naming the field that is missing or the element that is no text.
fn texts(
    field: &'static str,
    list: Option<InputList>,
    task: Task,
    embedder: &Embedder,
) -> Result<Vec<OwnedInput>, ApiError> {
    let Some(list) = list else {
        return Err(ApiError::invalid_param(
            field,
            format!("The field `{field}` is missing, expected a text or a list of texts"),
        ));
    };
    let text = |(index, item): (usize, InputItem)| {
        let task = item_task(&item, field, index, task, embedder)?;
        let text = match item {
            InputItem::Text(text) => text,
            InputItem::Object(object) => object.text,
            InputItem::TokenIds(_) => {
                return Err(ApiError::invalid_param(
                    format!("{field}[{index}]"),
                    format!("`{field}` has token ids, expected texts"),
                ));
            }
        };
        let content = OwnedContent::Text(text);
        Ok(OwnedInput { content, task })
    };
    list.0.into_iter().enumerate().map(text).collect()
}

/// The task of an item's own fields, else the request's.
///
/// # Errors
/// [`ApiError`] naming the item whose task is unknown.
fn item_task(
    item: &InputItem,
    field: &str,
    index: usize,
    task: Task,
    embedder: &Embedder,
) -> Result<Task, ApiError> {
    let InputItem::Object(object) = item else {
        return Ok(task);
    };
    let fields = TaskFields {
        task: object.task.as_deref(),
        task_type: object.task_type.as_deref(),
        input_type: object.input_type.as_deref(),
    };
    let own = fields
        .resolve(embedder)
        .map_err(|error| error.param(format!("{field}[{index}].task")))?;
    Ok(own.unwrap_or(task))
}

/// Vectors that are finished and written on the spot; more go to the blocking pool. About 1 ms.
const FEW: usize = 16;

/// Makes and writes an answer that holds about as much as so many vectors.
///
/// # Errors
/// [`ApiError`] when it cannot be written, which is our fault.
async fn json_response<T: Serialize>(
    vectors: usize,
    answer: impl FnOnce() -> T + Send + 'static,
) -> Result<Response, ApiError> {
    Ok(json_answer(json_bytes(vectors, answer).await?))
}

/// An answer of JSON that is written already.
fn json_answer(json: Vec<u8>) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], Body::from(json)).into_response()
}

/// The same as bytes.
///
/// # Errors
/// [`ApiError`] when it cannot be written, which is our fault.
async fn json_bytes<T: Serialize>(
    vectors: usize,
    answer: impl FnOnce() -> T + Send + 'static,
) -> Result<Vec<u8>, ApiError> {
    let write = move || serde_json::to_vec(&answer());
    let json = if vectors <= FEW {
        write()
    } else {
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|_| ApiError::internal())?
    };
    json.map_err(|error| {
        tracing::error!(%error, "the answer cannot be written");
        ApiError::internal()
    })
}

/// `X-Tier: batch` gives up its turn to whoever waits.
pub fn tier(headers: &HeaderMap) -> Tier {
    match headers.get("x-tier") {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"batch") => Tier::Batch,
        _ => Tier::Realtime,
    }
}

/// `Prefer: wait=N` (RFC 7240): how long the caller would rather wait than be refused.
pub fn preferred_wait(headers: &HeaderMap) -> Duration {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .find_map(|preference| {
            let seconds = preference.trim().strip_prefix("wait")?.trim_start();
            seconds.strip_prefix('=')?.trim().parse().ok()
        })
        .map_or(Duration::ZERO, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_to_wait_is_found_among_others() {
        let wait = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", value.parse().unwrap());
            preferred_wait(&headers).as_secs()
        };
        assert_eq!(wait("wait=30"), 30);
        assert_eq!(wait("respond-async, wait = 5"), 5);
        assert_eq!(wait("wait=long"), 0);
        assert_eq!(preferred_wait(&HeaderMap::new()), Duration::ZERO);
    }
}
