//! What goes wrong, and the one place where status codes are written.
//!
//! Handlers return an [`ApiError`]. It travels in the response's extensions to `render`, which knows
//! the route, and so the family of clients that reads it, and the request's id.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quintet_engine::EmbedError;
use serde_json::{Value, json};

use crate::batcher::BatchError;
use crate::metering::Refusal;
use crate::store::StoreError;

/// What kind of mistake it is; decides the status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    InvalidRequest,
    Unauthorized,
    PaymentRequired,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    BodyTimeout,
    BodyTooLarge,
    RateLimited,
    Overloaded,
    Loading,
    ShuttingDown,
    StateUnavailable,
    NoClassifier,
    Internal,
}

impl Kind {
    /// Status, OpenAI's `type`, TEI's `error_type`.
    fn words(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => (
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "Validation",
            ),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "invalid_request_error",
                "Unauthorized",
            ),
            Self::PaymentRequired => (
                StatusCode::PAYMENT_REQUIRED,
                "insufficient_quota",
                "Validation",
            ),
            Self::Forbidden => (
                StatusCode::FORBIDDEN,
                "invalid_request_error",
                "Unauthorized",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, "invalid_request_error", "Validation"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request_error",
                "Validation",
            ),
            Self::Conflict => (StatusCode::CONFLICT, "invalid_request_error", "Validation"),
            Self::BodyTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "invalid_request_error",
                "Validation",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "invalid_request_error",
                "Validation",
            ),
            Self::RateLimited => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "Overloaded",
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server_error",
                "Overloaded",
            ),
            Self::Loading => (StatusCode::SERVICE_UNAVAILABLE, "server_error", "Unhealthy"),
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "server_error", "Unhealthy"),
            Self::StateUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", "Unhealthy")
            }
            Self::NoClassifier => (
                StatusCode::FAILED_DEPENDENCY,
                "invalid_request_error",
                "Backend",
            ),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "Backend"),
        }
    }

    /// Status for a family where it differs from OpenAI's.
    fn status(self, family: Family) -> StatusCode {
        match (family, self) {
            (Family::Tei, Self::InvalidRequest) => StatusCode::UNPROCESSABLE_ENTITY,
            (Family::Tei, Self::Overloaded) => StatusCode::TOO_MANY_REQUESTS,
            (Family::Tei, Self::Internal) => StatusCode::FAILED_DEPENDENCY,
            _ => self.words().0,
        }
    }
}

/// openai-python gives up on longer waits.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// A client that comes back sooner finds the same queue.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(100);

