//! `/account/batches` and `/admin/batches`: how far batches are, what they took and what they wrote. The
//! account's holders load files and cancel; operators cancel, and see no file: texts are not theirs.

use std::collections::{HashMap, HashSet};

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::account::asked;
use super::frame::{self, Frame};
use super::numbers::{grouped, money, span};
use super::session::{AdminVisit, PLACES, Posted, Visit};
use super::usage_view::minute;
use crate::error::{self, ApiError};
use crate::routes::files::{jobs, sent};
use crate::store::batches::{self, BatchStatus, Selection, StoredBatch};
use crate::store::files::{self, Listed, Page};
use crate::store::{Database, StoreError, Time, accounts};

#[derive(Template)]
#[template(path = "batches.html")]
struct BatchesPage<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    place: Place,
    /// The one account whose batches an operator looks at: id and name.
    only: Option<(String, String)>,
    lines: Vec<Line>,
    is_open: bool,
    is_first: bool,
    ways: Ways,
    problem: Option<String>,
}

/// Addresses of other batches of the same account, or of all.
struct Ways {
    all: String,
    open: String,
    newest: String,
    /// Where there are older ones.
    older: Option<String>,
}

/// Which of the two pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Account,
    Operator,
}

impl Place {
    fn path(self) -> &'static str {
        match self {
            Self::Account => "/account/batches",
            Self::Operator => "/admin/batches",
        }
    }
}

/// A batch in words.
struct Line {
    id: String,
    /// Id and name of the account that pays.
    account: (String, String),
    /// What its owner wrote on it.
    notes: Vec<(String, String)>,
    model: Option<String>,
    status: String,
    /// How the status is drawn.
    tone: &'static str,
    /// Lines that were met, and all; none before they were counted.
    met: i64,
    total: i64,
    lines: String,
    failed: Option<String>,
    errors: Vec<String>,
    /// Beyond those.
    more_errors: usize,
    tokens: String,
    cost: String,
    created: String,
    end: String,
    files: Vec<FileLine>,
    can_be_cancelled: bool,
}

/// A file of a batch.
struct FileLine {
    what: &'static str,
    id: String,
    /// Whether it is still there.
    is_kept: bool,
}

/// Batches on a page.
const PAGE: i64 = 20;
/// Errors of a batch that are shown; the API has all.
const ERRORS: usize = 5;

impl Line {
    fn new(batch: StoredBatch, found: &Found, now: Time) -> Self {
        let progress = batch.progress;
        let met = progress.completed + progress.failed;
        let count = |number: i64| grouped(number.unsigned_abs());
        let status = batch.status;
        let written = [
            ("input", &batch.input_file_id, i64::MAX),
            ("output", &batch.output_file_id, progress.output_bytes),
            ("errors", &batch.error_file_id, progress.error_bytes),
        ];
        // A batch's own files are there once it has ended.
        let is_there = |what, bytes| what == "input" || batch.ended.is_some() && bytes > 0;
        let files = written
            .into_iter()
            .filter(|(what, _, bytes)| is_there(*what, *bytes))
            .map(|(what, id, _)| FileLine {
                what,
                id: id.clone(),
                is_kept: found.kept.contains(id),
            })
            .collect();
        let name = found.names.get(&batch.owner);
        let shown_errors = batch.errors.iter().take(ERRORS);
        Self {
            account: (batch.owner.clone(), name.unwrap_or(&batch.owner).to_owned()),
            notes: batch.metadata.unwrap_or_default().into_iter().collect(),
            model: batch.model,
            status: status.name().replace('_', " "),
            tone: tone(status),
            met,
            total: batch.total,
            lines: match batch.total {
                0 if status.is_final() => "none ran".to_owned(),
                0 => "not counted yet".to_owned(),
                total => format!("{} of {} lines", count(met), count(total)),
            },
            failed: (progress.failed > 0).then(|| format!("{} failed", count(progress.failed))),
            more_errors: batch.errors.len().saturating_sub(ERRORS),
            errors: shown_errors
                .map(|error| match error.line {
                    Some(line) => format!("Line {line}: {}", error.message),
                    None => error.message.clone(),
                })
                .collect(),
            tokens: count(progress.tokens),
            cost: money(batch.cost),
            created: minute(batch.created),
            end: match batch.ended {
                Some(ended) => format!("ended after {}", span(ended.since(batch.created))),
                None if batch.expires <= now => "its time is over".to_owned(),
                None => format!("{} left", span(batch.expires.since(now))),
            },
            files,
            can_be_cancelled: !status.is_final()
                && status != BatchStatus::Finalizing
                && status != BatchStatus::Cancelling,
            id: batch.id,
        }
    }
}

