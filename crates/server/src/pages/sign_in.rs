//! `/sign-in`, `/sign-out`, `/sign-up`: the door of a hosted service.

use askama::Template;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::form::Fields;
use super::frame::{self, Frame};
use super::numbers::money;
use super::session::{Cookie, Posted, Visit, check_form, form_token, hosting};
use crate::app::{App, SharedApp};
use crate::error::{self, ApiError};
use crate::hosting::{Hosting, SignUp};
use crate::metering::PicoUsd;
use crate::store::accounts::{Account, Change};
use crate::store::keys::{NewKey, random_text};
use crate::store::{StoreError, Time, sessions};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    frame: Frame,
    form_token: String,
    next: &'a str,
    problem: Option<String>,
    /// The browser kept the session's cookie back, because a link on another site leads here.
    comes_from_elsewhere: bool,
    sign_up: SignUp,
}

#[derive(Template)]
#[template(path = "sign_up.html")]
struct SignUpPage<'a> {
    frame: Frame,
    form_token: String,
    sign_up: SignUp,
    free_credit: Option<String>,
    fields: &'a Fields,
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "signed_up.html")]
struct SignedUpPage<'a> {
    frame: Frame,
    account: &'a Account,
    balance: String,
    key: &'a str,
}

/// `?next=…`.
#[derive(Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

/// `GET /sign-in`.
pub(super) async fn page(
    State(app): State<SharedApp>,
    headers: HeaderMap,
    Query(next): Query<Next>,
) -> Result<Response, ApiError> {
    sign_in_page(&app, &headers, &next.next, None)
}

fn sign_in_page(
    app: &App,
    headers: &HeaderMap,
    next: &str,
    problem: Option<&ApiError>,
) -> Result<Response, ApiError> {
    let sign_up = hosting(app)?.config.sign_up;
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    with_form(app, headers, problem, |form_token| {
        frame::private_page(&SignInPage {
            frame: Frame::new(app, headers, "/sign-in"),
            form_token,
            next: place(next),
            problem: problem.map(ToString::to_string),
            comes_from_elsewhere: site == Some(b"cross-site"),
            sign_up,
        })
    })
}

