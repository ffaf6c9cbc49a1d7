//! What a person sees who opens the server in a browser: the catalogue, a page a model, a comparison, a
//! playground and a quality dial, and in a hosted service the account and what its operator needs.
//! Written here, with style sheet and scripts from the program; nothing comes from elsewhere, and a page
//! that runs no scripts still reads whole.
//!
//! - `models`, `model`, `compare`, `playground`, `quality`: a page each, with the template of its name
//! - `sign_in`, `account`, `batches`, `admin`: behind the door; `session`: who is let in; `form`: what they write;
//!   `usage_view`: their usage, drawn
//! - `frame`: what all pages share; `assets`: style sheet and scripts
//! - `charts`: scores as shapes; `quick_start`: code with the visitor's own address; `numbers`: in words

mod account;
mod admin;
mod assets;
mod batches;
mod charts;
mod compare;
mod form;
mod frame;
mod model;
mod models;
mod numbers;
mod playground;
mod quality;
mod quick_start;
mod session;
mod sign_in;
mod usage_view;

use askama::Template;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use crate::app::SharedApp;
use crate::auth;
use crate::error::{self, ApiError};
use frame::Frame;

/// The pages' own routes. They need no key: those that show more than is public anyway are for whoever
/// has signed in.
pub(crate) fn routes(app: &SharedApp) -> Router<SharedApp> {
    let behind_the_door = Router::new()
        .route("/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route(
            "/sign-up",
            get(sign_in::sign_up_page).post(sign_in::sign_up),
        )
        .route("/account/overview", get(account::overview))
        .route(
            "/account/keys",
            get(account::keys::page).post(account::keys::create),
        )
        .route(
            "/account/keys/{id}",
            get(account::keys::one).post(account::keys::update),
        )
        .route("/account/keys/{id}/rotate", post(account::keys::rotate))
        .route("/account/keys/{id}/revoke", post(account::keys::revoke))
        .route("/account/batches", get(batches::own))
        .route("/account/batches/{id}/cancel", post(batches::cancel_own))
        .route("/account/files/{id}", get(batches::file))
        .route("/account/ledger", get(account::ledger::page))
        .route("/account/ledger.csv", get(account::ledger::download))
        .route("/admin", get(|| async { Redirect::to("/admin/live") }))
        .route("/admin/live", get(admin::live::page))
        .route(
            "/admin/accounts",
            get(admin::accounts::page).post(admin::accounts::create),
        )
        .route("/admin/invitations", post(admin::accounts::invite))
        .route("/admin/accounts/{id}", get(admin::accounts::one))
        .route("/admin/accounts/{id}/credit", post(admin::accounts::grant))
        .route("/admin/accounts/{id}/limits", post(admin::accounts::limit))
        .route("/admin/accounts/{id}/closed", post(admin::accounts::close))
        .route(
            "/admin/accounts/{id}/keys",
            post(admin::accounts::create_key),
        )
        .route(
            "/admin/accounts/{id}/keys/{key}/revoke",
            post(admin::accounts::revoke_key),
        )
        .route("/admin/batches", get(batches::everyones))
        .route(
            "/admin/batches/{account}/{id}/cancel",
            post(batches::cancel_anyones),
        )
        .route("/admin/audit", get(admin::audit))
        .route_layer(from_fn_with_state(app.clone(), failures_as_pages));
    Router::new()
        .route("/", get(models::page))
        .route("/compare", get(compare::page))
        .route("/playground", get(playground::page))
        .route("/quality", get(quality::page))
        .route("/assets/{version}/{name}", get(assets::file))
        .merge(behind_the_door)
}

#[derive(Template)]
#[template(path = "failure.html")]
struct Failure {
    frame: Frame,
    title: &'static str,
    message: String,
}

/// Middleware of what only people call: they are told as a page what went wrong.
async fn failures_as_pages(
    State(app): State<SharedApp>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else {
        return response;
    };
    tracing::debug!(code = error.log_code(), "a page failed");
    let page = frame::private_page(&Failure {
        title: match &app.auth {
            auth::Auth::Accounts(_) => "That did not work",
            auth::Auth::Open | auth::Auth::Key(_) => "No accounts here",
        },
        message: error.to_string(),
        frame: Frame::new(&app, &headers, "/account"),
    });
    error::failed_page(&error, page)
}

/// Middleware: `/account` is a page for browsers that bring no key, whose holder signs in.
pub(crate) async fn account_for_browsers(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let has_key = auth::has_key(headers, request.uri().query());
    if request.uri().path() == "/account" && wants_html(headers) && !has_key {
        return Redirect::to("/account/overview").into_response();
    }
    next.run(request).await
}

/// Middleware: `/models` and `/models/{id}` are pages for whoever would rather have HTML than JSON, as
/// browsers say they do; for all others they are what they are under `/v1`.
pub(crate) async fn for_browsers(
    State(app): State<SharedApp>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::GET && wants_html(request.headers()) {
        let path = request.uri().path();
        if path == "/models" {
            return Redirect::temporary("/").into_response();
        }
        if let Some(id) = path.strip_prefix("/models/") {
            return model::page(&app, request.headers(), id);
        }
    }
    next.run(request).await
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    accept.is_some_and(|value| {
        value
            .to_str()
            .is_ok_and(|types| types.contains("text/html"))
    })
}
