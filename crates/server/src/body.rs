//! Reading a request's body within limits of size, memory and time: JSON, and forms of the pages.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::app::SharedApp;
use crate::auth::Caller;
use crate::budget::Reservation;
use crate::error::{ApiError, shortened};

/// A body that was read and understood. Its bytes count against the server's memory until it is dropped.
#[derive(Debug)]
pub struct JsonBody<T> {
    /// What the body says.
    pub value: T,
    /// Room that the body takes.
    pub bytes: Reservation,
}

/// Bodies from this size on are parsed on the blocking pool: about 1 ms of work.
const LARGE_BYTES: usize = 256 * 1024;

impl<T: DeserializeOwned + Send + 'static> FromRequest<SharedApp> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, ApiError> {
        let caller = request.extensions().get::<Caller>();
        let meter = caller.and_then(|caller| caller.meter.clone());
        let (bytes, reservation) = whole(request, app, app.config.limits.body_bytes).await?;
        let is_large = bytes.len() >= LARGE_BYTES;
        let read = move || {
            if let Some(meter) = meter {
                meter.read(&bytes);
            }
            parse(&bytes)
        };
        let value = if !is_large {
            read()?
        } else {
            let parsed = tokio::task::spawn_blocking(read).await;
            parsed.map_err(|_| ApiError::internal())??
        };
        Ok(Self {
            value,
            bytes: reservation,
        })
    }
}

/// A form of the pages is not longer.
const FORM_BYTES: usize = 16 * 1024;

/// The fields of a form that was sent as browsers do.
///
/// # Errors
/// [`ApiError`] for a body that is too long or too late, or lacks a field.
pub(crate) async fn form<T: DeserializeOwned>(
    request: Request,
    app: &SharedApp,
) -> Result<T, ApiError> {
    let (bytes, _reservation) = whole(request, app, FORM_BYTES).await?;
    serde_urlencoded::from_bytes(&bytes).map_err(|error| {
        let message = error.to_string();
        ApiError::invalid(format!("The form cannot be read: {}", shortened(&message)))
    })
}

/// All bytes of a body that is no longer than this, and the room that they take.
async fn whole(
    request: Request,
    app: &SharedApp,
    max_bytes: usize,
) -> Result<(Bytes, Reservation), ApiError> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    let mut body = request.into_body();
    if announced > max_bytes {
        discard(body, max_bytes).await;
        return Err(ApiError::body_too_large(max_bytes));
    }
    let mut reservation = app.body_bytes.reservation();
    let reading = read(&mut body, max_bytes, announced, &mut reservation);
    let timeout = app.config.limits.body_timeout;
    match tokio::time::timeout(timeout, reading).await {
        Ok(Ok(bytes)) => Ok((bytes, reservation)),
        Ok(Err(error)) => {
            discard(body, max_bytes).await;
            Err(error)
        }
        Err(_) => Err(ApiError::body_timeout(timeout)),
    }
}

/// How long the rest of a refused body is read past.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Reads past the rest of a refused body, within limits: most clients read the answer only when they
/// have sent everything, and a connection closed before loses it.
async fn discard(mut body: Body, limit: usize) {
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > limit {
                break;
            }
        }
    };
    // Out of time or not, the answer comes next.
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

/// Room is taken as the bytes arrive, so that an announced body that never comes takes none.
async fn read(
    body: &mut Body,
    limit: usize,
    announced: usize,
    reservation: &mut Reservation,
) -> Result<Bytes, ApiError> {
    let mut bytes = Vec::with_capacity(announced.min(64 * 1024));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::invalid("The request body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        reservation
            .grow(data.len())
            .map_err(|_| ApiError::overloaded(Duration::from_secs(1)))?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

/// Reads a body's JSON.
///
/// # Errors
/// [`ApiError`] saying where it is not as expected.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = error.to_string();
        ApiError::invalid(format!(
            "The request body is not as expected: {}",
            shortened(&message)
        ))
        .code("invalid_body")
    })
}
