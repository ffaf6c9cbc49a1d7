//! `/v1/files`: OpenAI's, for the inputs and outputs of batches.

use std::path::Path as FilePath;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartRejection};
use axum::extract::{Multipart, Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::query::{Asked, asked};
use crate::app::{App, SharedApp};
use crate::auth::Caller;
use crate::error::{ApiError, shortened};
use crate::jobs::Jobs;
use crate::store::files::{self, Listed, Page, Purpose, StoredFile};
use crate::store::{StoreError, Time};

/// Where files and batches are kept.
///
/// # Errors
/// 404 where they are not.
pub(crate) fn jobs(app: &App) -> Result<&Arc<Jobs>, ApiError> {
    app.config.jobs.as_ref().ok_or_else(ApiError::no_files)
}

/// Whose files a caller sees: the account's, or everybody's where there are no accounts.
pub(super) fn owner(caller: &Caller) -> String {
    let key = caller.key.as_ref();
    key.map_or(String::new(), |key| key.account_id.clone())
}

/// Seconds since 1970.
pub(super) fn seconds(time: Time) -> i64 {
    time.0.div_euclid(1000)
}

/// A file as OpenAI's clients read it.
fn object(file: &StoredFile) -> Value {
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": seconds(file.created),
        "expires_at": file.expires.map(seconds),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    })
}

/// A page as OpenAI's clients read it.
pub(super) fn page<T>(listed: &Listed<T>, object: impl Fn(&T) -> Value) -> Response {
    let data: Vec<Value> = listed.items.iter().map(object).collect();
    let id = |object: Option<&Value>| object.map(|object| object["id"].clone());
    Json(json!({
        "object": "list",
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": listed.has_more,
        "data": data,
    }))
    .into_response()
}

/// Elements of a page.
///
/// # Errors
/// 400 for a number that is none of them.
pub(super) fn page_limit(limit: Option<i64>, default: i64, max: i64) -> Result<i64, ApiError> {
    let limit = limit.unwrap_or(default);
    if (1..=max).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::invalid_param(
        "limit",
        format!("`limit` is {limit}, expected 1 to {max}"),
    ))
}

/// What stands behind `?` of a list of files.
#[derive(Debug, Deserialize)]
pub struct FilesQuery {
    after: Option<String>,
    limit: Option<i64>,
    order: Option<String>,
    purpose: Option<String>,
}

/// `GET /v1/files`.
///
/// # Errors
/// 400 for a page that cannot be, 404 for one after an unknown file.
pub async fn list(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    query: Asked<FilesQuery>,
) -> Result<Response, ApiError> {
    let query = asked(query)?;
    let is_ascending = match query.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(order) => {
            let order = shortened(order);
            let message = format!("`order` is `{order}`, expected `asc` or `desc`");
            return Err(ApiError::invalid_param("order", message));
        }
    };
    let page_of = Page {
        after: query.after,
        limit: page_limit(query.limit, 10_000, 10_000)?,
        is_ascending,
    };
    let purpose = match &query.purpose {
        None => None,
        Some(name) => match Purpose::parse(name) {
            Some(purpose) => Some(purpose),
            // OpenAI's other purposes: no file has them.
            None => {
                let (items, has_more) = (Vec::new(), false);
                return Ok(page(&Listed { items, has_more }, object));
            }
        },
    };
    let owner = owner(&caller);
    let read = jobs(&app)?
        .store
        .read(move |database| files::list(database, &owner, purpose, &page_of, Time::now()));
    Ok(page(&read.await?, object))
}

/// `GET /v1/files/{id}`.
///
/// # Errors
/// 404 for an unknown file.
pub async fn one(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let file = find(jobs(&app)?, &caller, id).await?;
    Ok(Json(object(&file)).into_response())
}

async fn find(jobs: &Jobs, caller: &Caller, id: String) -> Result<StoredFile, ApiError> {
    let owner = owner(caller);
    let find = jobs
        .store
        .read(move |database| files::find(database, &owner, &id, Time::now()));
    Ok(find.await?)
}

