//! `/`: all models, as cards and as a table.

use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::frame::{self, Frame};
use super::numbers::{counted, dollars, grouped};
use crate::app::{App, SharedApp};
use crate::catalogue::{Availability, Entry, Status};

#[derive(Template)]
#[template(path = "models.html")]
struct Models<'a> {
    frame: Frame,
    listed: Vec<Listed<'a>>,
}

/// An entry as it stands in a list or a comparison.
pub(super) struct Listed<'a> {
    pub(super) entry: &'a Entry,
    pub(super) status: Status,
    pub(super) parameters: String,
    pub(super) context: String,
    pub(super) dimensions: String,
    pub(super) license: &'a str,
    pub(super) price: PriceWords,
}

/// What its use costs.
pub(super) struct PriceWords {
    /// The price of a request in its turn, or that there is none.
    pub(super) realtime: String,
    /// That of one that lets others go first, where it is known.
    pub(super) batch: Option<String>,
    /// For sorting, in micro-dollars.
    pub(super) micro: Option<u64>,
    /// What is to be said beside it.
    pub(super) note: Option<&'static str>,
}

/// Where nothing is known.
pub(super) const UNKNOWN: &str = "not known";

impl<'a> Listed<'a> {
    pub(super) fn new(app: &'a App, entry: &'a Entry) -> Self {
        let counted_or = |number: Option<u64>| number.map_or(UNKNOWN.to_owned(), counted);
        let dimensions = match (entry.dimensions.first(), entry.full_dimensions()) {
            (Some(&least), Some(full)) if least < full => {
                format!("{} to {}", grouped(least.into()), grouped(full.into()))
            }
            (_, Some(full)) => grouped(full.into()),
            (_, None) => UNKNOWN.to_owned(),
        };
        let context = entry.context_tokens.map(|tokens| grouped(tokens.into()));
        Self {
            entry,
            status: app.status(entry),
            parameters: counted_or(entry.parameters),
            context: context.unwrap_or_else(|| UNKNOWN.to_owned()),
            dimensions,
            license: entry.license.as_ref().map_or(UNKNOWN, |it| it.id.as_str()),
            price: PriceWords::new(entry),
        }
    }
}

impl PriceWords {
    fn new(entry: &Entry) -> Self {
        if let Some(price) = entry.price {
            return Self {
                realtime: dollars(price.realtime_micro_usd_per_million),
                batch: Some(dollars(price.batch_micro_usd_per_million)),
                micro: Some(price.realtime_micro_usd_per_million),
                note: None,
            };
        }
        if let Some(price) = &entry.published_price {
            return Self {
                realtime: dollars(price.micro_usd_per_million),
                batch: None,
                micro: Some(price.micro_usd_per_million),
                note: Some("at its owner's"),
            };
        }
        Self {
            realtime: "no charge".to_owned(),
            batch: None,
            micro: Some(0),
            note: match entry.availability {
                Availability::Runnable => None,
                Availability::ComingSoon | Availability::Comparison => Some("open weights"),
            },
        }
    }
}

/// `GET /`.
pub(super) async fn page(State(app): State<SharedApp>, headers: HeaderMap) -> Response {
    let entries = app.config.catalogue.entries().iter();
    let mut listed: Vec<Listed<'_>> = entries.map(|entry| Listed::new(&app, entry)).collect();
    // What answers comes first, the rest as in the catalogue.
    listed.sort_by_key(|it| it.status);
    let frame = Frame::new(&app, &headers, "/");
    frame::page(&Models { frame, listed })
}
