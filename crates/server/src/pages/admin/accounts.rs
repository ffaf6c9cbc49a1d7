//! `/admin/accounts`: accounts opened, credited, limited and closed, their keys, and invitations.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Redirect, Response};
use secrecy::ExposeSecret;

use super::super::account::keys::KeyWords;
use super::super::account::{CREDITS, Credit, Money, asked, key_name, limit_words, task_name};
use super::super::form::Fields;
use super::super::frame::{self, Frame};
use super::super::numbers::money;
use super::super::session::{AdminVisit, PLACES, Posted, Visit};
use super::super::usage_view::{Shown, ShownQuery, UsageView, minute};
use crate::error::{self, ApiError};
use crate::hosting::SignUp;
use crate::metering::PicoUsd;
use crate::store::accounts::{self, Account};
use crate::store::keys::{self, Key, KeyOptions, NewKey, Scope};
use crate::store::ledger::{self, Entry};
use crate::store::usage::{self, DAY_MS, Part};
use crate::store::{StoreError, Time};

#[derive(Template)]
#[template(path = "accounts.html")]
struct AccountsPage<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    accounts: Vec<AccountLine>,
    fields: &'a Fields,
    problem: Option<String>,
    invites: bool,
    /// The code of an invitation that was just made.
    invitation: Option<String>,
}

/// An account in the list.
struct AccountLine {
    id: String,
    name: String,
    state: &'static str,
    balance: String,
    is_prepaid: bool,
    created: String,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    account: &'a Account,
    created: String,
    money: Money,
    limits: Vec<String>,
    credits: Vec<Credit>,
    keys: Vec<KeyWords>,
    usage: UsageView,
    fields: &'a Fields,
    problem: Option<String>,
    made: Option<&'a str>,
}

/// `GET /admin/accounts`.
pub(crate) async fn page(AdminVisit(visit): AdminVisit) -> Result<Response, ApiError> {
    list(&visit, &Fields::default(), None, None).await
}

async fn list(
    visit: &Visit,
    fields: &Fields,
    problem: Option<&ApiError>,
    invitation: Option<String>,
) -> Result<Response, ApiError> {
    let mut accounts = visit.read(|database| accounts::list(database)).await?;
    // Newest first.
    accounts.reverse();
    let page = frame::private_page(&AccountsPage {
        frame: &visit.frame,
        visit,
        accounts: accounts
            .into_iter()
            .map(|account| AccountLine {
                state: match account.closed_at {
                    Some(_) => "closed",
                    None => "live",
                },
                balance: money(account.balance_usd),
                created: minute(account.created_at),
                is_prepaid: account.is_prepaid,
                id: account.id,
                name: account.name,
            })
            .collect(),
        fields,
        problem: problem.map(ToString::to_string),
        invites: visit.hosting.config.sign_up == SignUp::Invite,
        invitation,
    });
    Ok(match problem {
        Some(problem) => error::failed_page(problem, page),
        None => page,
    })
}

/// `POST /admin/accounts`: an account, with credit where some is given.
pub(crate) async fn create(
    Posted(AdminVisit(visit), fields): Posted<AdminVisit>,
) -> Result<Response, ApiError> {
    let created = async {
        let credit = fields.dollars("credit", "Credit")?;
        let (name, is_prepaid) = (name(&fields)?, !fields.has("postpaid", "yes"));
        let created = visit.change(move |database, change| {
            let account = accounts::create(database, change, &name, is_prepaid)?;
            match credit.filter(|credit| *credit != PicoUsd::ZERO) {
                Some(credit) => accounts::grant(database, change, &account.id, credit, None),
                None => Ok(account),
            }
        });
        created.await
    };
    match created.await {
        Ok(account) => Ok(back_to(&account.id)),
        Err(error) => list(&visit, &fields, Some(&error), None).await,
    }
}

fn name(fields: &Fields) -> Result<String, ApiError> {
    match fields.filled("name") {
        Some(name) => Ok(name.to_owned()),
        None => Err(ApiError::invalid_param(
            "name",
            "Name: expected a line of at most 200 characters",
        )),
    }
}

fn back_to(id: &str) -> Response {
    Redirect::to(&format!("/admin/accounts/{id}")).into_response()
}

/// How long an invitation holds.
const INVITATION_MS: i64 = 14 * DAY_MS;

/// `POST /admin/invitations`: its code is shown once.
pub(crate) async fn invite(
    Posted(AdminVisit(visit), _): Posted<AdminVisit>,
) -> Result<Response, ApiError> {
    let invited = visit.change(|database, change| {
        let end = Time(change.now.0.saturating_add(INVITATION_MS));
        accounts::invite(database, change, end)
    });
    let code = invited.await?;
    list(&visit, &Fields::default(), None, Some(code)).await
}

/// `GET /admin/accounts/{id}`.
pub(crate) async fn one(
    AdminVisit(visit): AdminVisit,
    Path(id): Path<String>,
    query: Result<Query<ShownQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let shown = asked(query).shown();
    show(&visit, id, shown, &Fields::default(), None, None).await
}

/// What the page of an account shows.
struct Found {
    account: Account,
    keys: Vec<Key>,
    credits: Vec<Entry>,
    parts: Vec<Part>,
}