fn tone(status: BatchStatus) -> &'static str {
    match status {
        BatchStatus::InProgress => "live",
        BatchStatus::Validating | BatchStatus::Finalizing | BatchStatus::Cancelling => "loading",
        BatchStatus::Failed | BatchStatus::Expired => "failed",
        BatchStatus::Completed => "done",
        BatchStatus::Cancelled => "closed",
    }
}

/// `?show=open&after=…&account=…`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    show: Option<String>,
    after: Option<String>,
    account: Option<String>,
}

/// What of it means something.
#[derive(Debug, Clone, Default)]
struct Shown {
    is_open: bool,
    after: Option<String>,
    account: Option<String>,
}

impl ListQuery {
    fn shown(self, place: Place) -> Shown {
        // Ids of ours stand in addresses as they are.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let plain = |text: &String| !text.is_empty() && text.bytes().all(is_plain);
        Shown {
            is_open: self.show.as_deref() == Some("open"),
            after: self.after.filter(plain),
            account: self
                .account
                .filter(|id| plain(id) && place == Place::Operator),
        }
    }
}

impl Shown {
    /// The address of a page of the same account.
    fn address(&self, place: Place, is_open: bool, after: Option<&str>) -> String {
        let pairs = [
            ("show", is_open.then_some("open")),
            ("account", self.account.as_deref()),
            ("after", after),
        ];
        let mut address = place.path().to_owned();
        for (name, value) in pairs {
            if let Some(value) = value {
                let mark = if address.contains('?') { '&' } else { '?' };
                address.push_str(&format!("{mark}{name}={value}"));
            }
        }
        address
    }
}

/// `GET /account/batches`.
pub(super) async fn own(
    visit: Visit,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let shown = asked(query).shown(Place::Account);
    list(&visit, Place::Account, shown, None).await
}

/// `GET /admin/batches`.
pub(super) async fn everyones(
    AdminVisit(visit): AdminVisit,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let shown = asked(query).shown(Place::Operator);
    list(&visit, Place::Operator, shown, None).await
}

/// What a page shows.
struct Found {
    batches: Listed<StoredBatch>,
    /// Of the accounts that pay.
    names: HashMap<String, String>,
    /// Ids of files that are still there.
    kept: HashSet<String>,
}

