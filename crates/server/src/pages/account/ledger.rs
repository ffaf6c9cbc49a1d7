//! `/account/ledger`: what was billed and what was credited, in pages and as CSV.

use askama::Template;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use serde::Deserialize;

use super::super::form::Fields;
use super::super::frame::{self, Frame};
use super::super::numbers::{grouped, money};
use super::super::session::{PLACES, Visit};
use super::super::usage_view::minute;
use super::asked;
use crate::error::ApiError;
use crate::store::ledger::{self, Entry, EntryKind, Selection, csv};
use crate::store::usage::DAY_MS;
use crate::store::{Store, StoreError, Time, keys};

#[derive(Template)]
#[template(path = "ledger.html")]
struct LedgerPage<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    lines: Vec<Line>,
    is_first: bool,
    /// Where the next page begins.
    before: Option<i64>,
    today: String,
}

/// An entry in words.
struct Line {
    seq: i64,
    at: String,
    is_credit: bool,
    key: String,
    model: String,
    tier: String,
    tokens: String,
    amount: String,
    balance: String,
    request_id: String,
    note: String,
}

/// Entries on a page.
const PAGE: usize = 50;

/// `?before=…`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Before {
    before: Option<String>,
}

/// `GET /account/ledger`.
pub(crate) async fn page(
    visit: Visit,
    query: Result<Query<Before>, QueryRejection>,
) -> Result<Response, ApiError> {
    let before = asked(query).before.and_then(|seq| seq.parse().ok());
    let id = visit.key.account_id.clone();
    let read = visit.read(move |database| {
        let limit = PAGE as i64 + 1;
        Ok((
            ledger::latest(database, &id, before, limit)?,
            keys::list(database, Some(&id), Time::now())?,
        ))
    });
    let (mut entries, keys) = read.await?;
    let has_more = entries.len() > PAGE;
    entries.truncate(PAGE);
    let last = entries.last().map(|entry| entry.seq);
    let key_name = |id: Option<String>| {
        let id = id.unwrap_or_default();
        let key = keys.iter().find(|key| key.id == id);
        key.map_or(id, |key| key.name.clone())
    };
    let line = |entry: Entry| Line {
        seq: entry.seq,
        at: minute(Time(entry.at_ms)),
        is_credit: entry.event.kind == EntryKind::Credit,
        key: key_name(entry.event.key_id),
        model: entry.event.model.unwrap_or_default(),
        tier: entry.event.tier.unwrap_or_default(),
        tokens: grouped(entry.event.tokens.unsigned_abs()),
        amount: money(entry.event.amount),
        balance: money(entry.balance),
        request_id: entry.event.request_id.unwrap_or_default(),
        note: entry.event.note.unwrap_or_default(),
    };
    Ok(frame::private_page(&LedgerPage {
        frame: &visit.frame,
        visit: &visit,
        lines: entries.into_iter().map(line).collect(),
        is_first: before.is_none(),
        before: last.filter(|_| has_more),
        today: super::super::usage_view::day(Time::now().0),
    }))
}

/// Entries that are read and sent at once.
const PIECE: i64 = 1000;

/// `GET /account/ledger.csv?from=…&until=…`: all days, the last one included.
pub(crate) async fn download(
    visit: Visit,
    query: Result<Query<Fields>, QueryRejection>,
) -> Result<Response, ApiError> {
    let days = asked(query);
    let until = days.day("until", "Until")?;
    let selection = Selection {
        account_id: Some(visit.key.account_id.clone()),
        from_ms: days.day("from", "From")?.map(|day| day.0),
        until_ms: until.map(|day| day.0.saturating_add(DAY_MS)),
    };
    let (mut pieces, body) = Channel::<Bytes, StoreError>::new(1);
    let hosting = std::sync::Arc::clone(&visit.hosting);
    tokio::spawn(async move {
        let names = csv::line(csv::COLUMNS);
        // A reader who went away is no failure.
        let _ = pieces.send_data(names.into()).await;
        let mut after = 0;
        loop {
            match piece(&hosting.store, selection.clone(), after).await {
                Ok((text, Some(last))) => {
                    after = last;
                    if pieces.send_data(text.into()).await.is_err() {
                        return;
                    }
                }
                Ok((_, None)) => return,
                // The transfer breaks off, so that half a file is not taken for a whole one.
                Err(error) => return pieces.abort(error),
            }
        }
    });
    let name = format!(
        "attachment; filename=\"ledger-{}.csv\"",
        visit.key.account_id
    );
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    // Compression asks once more after the end, which a channel does not take.
    Ok((headers, Body::new(body.fuse())).into_response())
}

/// The lines behind the entry at `after`, and the last one's place; none at the ledger's end.
async fn piece(
    store: &Store,
    selection: Selection,
    after: i64,
) -> Result<(String, Option<i64>), StoreError> {
    let read = store.read(move |database| {
        let entries = ledger::page(database, &selection, after, PIECE)?;
        let lines: Vec<String> = entries
            .iter()
            .map(|entry| csv::line(csv::cells(entry)))
            .collect();
        Ok((lines.concat(), entries.last().map(|entry| entry.seq)))
    });
    read.await
}
