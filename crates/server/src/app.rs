//! The server on one screen: its state, its routes, its layers.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;
use tower::ServiceBuilder;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::map_request_body::MapRequestBodyLayer;

use crate::auth::{self, Access, Auth};
use crate::batcher::Batcher;
use crate::budget::Budget;
use crate::catalogue::{Entry, LicenseError, Status};
use crate::config::{Config, Cors};
use crate::error::ApiError;
use crate::metering::Price;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::observe;
use crate::pages;
use crate::routes::{
    account, admin, batches, classify, cohere, docs, embeddings, files, health, models, quality,
    rerank, segment, tei,
};

/// What every handler sees.
#[derive(Debug)]
pub struct App {
    /// What the operator decided.
    pub config: Config,
    /// Who may call.
    pub auth: Auth,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Room for request bodies.
    pub body_bytes: Budget,
    /// What the model's use may be charged at, `None` where nothing is charged.
    pub price: Option<Price>,
    /// The id of the model's entry in the catalogue.
    served_id: Option<String>,
    readiness: watch::Sender<Readiness>,
}

/// The state as axum hands it around.
pub type SharedApp = Arc<App>;

/// A model in service.
#[derive(Debug)]
pub struct Service {
    /// Its names and tasks.
    pub model: Model,
    /// What runs it.
    pub batcher: Batcher,
}

/// Whether requests can be answered.
#[derive(Debug, Clone)]
enum Readiness {
    Loading,
    Ready(Arc<Service>),
}

/// While the model loads, clients are asked to come back after this time.
const LOADING_RETRY: Duration = Duration::from_secs(5);

impl App {
    /// A server without a model yet.
    ///
    /// # Errors
    /// [`LicenseError`] for a price that the licence of the weights forbids.
    pub fn new(mut config: Config) -> Result<Self, LicenseError> {
        let entry = config.serves.as_deref().map(|name| {
            let entry = config.catalogue.entry_or_unlisted(name);
            if let Auth::Accounts(hosting) = &config.auth {
                // The pages say what accounts are charged.
                entry.price = hosting.config.price;
            }
            entry.clone()
        });
        let acknowledged = config.acknowledge_license.as_deref();
        let price = match &entry {
            Some(entry) => entry.active_price(acknowledged)?,
            None => None,
        };
        Ok(Self {
            auth: config.auth.clone(),
            metrics: Arc::default(),
            body_bytes: Budget::new(config.limits.bodies_bytes),
            readiness: watch::Sender::new(Readiness::Loading),
            price,
            served_id: entry.map(|entry| entry.id),
            config,
        })
    }

    /// What the catalogue says about the model that is or will be in service.
    pub fn served_entry(&self) -> Option<&Entry> {
        self.config.catalogue.entry(self.served_id.as_deref()?)
    }

    /// The model that is charged for although its licence forbids it, and that licence: the operator has
    /// acknowledged it.
    pub fn acknowledged_license(&self) -> Option<(&str, &str)> {
        self.price?;
        let entry = self.served_entry()?;
        let license = entry.license.as_ref().filter(|it| !it.commercial_use)?;
        Some((&entry.id, &license.id))
    }

    /// How an entry's model stands here and now.
    pub fn status(&self, entry: &Entry) -> Status {
        let is_served = self.served_id.as_ref() == Some(&entry.id);
        Status::of(entry, is_served, self.service_now().is_some())
    }

    /// Takes a model into service.
    pub fn ready(&self, service: Arc<Service>) {
        self.readiness.send_replace(Readiness::Ready(service));
    }

    /// The model in service, if it is ready.
    pub fn service_now(&self) -> Option<Arc<Service>> {
        match &*self.readiness.borrow() {
            Readiness::Ready(service) => Some(Arc::clone(service)),
            Readiness::Loading => None,
        }
    }

    /// The model in service, however long it takes to be ready.
    pub(crate) async fn service_in_time(&self) -> Option<Arc<Service>> {
        let mut readiness = self.readiness.subscribe();
        let is_ready = |readiness: &Readiness| matches!(readiness, Readiness::Ready(_));
        // It is our own, so it does not end before us.
        let _ = readiness.wait_for(is_ready).await;
        self.service_now()
    }

    /// The model in service; waits for it as long as the caller prefers and the operator allows.
    ///
    /// # Errors
    /// 503 while it loads.
    pub async fn service(&self, wait: Duration) -> Result<Arc<Service>, ApiError> {
        let mut readiness = self.readiness.subscribe();
        let is_ready = |readiness: &Readiness| matches!(readiness, Readiness::Ready(_));
        let wait = wait.min(self.config.limits.max_wait);
        // Whether it came or not is looked at below.
        let _ = tokio::time::timeout(wait, readiness.wait_for(is_ready)).await;
        self.service_now()
            .ok_or_else(|| ApiError::loading(LOADING_RETRY))
    }
}