impl Found {
    fn read(
        database: &mut dyn Database,
        place: Place,
        selection: &Selection,
        page: &Page,
    ) -> Result<Self, StoreError> {
        let batches = batches::select(database, selection, page)?;
        let mut names = HashMap::new();
        let mut kept = HashSet::new();
        for batch in &batches.items {
            if !names.contains_key(&batch.owner) {
                let account = accounts::find(database, &batch.owner)?;
                names.insert(batch.owner.clone(), account.name);
            }
            if place == Place::Operator {
                continue;
            }
            for id in [
                &batch.input_file_id,
                &batch.output_file_id,
                &batch.error_file_id,
            ] {
                match files::find(database, &batch.owner, id, Time::now()) {
                    Ok(file) => kept.extend([file.id]),
                    Err(StoreError::UnknownFile { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Self {
            batches,
            names,
            kept,
        })
    }
}

async fn list(
    visit: &Visit,
    place: Place,
    shown: Shown,
    problem: Option<&ApiError>,
) -> Result<Response, ApiError> {
    // Where no files are kept there are no batches.
    jobs(&visit.app)?;
    let selection = Selection {
        owner: match place {
            Place::Account => Some(visit.key.account_id.clone()),
            Place::Operator => shown.account.clone(),
        },
        is_open: shown.is_open,
    };
    let page = Page {
        after: shown.after.clone(),
        limit: PAGE,
        is_ascending: false,
    };
    let only = shown.account.clone();
    let read = visit.read(move |database| {
        let only = match only {
            Some(id) => Some(accounts::find(database, &id)?),
            None => None,
        };
        Ok((Found::read(database, place, &selection, &page)?, only))
    });
    let (mut found, only) = read.await?;
    let batches = std::mem::take(&mut found.batches.items);
    let last = batches.last().map(|batch| batch.id.clone());
    let older = last.filter(|_| found.batches.has_more);
    let now = Time::now();
    let lines = batches
        .into_iter()
        .map(|batch| Line::new(batch, &found, now));
    let page = frame::private_page(&BatchesPage {
        frame: &visit.frame,
        visit,
        place,
        only: only.map(|account| (account.id, account.name)),
        lines: lines.collect(),
        is_open: shown.is_open,
        is_first: shown.after.is_none(),
        ways: Ways {
            all: shown.address(place, false, None),
            open: shown.address(place, true, None),
            newest: shown.address(place, shown.is_open, None),
            older: older.map(|after| shown.address(place, shown.is_open, Some(&after))),
        },
        problem: problem.map(ToString::to_string),
    });
    Ok(match problem {
        Some(problem) => error::failed_page(problem, page),
        None => page,
    })
}

/// `POST /account/batches/{id}/cancel`, with any key of the account, as over the API.
pub(super) async fn cancel_own(
    Path(id): Path<String>,
    Posted(visit, _): Posted<Visit>,
) -> Result<Response, ApiError> {
    let owner = visit.key.account_id.clone();
    cancel(&visit, Place::Account, owner, id).await
}

/// `POST /admin/batches/{account}/{id}/cancel`.
pub(super) async fn cancel_anyones(
    Path((owner, id)): Path<(String, String)>,
    Posted(AdminVisit(visit), _): Posted<AdminVisit>,
) -> Result<Response, ApiError> {
    cancel(&visit, Place::Operator, owner, id).await
}

async fn cancel(
    visit: &Visit,
    place: Place,
    owner: String,
    id: String,
) -> Result<Response, ApiError> {
    let jobs = jobs(&visit.app)?;
    let cancelled =
        visit.change(move |database, change| batches::cancel_noted(database, change, &owner, &id));
    match cancelled.await {
        Ok(_) => {
            jobs.news.notify_one();
            Ok(Redirect::to(place.path()).into_response())
        }
        Err(error) => list(visit, place, Shown::default(), Some(&error)).await,
    }
}

/// `GET /account/files/{id}`: what a file of the account holds.
pub(super) async fn file(visit: Visit, Path(id): Path<String>) -> Result<Response, ApiError> {
    let owner = visit.key.account_id.clone();
    let found = visit.read(move |database| files::find(database, &owner, &id, Time::now()));
    let file = found.await?;
    let name = format!("attachment; filename=\"{}.jsonl\"", file.id);
    let mut answer = sent(jobs(&visit.app)?, file).await?;
    let headers = answer.headers_mut();
    // Ids are letters and digits of our own making.
    if let Ok(name) = HeaderValue::try_from(name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_an_address_is_an_id_of_ours_or_nothing() {
        let asked = |text: &str| ListQuery {
            show: Some(text.to_owned()),
            after: Some(text.to_owned()),
            account: Some(text.to_owned()),
        };
        let shown = asked("open").shown(Place::Operator);
        assert!(shown.is_open);
        assert_eq!(
            shown.address(Place::Operator, true, Some("batch_a")),
            "/admin/batches?show=open&account=open&after=batch_a"
        );
        let shown = asked("\"><script>&x=1").shown(Place::Operator);
        assert_eq!(
            shown.address(Place::Operator, false, None),
            "/admin/batches"
        );
        assert_eq!((shown.is_open, shown.after), (false, None));
        // An account's holder sees no other account, whatever is asked for.
        assert_eq!(asked("acct-b").shown(Place::Account).account, None);
    }
}