/// A refusal or a failure, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    kind: Kind,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl ApiError {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
        }
    }

    /// The request cannot be done as it stands.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidRequest, message)
    }

    /// A field cannot be as it is.
    pub fn invalid_param(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(message).param(param)
    }

    /// No key, or not ours.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(Kind::Unauthorized, message).code("invalid_api_key")
    }

    /// A key that is not ours, or not any more.
    pub fn wrong_key() -> Self {
        Self::unauthorized("Incorrect API key provided")
    }

    /// A form that did not come from our own page, or from one that is too old.
    pub fn strange_form() -> Self {
        Self::new(
            Kind::Forbidden,
            "This form is too old or came from elsewhere; open the page again and send it from there",
        )
        .code("strange_form")
    }

    /// Someone guesses keys.
    pub fn too_many_wrong_keys(retry_after: Duration) -> Self {
        Self::new(Kind::RateLimited, "Too many incorrect API keys were sent")
            .code("rate_limit_exceeded")
            .retry_after(retry_after)
    }

    /// The key's scopes do not reach this route.
    pub fn missing_scope(scope: &str) -> Self {
        Self::new(
            Kind::Forbidden,
            format!("This API key lacks the scope `{scope}`"),
        )
        .code("insufficient_permissions")
    }

    /// The key is bound to other models or tasks.
    pub fn not_allowed(what: &'static str, name: &str) -> Self {
        let name = shortened(name);
        Self::new(
            Kind::Forbidden,
            format!("This API key may not use the {what} `{name}`"),
        )
        .param(what)
        .code("insufficient_permissions")
    }

    /// The route is about accounts, and there are none.
    pub fn no_accounts() -> Self {
        Self::new(Kind::NotFound, "This server keeps no accounts").code("no_accounts")
    }

    /// The route is about files, and none are kept.
    pub fn no_files() -> Self {
        Self::new(
            Kind::NotFound,
            "This server keeps no files; its operator names a folder for them with --files",
        )
        .code("no_files")
    }

    /// Nobody may open an account here, or not without an invitation that holds.
    pub fn sign_up_refused(message: &'static str) -> Self {
        Self::new(Kind::Forbidden, message).code("sign_up_refused")
    }

    /// The work was done, and what should pay for it went elsewhere meanwhile.
    pub fn uncovered() -> Self {
        Self::new(
            Kind::PaymentRequired,
            "The account's credit does not cover this request any more; nothing was billed",
        )
        .code("insufficient_credit")
    }

    /// No model has this id.
    pub fn unknown_model(found: &str, known: &[String]) -> Self {
        let found = shortened(found);
        let known: Vec<String> = known.iter().map(|id| format!("`{id}`")).collect();
        let message = format!(
            "The model `{found}` does not exist, expected {}",
            known.join(", ")
        );
        Self::new(Kind::NotFound, message)
            .param("model")
            .code("model_not_found")
    }

    /// No route has this path.
    pub fn unknown_route(method: &str, path: &str) -> Self {
        let path = shortened(path);
        Self::new(
            Kind::NotFound,
            format!("There is no route `{method} {path}`, expected one of ours such as `POST /v1/embeddings`"),
        )
        .code("unknown_url")
    }

    /// The path exists, the method does not.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        let path = shortened(path);
        Self::new(
            Kind::MethodNotAllowed,
            format!("`{path}` has no method `{method}`"),
        )
        .code("method_not_allowed")
    }

    /// The body took too long to arrive.
    pub fn body_timeout(limit: Duration) -> Self {
        let message = format!(
            "The request body did not arrive within {} s",
            limit.as_secs()
        );
        Self::new(Kind::BodyTimeout, message).code("request_timeout")
    }

    /// The body is longer than is read.
    pub fn body_too_large(max: usize) -> Self {
        let message = format!(
            "The request body is too large, expected at most {max} bytes; send fewer inputs"
        );
        Self::new(Kind::BodyTooLarge, message).code("request_too_large")
    }

    /// A file is larger than is kept.
    pub fn file_too_large(max: u64) -> Self {
        let message =
            format!("The file is too large, expected at most {max} bytes; cut it into several");
        Self::new(Kind::BodyTooLarge, message).code("file_too_large")
    }

    /// A file finds no room. Whoever sends it again soon finds none either.
    pub fn disk_full() -> Self {
        Self::new(
            Kind::StateUnavailable,
            "The server has no room for this file",
        )
        .code("disk_full")
        .retry_after(MAX_RETRY_AFTER)
    }

    /// No room now.
    pub fn overloaded(retry_after: Duration) -> Self {
        Self::new(
            Kind::Overloaded,
            "The server is full, please retry after the time in the Retry-After header",
        )
        .code("overloaded")
        .retry_after(retry_after)
    }

    /// The model is not ready yet.
    pub fn loading(retry_after: Duration) -> Self {
        Self::new(
            Kind::Loading,
            "The model is loading; `Prefer: wait=N` holds the request for up to N seconds",
        )
        .code("model_loading")
        .retry_after(retry_after)
    }

    /// We are going away.
    pub fn shutting_down() -> Self {
        Self::new(Kind::ShuttingDown, "The server is shutting down")
            .code("shutting_down")
            .retry_after(Duration::from_secs(1))
    }

    /// The route needs a model that was trained to classify. The first sentence is TEI's.
    pub fn no_classifier() -> Self {
        let message =
            "Model is not a classifier model; `POST /v1/classify` finds the nearest of your labels";
        Self::new(Kind::NoClassifier, message).code("no_classifier")
    }

    /// Our fault; the log says more.
    pub fn internal() -> Self {
        Self::new(
            Kind::Internal,
            "The server failed; its log has the reason under this request's id",
        )
        .code("internal_error")
    }

    /// Names the field.
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Gives the code that clients compare.
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER));
        self
    }

    /// Whether the same request may be answered a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        match self.kind {
            Kind::RateLimited
            | Kind::Overloaded
            | Kind::Loading
            | Kind::ShuttingDown
            | Kind::StateUnavailable => true,
            Kind::InvalidRequest
            | Kind::Unauthorized
            | Kind::PaymentRequired
            | Kind::Forbidden
            | Kind::NotFound
            | Kind::MethodNotAllowed
            | Kind::Conflict
            | Kind::BodyTimeout
            | Kind::BodyTooLarge
            | Kind::NoClassifier
            | Kind::Internal => false,
        }
    }

    /// Status and body as OpenAI's clients read them.
    pub(crate) fn openai(&self, request_id: &str) -> (u16, Value) {
        let status = self.kind.status(Family::OpenAi).as_u16();
        (status, body(self, Family::OpenAi, request_id))
    }

    /// Which field is wrong.
    pub(crate) fn field(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// The code that clients compare, for the log.
    pub(crate) fn log_code(&self) -> &'static str {
        self.code.unwrap_or("invalid_request")
    }

    /// Seconds for `Retry-After`: whole, at least 1.
    fn retry_after_s(&self) -> Option<u64> {
        let after = self.retry_after?;
        Some(after.as_secs() + u64::from(after.subsec_nanos() > 0))
            .map(|seconds| seconds.clamp(1, MAX_RETRY_AFTER.as_secs()))
    }
}

