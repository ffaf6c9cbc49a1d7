//! `/account/keys`: keys made, shown once, named, limited, renewed and ended.

use askama::Template;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use secrecy::ExposeSecret;

use super::super::form::Fields;
use super::super::frame::{self, Frame};
use super::super::numbers::money;
use super::super::playground::tasks;
use super::super::session::{PLACES, Posted, Visit};
use super::super::usage_view::minute;
use super::limit_words;
use crate::error::{self, ApiError};
use crate::store::keys::{self, Key, KeyOptions, NewKey, Scope};
use crate::store::{StoreError, Time};

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    keys: Vec<KeyWords>,
    made: Option<Made<'a>>,
    fields: &'a Fields,
    tasks: Vec<String>,
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "key.html")]
struct KeyPage<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    key: KeyWords,
    made: Option<Made<'a>>,
    fields: &'a Fields,
    problem: Option<String>,
}

/// A key's text, this once.
struct Made<'a> {
    title: &'static str,
    secret: &'a str,
}

/// A key in words.
pub(in super::super) struct KeyWords {
    pub(in super::super) id: String,
    pub(in super::super) name: String,
    pub(in super::super) scopes: String,
    pub(in super::super) tasks: Option<String>,
    pub(in super::super) models: Option<String>,
    pub(in super::super) default_task: Option<String>,
    pub(in super::super) limits: Vec<String>,
    pub(in super::super) spent: String,
    pub(in super::super) budget: Option<String>,
    pub(in super::super) created: String,
    pub(in super::super) end: Option<String>,
    /// Whether it is what the visitor is signed in with.
    pub(in super::super) is_shown: bool,
    pub(in super::super) state: &'static str,
}

impl KeyWords {
    pub(in super::super) fn new(key: &Key, visit: &Visit, now: Time) -> Self {
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
        let joined = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(", "));
        Self {
            id: key.id.clone(),
            name: key.name.clone(),
            scopes: scopes.join(", "),
            tasks: joined(&key.tasks),
            models: joined(&key.models),
            default_task: key.default_task.clone(),
            limits: limit_words(key.limits),
            spent: money(key.month_spent_usd),
            budget: key.monthly_budget_usd.map(money),
            created: minute(key.created_at),
            end: key.expires_at.map(minute),
            is_shown: key.id == visit.key.id,
            state: match () {
                () if key.revoked_at.is_some() => "revoked",
                () if key.is_over(now) => "over",
                () => "live",
            },
        }
    }
}

/// `GET /account/keys`.
pub(crate) async fn page(visit: Visit) -> Result<Response, ApiError> {
    list(&visit, None, &Fields::default(), None).await
}

async fn list(
    visit: &Visit,
    made: Option<Made<'_>>,
    fields: &Fields,
    problem: Option<&ApiError>,
) -> Result<Response, ApiError> {
    let (id, now) = (visit.key.account_id.clone(), Time::now());
    let keys = visit.read(move |database| keys::list(database, Some(&id), now));
    let mut keys = keys.await?;
    // Those that work come first, newest before older.
    keys.sort_by_key(|key| (key.is_over(now), std::cmp::Reverse(key.created_at)));
    let page = frame::private_page(&KeysPage {
        frame: &visit.frame,
        visit,
        keys: keys
            .iter()
            .map(|key| KeyWords::new(key, visit, now))
            .collect(),
        made,
        fields,
        tasks: tasks(&visit.app),
        problem: problem.map(ToString::to_string),
    });
    Ok(answered(page, problem))
}

fn answered(page: Response, problem: Option<&ApiError>) -> Response {
    match problem {
        Some(problem) => error::failed_page(problem, page),
        None => page,
    }
}

/// `POST /account/keys`.
pub(crate) async fn create(Posted(visit, fields): Posted<Visit>) -> Result<Response, ApiError> {
    visit.check_changes_keys()?;
    match made(&visit, &fields).await {
        Ok(NewKey { text, .. }) => {
            let made = Made {
                title: "Your new key",
                secret: text.expose_secret(),
            };
            list(&visit, Some(made), &Fields::default(), None).await
        }
        Err(error) => list(&visit, None, &fields, Some(&error)).await,
    }
}