/// `DELETE /v1/files/{id}`.
///
/// # Errors
/// 404 for an unknown file, 409 for one that a batch reads.
pub async fn delete(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let jobs = jobs(&app)?;
    let (owner, deleted) = (owner(&caller), id.clone());
    let delete = jobs
        .store
        .write(move |database| files::delete(database, &owner, &deleted, Time::now()));
    delete.await?;
    // Nobody knows it any more; what stays is tidied up later.
    let _ = tokio::fs::remove_file(jobs.path(&id)).await;
    Ok(Json(json!({"id": id, "object": "file", "deleted": true})).into_response())
}

/// `GET /v1/files/{id}/content`: its bytes.
///
/// # Errors
/// 404 for an unknown file.
pub async fn content(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let jobs = jobs(&app)?;
    let file = find(jobs, &caller, id).await?;
    sent(jobs, file).await
}

/// The bytes of a file.
///
/// # Errors
/// 404 for one that was deleted a moment ago.
pub(crate) async fn sent(jobs: &Jobs, file: StoredFile) -> Result<Response, ApiError> {
    const PIECE_BYTES: usize = 64 * 1024;
    let opened = match File::open(jobs.path(&file.id)).await {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StoreError::UnknownFile { id: file.id }.into());
        }
        Err(error) => {
            tracing::error!(file = file.id, %error, "a file that was kept cannot be read");
            return Err(ApiError::internal());
        }
    };
    let body = Body::from_stream(ReaderStream::with_capacity(opened, PIECE_BYTES));
    let content_type = HeaderValue::from_static("application/jsonl");
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_LENGTH, file.bytes.into()),
    ];
    Ok((headers, body).into_response())
}

/// `POST /v1/files`: a form with `purpose`, `file` and perhaps `expires_after`.
///
/// # Errors
/// 400 for a form that is not so, 413 for a file that is too large, 503 where the disk is full.
pub async fn upload(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, ApiError> {
    let jobs = jobs(&app)?;
    let form = form.map_err(|error| ApiError::invalid(error.body_text()))?;
    let mut upload = Upload {
        id: files::new_id()?,
        jobs: Arc::clone(jobs),
        is_kept: false,
    };
    let form = upload.read(form, &app).await?;
    let missing = |name: &str| {
        let message = format!("The form's field `{name}` is missing");
        ApiError::invalid_param(name, message)
    };
    let (filename, bytes) = form.file.clone().ok_or_else(|| missing("file"))?;
    match form.purpose.as_deref() {
        Some("batch") => {}
        None => return Err(missing("purpose")),
        Some(purpose) => {
            let message = format!("`purpose` is `{}`, expected `batch`", shortened(purpose));
            return Err(ApiError::invalid_param("purpose", message));
        }
    }
    if bytes == 0 {
        return Err(ApiError::invalid_param("file", "The file is empty"));
    }
    let created = Time::now();
    let lifetime = form.lifetime_ms()?;
    let file = StoredFile {
        id: upload.id.clone(),
        purpose: Purpose::Batch,
        filename,
        bytes,
        created,
        expires: lifetime.map(|ms| Time(created.0.saturating_add(ms))),
    };
    let (owner, kept, max_bytes) = (owner(&caller), file.clone(), jobs.limits.owner_bytes);
    let keep = jobs
        .store
        .write(move |database| files::create(database, &owner, &kept, max_bytes));
    keep.await?;
    upload.is_kept = true;
    Ok(Json(object(&file)).into_response())
}

/// What a form says.
#[derive(Debug, Default)]
struct Form {
    purpose: Option<String>,
    /// Name and size.
    file: Option<(String, i64)>,
    anchor: Option<String>,
    seconds: Option<String>,
}

impl Form {
    /// How long the file shall be kept.
    fn lifetime_ms(&self) -> Result<Option<i64>, ApiError> {
        let (anchor, seconds) = match (&self.anchor, &self.seconds) {
            (None, None) => return Ok(None),
            (anchor, seconds) => (anchor.as_deref(), seconds.as_deref().unwrap_or_default()),
        };
        lifetime_ms("expires_after", anchor, seconds.parse().ok()).map(Some)
    }
}

/// How long a file shall be kept after it was, in milliseconds, as `anchor` and `seconds` of the field
/// `name` say.
///
/// # Errors
/// 400 for another anchor, and for a time that OpenAI does not know: an hour to thirty days.
pub(super) fn lifetime_ms(
    name: &str,
    anchor: Option<&str>,
    seconds: Option<i64>,
) -> Result<i64, ApiError> {
    match (anchor, seconds) {
        (Some("created_at"), Some(seconds @ 3_600..=2_592_000)) => Ok(seconds * 1000),
        _ => Err(ApiError::invalid_param(
            name,
            format!(
                "`{name}` is not as expected: `anchor` `created_at` and `seconds` from 3600 to 2592000"
            ),
        )),
    }
}

/// A file that is being received. What is not kept is deleted.
struct Upload {
    id: String,
    jobs: Arc<Jobs>,
    is_kept: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.is_kept {
            // It may not be there yet.
            let _ = std::fs::remove_file(self.jobs.path(&self.id));
        }
    }
}

