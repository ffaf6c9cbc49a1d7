//! `/v1/admin/…`: accounts, keys, credit, usage and the ledger, for keys of the scope `admin`.
//!
//! Whatever changes something is noted with the key that did it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::query::{Asked, asked};
use crate::app::SharedApp;
use crate::auth::{Auth, Caller};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::hosting::Hosting;
use crate::store::accounts::{self, Change};
use crate::store::keys::{self, KeyOptions, Scope};
use crate::store::ledger::{self, Selection, UsageBy};
use crate::store::{Database, StoreError, Time};
use crate::wire::admin::{
    Closing, NewAccount, NewCredit, NewInvitation, NewKeyRequest, NewLimits, Rotation, Written,
};

/// The answer of a handler here.
type Answer = Result<Response, ApiError>;

/// Changes the state in the name of the caller's key and answers with what it is now.
async fn change<T: Serialize + Send + 'static>(
    app: &SharedApp,
    caller: &Caller,
    work: impl FnOnce(&mut dyn Database, Change<'_>) -> Result<T, StoreError> + Send + 'static,
) -> Answer {
    let hosting = hosting(app)?;
    let actor = caller.key.as_ref().map(|key| key.id.clone());
    let done = hosting.store.write(move |database| {
        let change = Change {
            actor: actor.as_deref().unwrap_or_default(),
            now: Time::now(),
        };
        work(database, change)
    });
    Ok(private(done.await?))
}

/// Reads the state and answers with what was found.
async fn read<T: Serialize + Send + 'static>(
    app: &SharedApp,
    work: impl FnOnce(&mut dyn Database) -> Result<T, StoreError> + Send + 'static,
) -> Answer {
    Ok(private(hosting(app)?.store.read(work).await?))
}

fn hosting(app: &SharedApp) -> Result<&Arc<Hosting>, ApiError> {
    match &app.auth {
        Auth::Accounts(hosting) => Ok(hosting),
        Auth::Open | Auth::Key(_) => Err(ApiError::no_accounts()),
    }
}

/// Keys may stand in it, so nobody shall keep it.
fn private<T: Serialize>(value: T) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    ([(header::CACHE_CONTROL, no_store)], Json(value)).into_response()
}

/// A list as OpenAI has them.
fn list<T: Serialize>(data: T) -> serde_json::Value {
    json!({"object": "list", "data": data})
}

/// `GET /v1/admin/accounts`.
///
/// # Errors
/// [`ApiError`], as everywhere here: 503 while the database is down.
pub async fn accounts(State(app): State<SharedApp>) -> Answer {
    read(&app, |database| Ok(list(accounts::list(database)?))).await
}

/// `POST /v1/admin/accounts`.
///
/// # Errors
/// 400 for a name that cannot be one.
pub async fn create_account(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    body: JsonBody<NewAccount>,
) -> Answer {
    let NewAccount { name, postpaid } = body.value;
    change(&app, &caller, move |database, change| {
        accounts::create(database, change, &name, !postpaid)
    })
    .await
}

/// `GET /v1/admin/accounts/{id}`.
///
/// # Errors
/// 404 for an unknown one.
pub async fn account(State(app): State<SharedApp>, Path(id): Path<String>) -> Answer {
    read(&app, move |database| accounts::find(database, &id)).await
}

/// `POST /v1/admin/accounts/{id}/credit`.
///
/// # Errors
/// 404 for an unknown one.
pub async fn grant(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: JsonBody<NewCredit>,
) -> Answer {
    let NewCredit {
        amount_usd: Written(amount),
        note,
    } = body.value;
    change(&app, &caller, move |database, change| {
        accounts::grant(database, change, &id, amount, note.as_deref())
    })
    .await
}

/// `POST /v1/admin/accounts/{id}/limits`.
///
/// # Errors
/// 404 for an unknown one.
pub async fn limit_account(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: JsonBody<NewLimits>,
) -> Answer {
    if body.value.monthly_budget_usd.is_some() {
        return Err(ApiError::invalid_param(
            "monthly_budget_usd",
            "Budgets are for keys; an account spends its credit",
        ));
    }
    let limits = body.value.rates();
    change(&app, &caller, move |database, change| {
        accounts::set_limits(database, change, &id, limits)
    })
    .await
}

/// `POST /v1/admin/accounts/{id}/closed`.
///
/// # Errors
/// 404 for an unknown one.
pub async fn close_account(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: JsonBody<Closing>,
) -> Answer {
    let is_closed = body.value.closed;
    change(&app, &caller, move |database, change| {
        accounts::set_closed(database, change, &id, is_closed)
    })
    .await
}

/// `POST /v1/admin/invitations`.
///
/// # Errors
/// 400 for a moment that cannot be read.
pub async fn invite(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    body: JsonBody<NewInvitation>,
) -> Answer {
    let Written(expires) = body.value.expires_at;
    change(&app, &caller, move |database, change| {
        let code = accounts::invite(database, change, expires)?;
        Ok(json!({"object": "invitation", "code": code, "expires_at": expires}))
    })
    .await
}

/// `?account_id=…`.
#[derive(Debug, Deserialize)]
pub struct OfAccount {
    account_id: Option<String>,
}

/// `GET /v1/admin/keys`.
///
/// # Errors
/// 503 while the database is down.
pub async fn keys(State(app): State<SharedApp>, of: Asked<OfAccount>) -> Answer {
    let of = asked(of)?;
    read(&app, move |database| {
        let account_id = of.account_id.as_deref();
        Ok(list(keys::list(database, account_id, Time::now())?))
    })
    .await
}