/// Routes and layers.
pub fn router(app: &SharedApp) -> Router {
    let guarded = |access| from_fn_with_state((Arc::clone(app), access), auth::check_access);
    let billed = Router::new()
        // OpenAI's and Jina's; some clients leave `/v1` out.
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/embeddings", post(embeddings::embeddings))
        .route("/v1/classify", post(classify::classify))
        .route("/classify", post(classify::classify))
        .route("/v1/rerank", post(rerank::rerank))
        // Quintet's own.
        .route("/v1/quality", post(quality::quality))
        // Text Embeddings Inference's.
        .route("/rerank", post(tei::rerank))
        .route("/", post(tei::embed))
        .route("/embed", post(tei::embed))
        .route("/embed_all", post(tei::embed_all))
        .route("/similarity", post(tei::similarity))
        // Cohere's.
        .route("/v2/embed", post(cohere::embed))
        .route_layer(guarded(Access::Model));
    let free = Router::new()
        .route("/v1/estimate", post(account::estimate))
        .route("/v1/segment", post(segment::segment))
        .route("/segment", post(segment::segment))
        .route("/predict", post(tei::predict))
        .route("/tokenize", post(tei::tokenize))
        .route("/decode", post(tei::decode))
        .route("/info", get(tei::info))
        .route("/v1/models", get(models::list))
        .route("/models", get(models::list))
        // Ids of the hub contain a slash.
        .route("/v1/models/{*id}", get(models::one))
        .route("/models/{*id}", get(models::one))
        .route_layer(guarded(Access::Free))
        .route_layer(from_fn_with_state(Arc::clone(app), pages::for_browsers));
    let account = Router::new()
        // gigarouter's, and the same beside the others.
        .route("/account", get(account::account))
        .route("/v1/account", get(account::account))
        .route_layer(guarded(Access::Account))
        .route_layer(from_fn(pages::account_for_browsers));
    let kept = Router::new()
        // OpenAI's, for requests that may take a day.
        .route(
            "/v1/files",
            // Files have limits of their own.
            get(files::list)
                .post(files::upload)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/v1/files/{id}", get(files::one).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/batches", get(batches::list).post(batches::create))
        .route("/v1/batches/{id}", get(batches::one))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route_layer(guarded(Access::Free));
    let admin = Router::new()
        .route(
            "/v1/admin/accounts",
            get(admin::accounts).post(admin::create_account),
        )
        .route("/v1/admin/accounts/{id}", get(admin::account))
        .route("/v1/admin/accounts/{id}/credit", post(admin::grant))
        .route("/v1/admin/accounts/{id}/limits", post(admin::limit_account))
        .route("/v1/admin/accounts/{id}/closed", post(admin::close_account))
        .route("/v1/admin/invitations", post(admin::invite))
        .route("/v1/admin/keys", get(admin::keys).post(admin::create_key))
        .route("/v1/admin/keys/{id}", get(admin::key))
        .route("/v1/admin/keys/{id}/rotate", post(admin::rotate_key))
        .route("/v1/admin/keys/{id}/revoke", post(admin::revoke_key))
        .route("/v1/admin/keys/{id}/limits", post(admin::limit_key))
        .route("/v1/admin/usage", get(admin::usage))
        .route("/v1/admin/ledger", get(admin::entries))
        .route("/v1/admin/audit", get(admin::audit))
        .route_layer(guarded(Access::Admin));
    let open = Router::new()
        .route("/v1/sign-up", post(account::sign_up))
        .route("/health", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::page));
    // Within the layers that count and name requests: the body is unpacked as it is read, so that all
    // limits count what comes out. An unknown encoding is read as it came.
    let unpacking = ServiceBuilder::new()
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .layer(MapRequestBodyLayer::new(Body::new));
    billed
        .merge(free)
        .merge(account)
        .merge(kept)
        .merge(admin)
        .merge(open)
        .merge(pages::routes(app))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(unpacking)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(app), observe::observe))
        .layer(cors(&app.config.cors))
        // Where a client asks for it; speed before size, for a vector's digits are mostly noise.
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .with_state(Arc::clone(app))
}

async fn unknown_route(request: Request) -> ApiError {
    ApiError::unknown_route(request.method().as_str(), request.uri().path())
}

async fn unknown_method(request: Request) -> ApiError {
    ApiError::method_not_allowed(request.method().as_str(), request.uri().path())
}

/// The panic's own words are on stderr already.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal().into_response()
}

/// Headers that a page may read beside the usual.
const EXPOSED: [&str; 20] = [
    "x-request-id",
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-cost-usd",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "x-token-encoding",
    "x-compute-characters",
    "x-compute-tokens",
    "x-compute-time",
    "x-total-time",
    "x-tokenization-time",
    "x-queue-time",
    "x-inference-time",
];

fn cors(config: &Cors) -> CorsLayer {
    let origins = match config {
        Cors::Off => return CorsLayer::new(),
        Cors::Any => AllowOrigin::any(),
        Cors::Origins(origins) => {
            let origins = origins.iter().filter_map(|origin| origin.parse().ok());
            AllowOrigin::list(origins.collect::<Vec<HeaderValue>>())
        }
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::DELETE, Method::GET, Method::POST])
        // OpenAI's client for browsers sends headers of its own beside the key.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(Duration::from_secs(3600))
}