async fn made(visit: &Visit, fields: &Fields) -> Result<NewKey, ApiError> {
    let known = tasks(&visit.app);
    let known_task = |task: &str| match known.iter().any(|known| known == task) {
        true => Ok(task.to_owned()),
        false => Err(ApiError::not_allowed("task", task)),
    };
    let only: Result<Vec<String>, ApiError> = fields.all("task").map(known_task).collect();
    let mut scopes = vec![Scope::Embed];
    if fields.has("scope", "account") {
        scopes.push(Scope::Account);
    }
    let options = KeyOptions {
        name: name(fields)?,
        scopes,
        models: None,
        tasks: Some(only?).filter(|tasks| !tasks.is_empty()),
        default_task: fields.filled("default_task").map(known_task).transpose()?,
        expires: fields.day_to_come("end", "Ends", Time::now())?,
        limits: fields.key_limits()?,
    };
    let account_id = visit.key.account_id.clone();
    let prefix = visit.hosting.config.key_prefix.clone();
    let made = visit.change(move |database, change| {
        keys::create(database, change, &account_id, &prefix, &options)
    });
    made.await
}

fn name(fields: &Fields) -> Result<String, ApiError> {
    match fields.filled("name") {
        Some(name) => Ok(name.to_owned()),
        None => Err(ApiError::invalid_param(
            "name",
            "Name: expected what the key is called, in a line of at most 200 characters",
        )),
    }
}

/// `GET /account/keys/{id}`.
pub(crate) async fn one(visit: Visit, Path(id): Path<String>) -> Result<Response, ApiError> {
    show(&visit, id, None, &Fields::default(), None).await
}

async fn show(
    visit: &Visit,
    id: String,
    made: Option<Made<'_>>,
    fields: &Fields,
    problem: Option<&ApiError>,
) -> Result<Response, ApiError> {
    let key = own_key(visit, &id).await?;
    let filled = Fields::of_key(&key);
    let page = frame::private_page(&KeyPage {
        frame: &visit.frame,
        visit,
        key: KeyWords::new(&key, visit, Time::now()),
        made,
        fields: if problem.is_some() { fields } else { &filled },
        problem: problem.map(ToString::to_string),
    });
    Ok(answered(page, problem))
}

/// The key with this id, where it is the account's.
async fn own_key(visit: &Visit, id: &str) -> Result<Key, ApiError> {
    let (asked, account_id) = (id.to_owned(), visit.key.account_id.clone());
    let found = visit.read(move |database| {
        let key = keys::find(database, &asked, Time::now())?;
        match key.account_id == account_id {
            true => Ok(key),
            // Whether another account has it is nobody's business.
            false => Err(StoreError::UnknownKey { id: asked }),
        }
    });
    found.await
}

/// `POST /account/keys/{id}`: its name and its limits.
pub(crate) async fn update(
    Path(id): Path<String>,
    Posted(visit, fields): Posted<Visit>,
) -> Result<Response, ApiError> {
    visit.check_changes_keys()?;
    let key = own_key(&visit, &id).await?;
    let changed = async {
        let (name, limits) = (name(&fields)?, fields.key_limits()?);
        let renamed = name != key.name;
        visit
            .change(move |database, change| {
                if renamed {
                    keys::rename(database, change, &key.id, &name)?;
                }
                keys::set_limits(database, change, &key.id, limits)
            })
            .await
    };
    match changed.await {
        Ok(_) => {
            visit.hosting.forget(&id);
            Ok(Redirect::to(&format!("/account/keys/{id}")).into_response())
        }
        Err(error) => show(&visit, id, None, &fields, Some(&error)).await,
    }
}

/// For how long the secret before is accepted, so that whatever has it can be given the new one.
const GRACE_MS: i64 = 24 * 3_600_000;

/// `POST /account/keys/{id}/rotate`.
pub(crate) async fn rotate(
    Path(id): Path<String>,
    Posted(visit, _): Posted<Visit>,
) -> Result<Response, ApiError> {
    visit.check_changes_keys()?;
    let key = own_key(&visit, &id).await?;
    let prefix = visit.hosting.config.key_prefix.clone();
    let rotated = visit
        .change(move |database, change| keys::rotate(database, change, &key.id, &prefix, GRACE_MS));
    let NewKey { text, .. } = rotated.await?;
    visit.hosting.forget(&id);
    let made = Made {
        title: "The key's new secret",
        secret: text.expose_secret(),
    };
    show(&visit, id, Some(made), &Fields::default(), None).await
}

/// `POST /account/keys/{id}/revoke`.
pub(crate) async fn revoke(
    Path(id): Path<String>,
    Posted(visit, _): Posted<Visit>,
) -> Result<Response, ApiError> {
    visit.check_changes_keys()?;
    let key = own_key(&visit, &id).await?;
    let revoked = visit.change(move |database, change| keys::revoke(database, change, &key.id));
    revoked.await?;
    visit.hosting.forget(&id);
    Ok(Redirect::to("/account/keys").into_response())
}