/// `POST /v1/admin/keys`.
///
/// # Errors
/// 404 for an unknown account.
pub async fn create_key(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    body: JsonBody<NewKeyRequest>,
) -> Answer {
    let value = body.value;
    let scopes = value.scopes.map_or_else(
        || vec![Scope::Embed],
        |scopes| scopes.into_iter().map(|Written(scope)| scope).collect(),
    );
    let options = KeyOptions {
        name: value.name,
        scopes,
        models: value.models,
        tasks: value.tasks,
        default_task: value.default_task,
        expires: value.expires_at.map(|Written(time)| time),
        limits: value.limits.of_key(),
    };
    let prefix = hosting(&app)?.config.key_prefix.clone();
    change(&app, &caller, move |database, change| {
        keys::create(database, change, &value.account_id, &prefix, &options)
    })
    .await
}

/// `GET /v1/admin/keys/{id}`.
///
/// # Errors
/// 404 for an unknown one.
pub async fn key(State(app): State<SharedApp>, Path(id): Path<String>) -> Answer {
    read(&app, move |database| keys::find(database, &id, Time::now())).await
}

/// `POST /v1/admin/keys/{id}/rotate`.
///
/// # Errors
/// 404 for an unknown one.
pub async fn rotate_key(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: JsonBody<Rotation>,
) -> Answer {
    let grace_ms = i64::from(body.value.grace_hours) * 3_600_000;
    let prefix = hosting(&app)?.config.key_prefix.clone();
    change_key(&app, &caller, id, move |database, change, id| {
        keys::rotate(database, change, id, &prefix, grace_ms)
    })
    .await
}

/// `POST /v1/admin/keys/{id}/revoke`.
///
/// # Errors
/// 404 for an unknown one.
pub async fn revoke_key(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answer {
    change_key(&app, &caller, id, keys::revoke).await
}

/// `POST /v1/admin/keys/{id}/limits`.
///
/// # Errors
/// 404 for an unknown one.
pub async fn limit_key(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: JsonBody<NewLimits>,
) -> Answer {
    let limits = body.value.of_key();
    change_key(&app, &caller, id, move |database, change, id| {
        keys::set_limits(database, change, id, limits)
    })
    .await
}

/// As `change`; from then on this server reads the key anew.
async fn change_key<T: Serialize + Send + 'static>(
    app: &SharedApp,
    caller: &Caller,
    id: String,
    work: impl FnOnce(&mut dyn Database, Change<'_>, &str) -> Result<T, StoreError> + Send + 'static,
) -> Answer {
    let changed = id.clone();
    let work = move |database: &mut dyn Database, change: Change<'_>| work(database, change, &id);
    let answer = change(app, caller, work).await;
    hosting(app)?.forget(&changed);
    answer
}

/// Which entries of the ledger, and how usage is added up.
#[derive(Debug, Deserialize)]
pub struct LedgerQuery {
    account_id: Option<String>,
    from: Option<Written<Time>>,
    until: Option<Written<Time>>,
    by: Option<String>,
    after: Option<i64>,
    limit: Option<i64>,
}

impl LedgerQuery {
    fn selection(&self) -> Selection {
        Selection {
            account_id: self.account_id.clone(),
            from_ms: self.from.map(|Written(time)| time.0),
            until_ms: self.until.map(|Written(time)| time.0),
        }
    }
}

/// `GET /v1/admin/usage`.
///
/// # Errors
/// 400 for an unknown `by`.
pub async fn usage(State(app): State<SharedApp>, query: Asked<LedgerQuery>) -> Answer {
    let query = asked(query)?;
    let by = match query.by.as_deref() {
        None | Some("day") => UsageBy::Day,
        Some("key") => UsageBy::Key,
        Some("model") => UsageBy::Model,
        Some("account") => UsageBy::Account,
        Some(_) => {
            return Err(ApiError::invalid_param(
                "by",
                "`by` is unknown, expected `day`, `key`, `model` or `account`",
            ));
        }
    };
    read(&app, move |database| {
        Ok(list(ledger::usage(database, &query.selection(), by)?))
    })
    .await
}

/// Entries of one answer at most.
const MAX_ENTRIES: i64 = 1000;

/// `GET /v1/admin/ledger`: entries behind `after`, oldest first.
///
/// # Errors
/// 503 while the database is down.
pub async fn entries(State(app): State<SharedApp>, query: Asked<LedgerQuery>) -> Answer {
    let query = asked(query)?;
    let limit = query.limit.unwrap_or(100).clamp(1, MAX_ENTRIES);
    read(&app, move |database| {
        let after = query.after.unwrap_or(0);
        Ok(list(ledger::page(
            database,
            &query.selection(),
            after,
            limit,
        )?))
    })
    .await
}

/// `GET /v1/admin/audit`: who changed what, newest first.
///
/// # Errors
/// 503 while the database is down.
pub async fn audit(State(app): State<SharedApp>, query: Asked<LedgerQuery>) -> Answer {
    let query = asked(query)?;
    let limit = query.limit.unwrap_or(100).clamp(1, MAX_ENTRIES);
    read(&app, move |database| {
        Ok(list(accounts::audit_trail(database, limit)?))
    })
    .await
}
