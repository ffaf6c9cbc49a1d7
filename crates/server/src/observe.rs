//! Around every request: its id, its log line, its span, its time, its metrics, and its error written out.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use crate::app::SharedApp;
use crate::error::{self, ApiError};

/// Names a request in the answer, the log and error bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl RequestId {
    /// The caller's own id if it is short and plain, else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let given = headers
            .get(X_REQUEST_ID)
            .and_then(|value| value.to_str().ok());
        let is_plain = |id: &&str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
            (1..=128).contains(&id.len()) && id.bytes().all(plain)
        };
        given
            .filter(is_plain)
            .map_or_else(Self::new, |id| Self(id.to_owned()))
    }

    /// Unique, not secret: a random start of this process and a counter.
    fn new() -> Self {
        static START: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("req-{:016x}-{number:x}", *START))
    }
}

/// Middleware of every route.
pub(crate) async fn observe(
    State(app): State<SharedApp>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned());
    request.extensions_mut().insert(id.clone());
    // Names and values that OpenTelemetry knows; as in the log, neither path nor text.
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = %method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        request_id = id.0,
    );
    #[cfg(feature = "otel")]
    crate::trace_context::join(&span, request.headers());
    let answered = next.run(request).instrument(span.clone()).await;
    let code = answered.extensions().get().map(ApiError::log_code);
    let mut response = error::render(answered, &path, &id.0);
    let (elapsed, status) = (started.elapsed(), response.status().as_u16());
    span.record("http.response.status_code", status);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    headers.insert("openai-processing-ms", millis.into());
    app.metrics.request(&route, status, elapsed);
    // The path stays out: it is the caller's text. The route is ours.
    tracing::info!(
        request_id = id.0,
        %method,
        route,
        status,
        code,
        elapsed_ms = elapsed.as_secs_f64() * 1e3,
        "request"
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_goes_through_and_others_are_replaced() {
        let of = |value: &'static str| {
            let value = HeaderValue::from_static(value);
            RequestId::of(&HeaderMap::from_iter([(X_REQUEST_ID, value)])).0
        };
        assert_eq!(of("abc-1.2:x_Y"), "abc-1.2:x_Y");
        assert!(of("a b").starts_with("req-"));
        assert!(of("").starts_with("req-"));
        assert_ne!(RequestId::new(), RequestId::new());
    }
}
