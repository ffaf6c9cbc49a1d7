//! `GET /account`, `POST /v1/sign-up` and `POST /v1/estimate`: what callers ask about money.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::embeddings::Asked;
use super::preferred_wait;
use super::rows::Handling;
use crate::app::SharedApp;
use crate::auth::{Auth, Caller};
use crate::batcher::Tier;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::hosting::Hosting;
use crate::metering::PicoUsd;
use crate::store::Time;
use crate::store::accounts::{self, Account};
use crate::store::keys::{self, Key, NewKey};
use crate::wire::embeddings::EmbeddingsRequest;

/// What a key's holder may see.
#[derive(Debug, Serialize)]
struct AccountView {
    object: &'static str,
    account: Account,
    key: Key,
    /// What is left to spend: the balance without what runs.
    available_usd: PicoUsd,
}

/// `GET /account`: the balance and the limits of whoever asks.
///
/// # Errors
/// 503 while the database is down.
pub async fn account(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    let (hosting, key) = hosted(&app, &caller)?;
    let (account_id, key_id) = (key.account_id.clone(), key.id.clone());
    let read = hosting.store.read(move |database| {
        let account = accounts::find(database, &account_id)?;
        Ok((account, keys::find(database, &key_id, Time::now())?))
    });
    let (account, key) = read.await?;
    let view = AccountView {
        object: "account",
        available_usd: PicoUsd(account.balance_usd.0.saturating_sub(account.held_usd.0)),
        account,
        key,
    };
    // The address may hold the key: nobody shall keep it with the answer.
    let no_store = HeaderValue::from_static("no-store");
    Ok(([(header::CACHE_CONTROL, no_store)], Json(view)).into_response())
}

fn hosted<'a>(app: &'a SharedApp, caller: &'a Caller) -> Result<(&'a Hosting, &'a Key), ApiError> {
    match (&app.auth, &caller.key) {
        (Auth::Accounts(hosting), Some(key)) => Ok((hosting, key)),
        _ => Err(ApiError::no_accounts()),
    }
}

/// The body of `POST /v1/sign-up`.
#[derive(Debug, Deserialize)]
pub struct SignUpRequest {
    /// What the account is called.
    pub name: Option<String>,
    /// The code of an invitation, where one is needed.
    pub invitation: Option<String>,
}

/// An account that was just opened.
#[derive(Debug, Serialize)]
struct SignedUp {
    object: &'static str,
    account: Account,
    /// Its first key, shown once.
    key: NewKey,
}

/// `POST /v1/sign-up`: an account with the free credit and its first key, where the operator allows it.
///
/// # Errors
/// 403 where nobody may, or not without an invitation.
pub async fn sign_up(
    State(app): State<SharedApp>,
    body: JsonBody<SignUpRequest>,
) -> Result<Response, ApiError> {
    let Auth::Accounts(hosting) = &app.auth else {
        return Err(ApiError::no_accounts());
    };
    let SignUpRequest { name, invitation } = body.value;
    let (account, key) = hosting.sign_up(name, invitation).await?;
    let object = "account";
    let no_store = HeaderValue::from_static("no-store");
    let opened = SignedUp {
        object,
        account,
        key,
    };
    Ok(([(header::CACHE_CONTROL, no_store)], Json(opened)).into_response())
}

/// What a request would cost.
#[derive(Debug, Serialize)]
struct Estimate {
    object: &'static str,
    model: String,
    /// Tokens that the model would see.
    tokens: usize,
    /// What they cost in each tier; nothing where nobody is billed.
    cost_usd: Option<TierCosts>,
}

#[derive(Debug, Serialize)]
struct TierCosts {
    realtime: PicoUsd,
    batch: PicoUsd,
}

/// `POST /v1/estimate`: the tokens and the price of a body of `/v1/embeddings`, which is not run.
///
/// # Errors
/// [`ApiError`] for a request that could not be done.
pub async fn estimate(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<EmbeddingsRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let asked = Asked::read(value, &app.config, &caller, &service.model)?;
    let handling = Handling::new(asked.overlong, &app, &caller, &headers);
    let tokens = asked.prepare(&handling, &service).await?.tokens();
    drop(bytes);
    let model = service.model.id().to_owned();
    let cost_usd = match &app.auth {
        Auth::Accounts(hosting) => {
            let price = hosting.price(&model);
            Some(TierCosts {
                realtime: price.of_tokens(tokens, Tier::Realtime),
                batch: price.of_tokens(tokens, Tier::Batch),
            })
        }
        Auth::Open | Auth::Key(_) => None,
    };
    let object = "estimate";
    Ok(Json(Estimate {
        object,
        model,
        tokens,
        cost_usd,
    })
    .into_response())
}
