//! `/playground`: the model tried out in the browser. The page's scripts ask the public routes; this
//! server keeps none of the texts.

use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::frame::{self, Frame};
use super::model::called;
use crate::app::{App, SharedApp};
use crate::catalogue::{Entry, Status};

#[derive(Template)]
#[template(path = "playground.html")]
struct Playground<'a> {
    frame: Frame,
    entry: Option<&'a Entry>,
    is_live: bool,
    /// The model's name in requests.
    model: String,
    tasks: Vec<String>,
    dimensions: Vec<usize>,
    full: usize,
    /// Micro-dollars per million tokens; nothing is charged at 0.
    price: u64,
}

/// Before the model is loaded, and for one that the catalogue does not know.
const TASKS: [&str; 6] = [
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
    "raw",
];

/// The tasks of the model in service, which knows best; the usual ones while it is loaded.
pub(super) fn tasks(app: &App) -> Vec<String> {
    match app.service_now() {
        Some(service) => service.model.tasks().map(str::to_owned).collect(),
        None => TASKS.map(str::to_owned).to_vec(),
    }
}

/// `GET /playground`.
pub(super) async fn page(State(app): State<SharedApp>, headers: HeaderMap) -> Response {
    let entry = app.served_entry();
    let service = app.service_now();
    let dimensions = match &service {
        Some(service) => service
            .model
            .embedder
            .config()
            .matryoshka_dimensions
            .clone(),
        None => entry.map_or(Vec::new(), |it| {
            it.dimensions.iter().map(|&size| size as usize).collect()
        }),
    };
    frame::page(&Playground {
        frame: Frame::new(&app, &headers, "/playground"),
        is_live: entry.is_none_or(|entry| app.status(entry) == Status::Live),
        model: match (&service, entry) {
            (Some(service), _) => service.model.id().to_owned(),
            (None, Some(entry)) => called(&app, entry),
            (None, None) => "model".to_owned(),
        },
        entry,
        tasks: tasks(&app),
        full: dimensions.last().copied().unwrap_or_default(),
        dimensions,
        price: app
            .price
            .map_or(0, |price| price.realtime_micro_usd_per_million),
    })
}
