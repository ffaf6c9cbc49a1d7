//! `/quality`: what smaller vectors cost, on the visitor's own documents and queries. The page's script
//! asks `/v1/quality`; this server keeps none of the texts.

use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use quintet_engine::quality::SAMPLE;

use super::frame::{self, Frame};
use super::model::called;
use super::numbers::grouped;
use crate::app::SharedApp;
use crate::catalogue::{Entry, Status};

#[derive(Template)]
#[template(path = "quality.html")]
struct Quality<'a> {
    frame: Frame,
    entry: Option<&'a Entry>,
    is_live: bool,
    /// The model's name in requests.
    model: String,
    /// Micro-dollars per million tokens; nothing is charged at 0.
    price: u64,
    /// Texts of one request.
    texts: String,
    /// Of one request.
    bytes: usize,
    sample: &'static str,
}

/// `GET /quality`.
pub(super) async fn page(State(app): State<SharedApp>, headers: HeaderMap) -> Response {
    let entry = app.served_entry();
    frame::page(&Quality {
        frame: Frame::new(&app, &headers, "/quality"),
        is_live: entry.is_none_or(|entry| app.status(entry) == Status::Live),
        model: match (app.service_now(), entry) {
            (Some(service), _) => service.model.id().to_owned(),
            (None, Some(entry)) => called(&app, entry),
            (None, None) => "model".to_owned(),
        },
        entry,
        price: app
            .price
            .map_or(0, |price| price.realtime_micro_usd_per_million),
        texts: grouped(app.config.limits.inputs as u64),
        bytes: app.config.limits.body_bytes,
        sample: SAMPLE,
    })
}