async fn show(
    visit: &Visit,
    id: String,
    shown: Shown,
    fields: &Fields,
    problem: Option<&ApiError>,
    made: Option<&NewKey>,
) -> Result<Response, ApiError> {
    let now = Time::now();
    let read = visit.read(move |database| {
        Ok(Found {
            account: accounts::find(database, &id)?,
            keys: keys::list(database, Some(&id), now)?,
            credits: ledger::credits(database, &id, CREDITS)?,
            parts: usage::since(database, Some(&id), shown.first_day_ms(now))?,
        })
    });
    let Found {
        account,
        keys,
        credits,
        parts,
    } = read.await?;
    let filled = Fields::of_rates(account.limits);
    let page = frame::private_page(&AccountPage {
        frame: &visit.frame,
        visit,
        created: minute(account.created_at),
        money: Money::new(&account),
        limits: limit_words(account.limits),
        account: &account,
        credits: credits.into_iter().map(Credit::new).collect(),
        keys: keys
            .iter()
            .map(|key| KeyWords::new(key, visit, now))
            .collect(),
        usage: UsageView::new(
            &parts,
            shown,
            now,
            &[("key", &key_name(&keys)), ("task", &task_name)],
        ),
        fields: if problem.is_some() { fields } else { &filled },
        problem: problem.map(ToString::to_string),
        made: made.map(|made| made.text.expose_secret()),
    });
    Ok(match problem {
        Some(problem) => error::failed_page(problem, page),
        None => page,
    })
}

/// The account's page, with what went wrong where something did.
async fn answer<T>(
    visit: &Visit,
    id: String,
    fields: &Fields,
    done: Result<T, ApiError>,
) -> Result<Response, ApiError> {
    match done {
        Ok(_) => Ok(back_to(&id)),
        Err(error) => {
            let shown = ShownQuery::default().shown();
            show(visit, id, shown, fields, Some(&error), None).await
        }
    }
}

/// `POST /admin/accounts/{id}/credit`.
pub(crate) async fn grant(
    Path(id): Path<String>,
    Posted(AdminVisit(visit), fields): Posted<AdminVisit>,
) -> Result<Response, ApiError> {
    let granted = async {
        let amount = fields.dollars("amount", "Dollars")?;
        let Some(amount) = amount.filter(|amount| *amount != PicoUsd::ZERO) else {
            return Err(ApiError::invalid_param(
                "amount",
                "Dollars: expected an amount such as 5, or -5 to take it back",
            ));
        };
        let (id, note) = (id.clone(), fields.filled("note").map(str::to_owned));
        let granted = visit.change(move |database, change| {
            accounts::grant(database, change, &id, amount, note.as_deref())
        });
        granted.await
    };
    let granted = granted.await;
    answer(&visit, id, &fields, granted).await
}

/// `POST /admin/accounts/{id}/limits`.
pub(crate) async fn limit(
    Path(id): Path<String>,
    Posted(AdminVisit(visit), fields): Posted<AdminVisit>,
) -> Result<Response, ApiError> {
    let limited = async {
        let (id, rates) = (id.clone(), fields.rates()?);
        let limited = visit
            .change(move |database, change| accounts::set_limits(database, change, &id, rates));
        limited.await
    };
    let limited = limited.await;
    answer(&visit, id, &fields, limited).await
}

/// `POST /admin/accounts/{id}/closed`: closed, or open again.
pub(crate) async fn close(
    Path(id): Path<String>,
    Posted(AdminVisit(visit), fields): Posted<AdminVisit>,
) -> Result<Response, ApiError> {
    let (closed_id, is_closed) = (id.clone(), fields.has("closed", "yes"));
    let closed = visit.change(move |database, change| {
        accounts::set_closed(database, change, &closed_id, is_closed)
    });
    let closed = closed.await;
    answer(&visit, id, &fields, closed).await
}

/// `POST /admin/accounts/{id}/keys`: a first key for whoever the account is for, shown once.
pub(crate) async fn create_key(
    Path(id): Path<String>,
    Posted(AdminVisit(visit), fields): Posted<AdminVisit>,
) -> Result<Response, ApiError> {
    let made = async {
        let scopes = Scope::ALL.into_iter();
        let options = KeyOptions {
            name: name(&fields)?,
            scopes: scopes
                .filter(|scope| fields.has("scope", scope.name()))
                .collect(),
            ..KeyOptions::default()
        };
        let (account_id, prefix) = (id.clone(), visit.hosting.config.key_prefix.clone());
        let made = visit.change(move |database, change| {
            keys::create(database, change, &account_id, &prefix, &options)
        });
        made.await
    };
    let shown = ShownQuery::default().shown();
    match made.await {
        Ok(made) => show(&visit, id, shown, &fields, None, Some(&made)).await,
        Err(error) => show(&visit, id, shown, &fields, Some(&error), None).await,
    }
}

/// `POST /admin/accounts/{id}/keys/{key}/revoke`.
pub(crate) async fn revoke_key(
    Path((id, key_id)): Path<(String, String)>,
    Posted(AdminVisit(visit), _): Posted<AdminVisit>,
) -> Result<Response, ApiError> {
    let (account_id, revoked_id) = (id.clone(), key_id.clone());
    let revoked = visit.change(move |database, change| {
        let key = keys::find(database, &revoked_id, change.now)?;
        match key.account_id == account_id {
            true => keys::revoke(database, change, &revoked_id),
            false => Err(StoreError::UnknownKey { id: revoked_id }),
        }
    });
    revoked.await?;
    visit.hosting.forget(&key_id);
    Ok(back_to(&id))
}