/// What strangers sent is quoted, up to a length.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    const CHARS: usize = 200;
    match text.char_indices().nth(CHARS) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Input { index, source } => refused_input(index, &source),
            BatchError::RequestTooLong { tokens, max } => Self::invalid(format!(
                "Requested {tokens} tokens or more, max {max} tokens per request"
            ))
            .param("input")
            .code("max_tokens_per_request"),
            BatchError::Full { retry_after } => Self::overloaded(retry_after),
            BatchError::Closed => Self::shutting_down(),
            BatchError::Failed => Self::internal(),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let over = |retry_after, message: String| {
            Self::new(Kind::RateLimited, message)
                .code("rate_limit_exceeded")
                .retry_after(retry_after)
        };
        match refusal {
            Refusal::Key => Self::wrong_key(),
            Refusal::Closed => {
                Self::new(Kind::Forbidden, "This account is closed").code("account_closed")
            }
            Refusal::Concurrency { limit } => over(
                Duration::from_secs(1),
                format!("Rate limit reached: {limit} requests at the same time"),
            ),
            Refusal::Requests { limit, retry_after } => over(
                retry_after,
                format!("Rate limit reached: {limit} requests per minute"),
            ),
            Refusal::Tokens { limit, retry_after } => over(
                retry_after,
                format!("Rate limit reached: {limit} tokens per minute"),
            ),
            Refusal::Budget { budget, cost } => Self::new(
                Kind::PaymentRequired,
                format!(
                    "This request costs ${cost}, more than is left of the key's ${budget} a month"
                ),
            )
            .code("budget_exceeded"),
            Refusal::Credit { available, cost } => Self::new(
                Kind::PaymentRequired,
                format!("This request costs ${cost}, the account has ${available} left"),
            )
            .code("insufficient_credit"),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::UnknownAccount { .. } | StoreError::UnknownKey { .. } => {
                Self::new(Kind::NotFound, message).code("not_found")
            }
            StoreError::Name | StoreError::Prefix | StoreError::Balance { .. } => {
                Self::invalid(message)
            }
            StoreError::Invitation => {
                Self::sign_up_refused("The invitation is unknown, was used already, or is too old")
            }
            StoreError::UnknownFile { .. } | StoreError::UnknownBatch { .. } => {
                Self::new(Kind::NotFound, message)
                    .param("id")
                    .code("not_found")
            }
            StoreError::Purpose { .. } => Self::invalid_param("input_file_id", message),
            StoreError::FileInUse { .. } => Self::new(Kind::Conflict, message).code("file_in_use"),
            StoreError::BatchEnded { .. } => Self::new(Kind::Conflict, message).code("batch_ended"),
            StoreError::FilesFull { .. } => Self::invalid(message).code("storage_limit_exceeded"),
            StoreError::TooManyBatches { .. } => {
                Self::new(Kind::RateLimited, message).code("too_many_batches")
            }
            StoreError::Closed => Self::shutting_down(),
            StoreError::Database(_) => Self::new(
                Kind::StateUnavailable,
                "The server cannot reach its accounts; nothing was billed",
            )
            .code("state_unavailable")
            .retry_after(Duration::from_secs(5)),
            StoreError::Random => Self::internal(),
        }
    }
}

/// The engine's refusal of one input in the words that clients know.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only words that have the input's number in them are written anew"
)]
pub fn refused_input(index: usize, error: &EmbedError) -> ApiError {
    let param = format!("input[{index}]");
    if let EmbedError::Forward(error) = error {
        tracing::error!(%error, "the device failed");
        return ApiError::internal();
    }
    if let EmbedError::TooLong { tokens, max, .. } = error {
        // Elasticsearch's client recognises OpenAI's words and then halves the text.
        return ApiError::invalid_param(
            param,
            format!(
                "This model's maximum context length is {max} tokens, however you requested {tokens} \
                 tokens ({tokens} in your prompt; 0 for the completion). Please reduce your prompt; or \
                 completion length."
            ),
        )
        .code("context_length_exceeded");
    }
    // The engine saw this input alone and calls it 0.
    let words = match error {
        EmbedError::TokenOutOfRange {
            position,
            found,
            vocab_size,
            ..
        } => format!(
            "input {index} has token id {found} at position {position}, expected ids below {vocab_size}"
        ),
        EmbedError::Empty { .. } => {
            format!("input {index} has no token ids, expected at least one")
        }
        EmbedError::Tokenizer { .. } => format!("input {index} cannot be tokenised"),
        error => error.to_string(),
    };
    let message = match error.hint() {
        Some(hint) => format!("{words}; {hint}"),
        None => words,
    };
    ApiError::invalid_param(param, message)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.kind.words().0.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Who reads the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// OpenAI's and Jina's clients, in one envelope.
    OpenAi,
    Cohere,
    Tei,
}