/// Bytes of a field that is no file.
const FIELD_BYTES: usize = 1024;

impl Upload {
    async fn read(&mut self, mut multipart: Multipart, app: &App) -> Result<Form, ApiError> {
        let pause = app.config.limits.body_timeout;
        let mut form = Form::default();
        loop {
            let next = tokio::time::timeout(pause, multipart.next_field());
            let next = next.await.map_err(|_| ApiError::body_timeout(pause))?;
            let Some(mut field) = next.map_err(|_| broken())? else {
                return Ok(form);
            };
            let name = field.name().unwrap_or_default().to_owned();
            let small = match name.as_str() {
                "file" => {
                    let filename = field.file_name().unwrap_or("file").chars();
                    let filename = filename
                        .filter(|char| !char.is_control())
                        .take(200)
                        .collect();
                    form.file = Some((filename, self.receive(field, app).await?));
                    continue;
                }
                "purpose" => &mut form.purpose,
                "expires_after[anchor]" => &mut form.anchor,
                "expires_after[seconds]" => &mut form.seconds,
                _ => &mut None,
            };
            let mut text = Vec::new();
            while let Some(piece) = piece(&mut field, app).await? {
                text.extend_from_slice(&piece);
                if text.len() > FIELD_BYTES {
                    let message = format!("The form's field is longer than {FIELD_BYTES} bytes");
                    return Err(ApiError::invalid_param(shortened(&name), message));
                }
            }
            *small = Some(String::from_utf8_lossy(&text).into_owned());
        }
    }

    /// Writes the file as it comes, and comes back when it is on the disk.
    async fn receive(&self, mut field: Field<'_>, app: &App) -> Result<i64, ApiError> {
        let max = self.jobs.limits.file_bytes;
        let path = self.jobs.path(&self.id);
        let mut file = created(&path).await.map_err(unwritten)?;
        let mut bytes: u64 = 0;
        while let Some(piece) = piece(&mut field, app).await? {
            bytes += piece.len() as u64;
            if bytes > max {
                return Err(ApiError::file_too_large(max));
            }
            file.write_all(&piece).await.map_err(unwritten)?;
        }
        file.flush().await.map_err(unwritten)?;
        file.sync_all().await.map_err(unwritten)?;
        let jobs = Arc::clone(&self.jobs);
        let synced = tokio::task::spawn_blocking(move || jobs.sync_folder()).await;
        synced
            .map_err(|_| ApiError::internal())?
            .map_err(unwritten)?;
        Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
    }
}

async fn created(path: &FilePath) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    options.mode(0o600);
    options.open(path).await
}

/// The next bytes of a field, within the time that a body may pause.
async fn piece(field: &mut Field<'_>, app: &App) -> Result<Option<axum::body::Bytes>, ApiError> {
    let pause = app.config.limits.body_timeout;
    let piece = tokio::time::timeout(pause, field.chunk()).await;
    let piece = piece.map_err(|_| ApiError::body_timeout(pause))?;
    piece.map_err(|_| broken())
}

fn broken() -> ApiError {
    ApiError::invalid("The form broke off or is none").code("invalid_body")
}

fn unwritten(error: std::io::Error) -> ApiError {
    tracing::error!(%error, "a file cannot be kept");
    if error.kind() == std::io::ErrorKind::StorageFull {
        ApiError::disk_full()
    } else {
        ApiError::internal()
    }
}

/// What a batch's input may not be, in the words of the batch.
pub(super) fn of_input(error: StoreError) -> ApiError {
    let message = error.to_string();
    if matches!(error, StoreError::UnknownFile { .. }) {
        ApiError::invalid_param("input_file_id", message).code("not_found")
    } else {
        error.into()
    }
}
