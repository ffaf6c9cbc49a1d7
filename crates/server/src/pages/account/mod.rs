//! `/account/…`: what the holder of a key sees of the account that pays.
//!
//! - here: balance, credit and usage; `keys`: made, named, limited and ended; `ledger`: what was billed

pub(super) mod keys;
pub(super) mod ledger;

use std::collections::HashMap;

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;

use super::frame::{self, Frame};
use super::numbers::{grouped, money};
use super::session::{PLACES, Visit};
use super::usage_view::{ShownQuery, UsageView, minute};
use crate::error::ApiError;
use crate::metering::{PicoUsd, Rates};
use crate::store::accounts::{self, Account};
use crate::store::keys::Key;
use crate::store::ledger::Entry;
use crate::store::usage::{self, Part};
use crate::store::{Time, ledger as entries};

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    account: &'a Account,
    money: Money,
    credits: Vec<Credit>,
    usage: UsageView,
}

/// What an account has, in words.
pub(super) struct Money {
    pub(super) available: String,
    pub(super) balance: String,
    /// Set aside for what runs, where something does.
    pub(super) held: Option<String>,
    pub(super) is_used_up: bool,
}

impl Money {
    pub(super) fn new(account: &Account) -> Self {
        let available = account.balance_usd.0.saturating_sub(account.held_usd.0);
        Self {
            available: money(PicoUsd(available)),
            balance: money(account.balance_usd),
            held: (account.held_usd > PicoUsd::ZERO).then(|| money(account.held_usd)),
            is_used_up: account.is_prepaid && available <= 0,
        }
    }
}

/// Credit that was given, in words.
pub(super) struct Credit {
    pub(super) at: String,
    pub(super) amount: String,
    pub(super) note: String,
}

impl Credit {
    pub(super) fn new(entry: Entry) -> Self {
        Self {
            at: minute(Time(entry.at_ms)),
            amount: money(entry.event.amount),
            note: entry.event.note.unwrap_or_default(),
        }
    }
}

/// So many are listed.
pub(super) const CREDITS: i64 = 5;

/// What stands behind `?`; nothing where that cannot be read.
pub(super) fn asked<T: Default>(query: Result<Query<T>, QueryRejection>) -> T {
    query.map(|Query(value)| value).unwrap_or_default()
}

/// `GET /account/overview`.
pub(crate) async fn overview(
    visit: Visit,
    query: Result<Query<ShownQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (shown, now) = (asked(query).shown(), Time::now());
    let id = visit.key.account_id.clone();
    let read = visit.read(move |database| {
        Ok((
            accounts::find(database, &id)?,
            crate::store::keys::list(database, Some(&id), now)?,
            entries::credits(database, &id, CREDITS)?,
            usage::since(database, Some(&id), shown.first_day_ms(now))?,
        ))
    });
    let (account, keys, credits, parts) = read.await?;
    Ok(frame::private_page(&Overview {
        frame: &visit.frame,
        visit: &visit,
        money: Money::new(&account),
        account: &account,
        credits: credits.into_iter().map(Credit::new).collect(),
        usage: UsageView::new(
            &parts,
            shown,
            now,
            &[("key", &key_name(&keys)), ("task", &task_name)],
        ),
    }))
}

/// What the key of a part is called.
pub(super) fn key_name(keys: &[Key]) -> impl Fn(&Part) -> String {
    let names: HashMap<String, String> = keys
        .iter()
        .map(|key| (key.id.clone(), key.name.clone()))
        .collect();
    move |part| {
        let name = names.get(&part.key_id);
        name.unwrap_or(&part.key_id).clone()
    }
}

/// The task of a part.
pub(super) fn task_name(part: &Part) -> String {
    match part.task.as_str() {
        "" => "not noted".to_owned(),
        task => task.to_owned(),
    }
}

/// Limits in words, one a line.
pub(super) fn limit_words(rates: Rates) -> Vec<String> {
    let words = [
        (rates.requests_per_minute, "requests a minute"),
        (rates.tokens_per_minute, "tokens a minute"),
        (rates.concurrent_requests, "at the same time"),
    ];
    words
        .into_iter()
        .filter_map(|(limit, words)| Some(format!("{} {words}", grouped(limit?))))
        .collect()
}