impl Family {
    fn of(path: &str) -> Self {
        const TEI: [&str; 9] = [
            "/",
            "/rerank",
            "/predict",
            "/embed",
            "/embed_all",
            "/similarity",
            "/tokenize",
            "/decode",
            "/info",
        ];
        if path.starts_with("/v2/") {
            Self::Cohere
        } else if TEI.contains(&path) {
            Self::Tei
        } else {
            Self::OpenAi
        }
    }
}

/// A page that says that there is none, with the status of that.
pub(crate) fn missing_page(mut page: Response) -> Response {
    *page.status_mut() = StatusCode::NOT_FOUND;
    page
}

/// A page that says what went wrong, with the status of that. Whoever reads pages reads no JSON.
pub(crate) fn failed_page(error: &ApiError, mut page: Response) -> Response {
    *page.status_mut() = error.kind.words().0;
    if let Some(seconds) = error.retry_after_s() {
        page.headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    page
}

/// Writes the error that a handler left in its response, as the clients of this path read it.
pub(crate) fn render(response: Response, path: &str, request_id: &str) -> Response {
    let Some(error) = response.extensions().get::<ApiError>() else {
        return response;
    };
    let family = Family::of(path);
    let status = error.kind.status(family);
    let mut rendered = (status, Json(body(error, family, request_id))).into_response();
    let headers = rendered.headers_mut();
    // What is left of the caller's limits stands there already.
    headers.extend(response.headers().clone());
    if let Some(seconds) = error.retry_after_s() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(after) = error.retry_after {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        headers.insert("retry-after-ms", millis.into());
    }
    if error.kind == Kind::Unauthorized {
        let scheme = HeaderValue::from_static("Bearer");
        headers.insert(header::WWW_AUTHENTICATE, scheme);
    }
    if error.kind == Kind::PaymentRequired {
        // OpenAI's clients would try again.
        let no = HeaderValue::from_static("false");
        headers.insert("x-should-retry", no);
    }
    if matches!(error.kind, Kind::BodyTimeout | Kind::BodyTooLarge) {
        // What is left of the body is not read.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    rendered
}

fn body(error: &ApiError, family: Family, request_id: &str) -> Value {
    let (_, openai_type, tei_type) = error.kind.words();
    let message = &error.message;
    match family {
        Family::Cohere => json!({"message": message, "id": request_id}),
        Family::Tei => json!({"error": message, "error_type": tei_type}),
        Family::OpenAi => {
            let mut inner = json!({
                "message": message,
                "type": match error.code {
                    Some("max_tokens_per_request") => "max_tokens_per_request",
                    _ => openai_type,
                },
                "param": error.param,
                "code": error.code,
            });
            if let Some(seconds) = error.retry_after_s() {
                inner["retry_after_s"] = seconds.into();
            }
            json!({"error": inner, "detail": message, "request_id": request_id})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_envelope_has_all_that_openai_and_jina_clients_read() {
        let error = ApiError::overloaded(Duration::from_millis(1500));
        let body = body(&error, Family::OpenAi, "req-1");
        let expected = json!({
            "error": {
                "message": error.message, "type": "server_error", "param": null,
                "code": "overloaded", "retry_after_s": 2,
            },
            "detail": error.message,
            "request_id": "req-1",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn each_family_gets_its_status_and_shape() {
        let status = |path: &str, error: ApiError| {
            render(error.into_response(), path, "req-1")
                .status()
                .as_u16()
        };
        let full = || ApiError::overloaded(Duration::ZERO);
        assert_eq!(status("/v1/embeddings", full()), 503);
        assert_eq!(status("/embed", full()), 429);
        assert_eq!(status("/embed", ApiError::invalid("x")), 422);
        assert_eq!(status("/v2/embed", ApiError::invalid("x")), 400);
        let cohere = body(&ApiError::invalid("x"), Family::Cohere, "req-1");
        assert_eq!(cohere, json!({"message": "x", "id": "req-1"}));
        let tei = body(&ApiError::invalid("x"), Family::Tei, "req-1");
        assert_eq!(tei, json!({"error": "x", "error_type": "Validation"}));
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_clients_wait() {
        let error = ApiError::overloaded(Duration::from_secs(100_000));
        assert_eq!(error.retry_after_s(), Some(120));
        assert_eq!(ApiError::loading(Duration::ZERO).retry_after_s(), Some(1));
    }
}
