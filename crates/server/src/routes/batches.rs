//! `/v1/batches`: OpenAI's, for embeddings.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::files::{jobs, lifetime_ms, of_input, owner, page, page_limit, seconds};
use super::query::{Asked, asked};
use crate::app::SharedApp;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::error::{ApiError, shortened};
use crate::jobs::ENDPOINT;
use crate::store::Time;
use crate::store::batches::{self, BatchStatus, NewBatch, StoredBatch};
use crate::store::files::Page;

/// The only window that OpenAI's clients name.
const WINDOW: &str = "24h";

/// OpenAI's bounds on `metadata`.
const MAX_PAIRS: usize = 16;
const MAX_NAME_CHARS: usize = 64;
const MAX_VALUE_CHARS: usize = 512;

/// The body of `POST /v1/batches`.
#[derive(Debug, Deserialize)]
pub struct BatchRequest {
    input_file_id: Option<String>,
    endpoint: Option<String>,
    completion_window: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    output_expires_after: Option<ExpiresAfter>,
}

/// `output_expires_after`.
#[derive(Debug, Deserialize)]
struct ExpiresAfter {
    anchor: Option<String>,
    seconds: Option<i64>,
}

/// `POST /v1/batches`.
///
/// # Errors
/// 400 for what no batch can be, 429 for too many of them.
pub async fn create(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    body: JsonBody<BatchRequest>,
) -> Result<Response, ApiError> {
    let jobs = jobs(&app)?;
    let request = body.value;
    let input_file_id = required("input_file_id", request.input_file_id)?;
    expected("endpoint", request.endpoint, ENDPOINT)?;
    expected("completion_window", request.completion_window, WINDOW)?;
    let output_lifetime_ms = request.output_expires_after.map(|after| {
        let anchor = after.anchor.as_deref();
        lifetime_ms("output_expires_after", anchor, after.seconds)
    });
    let output_lifetime_ms = output_lifetime_ms.transpose()?;
    if let Some(metadata) = &request.metadata {
        check_metadata(metadata)?;
    }
    let new = NewBatch {
        owner: owner(&caller),
        key_id: caller.key.as_ref().map(|key| key.id.clone()),
        input_file_id,
        metadata: request.metadata,
        window_ms: i64::try_from(jobs.limits.window.as_millis()).unwrap_or(i64::MAX),
        output_lifetime_ms,
    };
    let max_open = jobs.limits.open_batches;
    let create = jobs
        .store
        .write(move |database| batches::create(database, &new, max_open, Time::now()));
    let batch = create.await.map_err(of_input)?;
    jobs.news.notify_one();
    Ok(Json(object(&batch)).into_response())
}

fn required(name: &str, value: Option<String>) -> Result<String, ApiError> {
    value.ok_or_else(|| ApiError::invalid_param(name, format!("The field `{name}` is missing")))
}

fn expected(name: &str, value: Option<String>, expected: &str) -> Result<(), ApiError> {
    let value = required(name, value)?;
    if value == expected {
        return Ok(());
    }
    let value = shortened(&value);
    let message = format!("`{name}` is `{value}`, expected `{expected}`");
    Err(ApiError::invalid_param(name, message))
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let is_long = |(name, value): (&String, &String)| {
        name.chars().count() > MAX_NAME_CHARS || value.chars().count() > MAX_VALUE_CHARS
    };
    if metadata.len() > MAX_PAIRS || metadata.iter().any(is_long) {
        return Err(ApiError::invalid_param(
            "metadata",
            format!(
                "`metadata` is too large, expected at most {MAX_PAIRS} pairs with names of {MAX_NAME_CHARS} \
                 characters and values of {MAX_VALUE_CHARS}"
            ),
        ));
    }
    Ok(())
}

/// What stands behind `?` of a list of batches.
#[derive(Debug, Deserialize)]
pub struct BatchesQuery {
    after: Option<String>,
    limit: Option<i64>,
}

/// `GET /v1/batches`, the newest first.
///
/// # Errors
/// 400 for a page that cannot be, 404 for one after an unknown batch.
pub async fn list(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    query: Asked<BatchesQuery>,
) -> Result<Response, ApiError> {
    let query = asked(query)?;
    let page_of = Page {
        after: query.after,
        limit: page_limit(query.limit, 20, 100)?,
        is_ascending: false,
    };
    let owner = owner(&caller);
    let read = jobs(&app)?
        .store
        .read(move |database| batches::list(database, &owner, &page_of));
    Ok(page(&read.await?, object))
}

/// `GET /v1/batches/{id}`.
///
/// # Errors
/// 404 for an unknown batch.
pub async fn one(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let owner = owner(&caller);
    let read = jobs(&app)?
        .store
        .read(move |database| batches::find(database, &owner, &id));
    Ok(Json(object(&read.await?)).into_response())
}

/// `POST /v1/batches/{id}/cancel`: lines that run are still answered, the others get an error each.
///
/// # Errors
/// 404 for an unknown batch, 409 for one that is over.
pub async fn cancel(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let owner = owner(&caller);
    let jobs = jobs(&app)?;
    let cancel = jobs
        .store
        .write(move |database| batches::cancel(database, &owner, &id, Time::now()));
    let batch = cancel.await?;
    jobs.news.notify_one();
    Ok(Json(object(&batch)).into_response())
}

/// A batch as OpenAI's clients read it.
fn object(batch: &StoredBatch) -> Value {
    let ended_as = |status| {
        let ended = batch.ended.filter(|_| batch.status == status);
        ended.map(seconds)
    };
    // A file is there when the batch has ended and wrote something into it.
    let file = |id: &str, bytes| (batch.ended.is_some() && bytes > 0).then(|| id.to_owned());
    let progress = &batch.progress;
    let errors: Vec<Value> = batch.errors.iter().map(|error| json!(error)).collect();
    json!({
        "id": batch.id,
        "object": "batch",
        "endpoint": ENDPOINT,
        "model": batch.model,
        "errors": (!errors.is_empty()).then(|| json!({"object": "list", "data": errors})),
        "input_file_id": batch.input_file_id,
        "completion_window": WINDOW,
        "status": batch.status,
        "output_file_id": file(&batch.output_file_id, progress.output_bytes),
        "error_file_id": file(&batch.error_file_id, progress.error_bytes),
        "created_at": seconds(batch.created),
        "in_progress_at": batch.in_progress.map(seconds),
        "expires_at": seconds(batch.expires),
        "finalizing_at": batch.finalizing.map(seconds),
        "completed_at": ended_as(BatchStatus::Completed),
        "failed_at": ended_as(BatchStatus::Failed),
        "expired_at": ended_as(BatchStatus::Expired),
        "cancelling_at": batch.cancelling.map(seconds),
        "cancelled_at": ended_as(BatchStatus::Cancelled),
        "request_counts": {
            "total": batch.total,
            "completed": progress.completed,
            "failed": progress.failed,
        },
        "usage": {
            "input_tokens": progress.tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": progress.tokens,
        },
        "metadata": batch.metadata,
    })
}