/// A page with a form that nobody needs to be signed in for, and the cookie that the form belongs to.
fn with_form(
    app: &App,
    headers: &HeaderMap,
    problem: Option<&ApiError>,
    page: impl FnOnce(String) -> Response,
) -> Result<Response, ApiError> {
    let known = Cookie::Form.read(app, headers);
    let secret = match known {
        Some(secret) => secret,
        None => SecretString::from(random_text(52)?),
    };
    let mut page = page(form_token(&secret));
    if let Some(problem) = problem {
        page = error::failed_page(problem, page);
    }
    // Those of visitors who stay are renewed.
    if is_ours(&secret) {
        let cookie = Cookie::Form.write(app, headers, Some(&secret));
        page.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(page)
}

/// Whether a cookie can be one that we wrote: what a stranger put there is not repeated.
fn is_ours(secret: &SecretString) -> bool {
    let text = secret.expose_secret();
    text.len() == 52 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Where somebody goes who has signed in: a page of ours that needs it.
fn place(next: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let is_inside = next.starts_with("/account/") || next.starts_with("/admin/");
    match is_inside && next.bytes().all(is_plain) {
        true => next,
        false => "/account/overview",
    }
}

/// The fields of a form that nobody needs to be signed in for.
async fn fields(
    app: &SharedApp,
    headers: &HeaderMap,
    request: Request,
) -> Result<Fields, ApiError> {
    let fields = Fields::read(request, app).await?;
    let secret = Cookie::Form.read(app, headers);
    let secret = secret.ok_or_else(ApiError::strange_form)?;
    check_form(&fields, &form_token(&secret))?;
    Ok(fields)
}

/// `POST /sign-in`.
pub(super) async fn sign_in(
    State(app): State<SharedApp>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let hosting = hosting(&app)?;
    let fields = fields(&app, &headers, request).await?;
    let next = fields.text("next");
    let key = match hosting.authenticate(fields.text("key").as_bytes()).await {
        Ok(key) => key,
        Err(error) => return sign_in_page(&app, &headers, next, Some(&error)),
    };
    let mut answer = Redirect::to(place(next)).into_response();
    open_session(&app, hosting, &headers, &key.id, &mut answer).await?;
    Ok(answer)
}

/// Opens a session in place of the one before and gives its cookie along.
async fn open_session(
    app: &App,
    hosting: &Hosting,
    headers: &HeaderMap,
    key_id: &str,
    answer: &mut Response,
) -> Result<(), ApiError> {
    let key_id = key_id.to_owned();
    let before = Cookie::Session.read(app, headers);
    let opened = hosting.store.write(move |database| {
        if let Some(before) = before {
            sessions::close(database, &before)?;
        }
        let change = Change {
            actor: &key_id,
            now: Time::now(),
        };
        sessions::open(database, change, &key_id)
    });
    let secret = opened.await?;
    let cookie = Cookie::Session.write(app, headers, Some(&secret));
    answer.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(())
}

/// `POST /sign-out`.
pub(super) async fn sign_out(Posted(visit, _): Posted<Visit>) -> Result<Response, ApiError> {
    if let Some(secret) = Cookie::Session.read(&visit.app, &visit.headers) {
        let closed = visit.hosting.store.write(move |database| {
            sessions::close(database, &secret)?;
            Ok::<_, StoreError>(())
        });
        closed.await?;
    }
    let mut answer = Redirect::to("/sign-in").into_response();
    let cookie = Cookie::Session.write(&visit.app, &visit.headers, None);
    answer.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(answer)
}

/// `GET /sign-up`.
pub(super) async fn sign_up_page(
    State(app): State<SharedApp>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    sign_up_form(&app, &headers, &Fields::default(), None)
}

fn sign_up_form(
    app: &App,
    headers: &HeaderMap,
    fields: &Fields,
    problem: Option<&ApiError>,
) -> Result<Response, ApiError> {
    let config = &hosting(app)?.config;
    let free_credit = (config.free_credit > PicoUsd::ZERO).then(|| money(config.free_credit));
    with_form(app, headers, problem, |form_token| {
        frame::private_page(&SignUpPage {
            frame: Frame::new(app, headers, "/sign-up"),
            form_token,
            sign_up: config.sign_up,
            free_credit,
            fields,
            problem: problem.map(ToString::to_string),
        })
    })
}

/// `POST /sign-up`: the account is opened, its key shown once, and whoever opened it is signed in.
pub(super) async fn sign_up(
    State(app): State<SharedApp>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let hosting = hosting(&app)?;
    let fields = fields(&app, &headers, request).await?;
    let owned = |name| fields.filled(name).map(str::to_owned);
    let opened = hosting.sign_up(owned("name"), owned("invitation")).await;
    let (account, NewKey { key, text }) = match opened {
        Ok(opened) => opened,
        Err(error) => return sign_up_form(&app, &headers, &fields, Some(&error)),
    };
    let mut answer = frame::private_page(&SignedUpPage {
        frame: Frame::new(&app, &headers, "/sign-up"),
        balance: money(account.balance_usd),
        account: &account,
        key: text.expose_secret(),
    });
    open_session(&app, hosting, &headers, &key.id, &mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_signs_in_stays_on_this_server() {
        assert_eq!(place("/account/keys"), "/account/keys");
        assert_eq!(place("/admin/live"), "/admin/live");
        for elsewhere in [
            "",
            "https://evil.example/",
            "//evil.example/",
            "/account/\\evil",
            "/account/?x",
            "/accounts",
            "javascript:alert(1)",
        ] {
            assert_eq!(place(elsewhere), "/account/overview", "{elsewhere}");
        }
    }

    #[test]
    fn a_cookie_that_a_stranger_wrote_is_not_repeated() {
        assert!(is_ours(&random_text(52).unwrap().into()));
        assert!(!is_ours(&"x; Domain=evil.example".into()));
        assert!(!is_ours(&"".into()));
    }
}
