//! What a person sees who opens the server in a browser: the catalogue, a page a model, a comparison
//! and a playground. Written here, with style sheet and scripts from the program; nothing comes from
//! elsewhere, and a page that runs no scripts still reads whole.
//!
//! - `models`, `model`, `compare`, `playground`: a page each, with the template of its name
//! - `frame`: what all pages share; `assets`: style sheet and scripts
//! - `charts`: scores as shapes; `quick_start`: code with the visitor's own address; `numbers`: in words

mod assets;
mod charts;
mod compare;
mod frame;
mod model;
mod models;
mod numbers;
mod playground;
mod quick_start;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use crate::app::SharedApp;

/// The pages' own routes. They show what is public anyway and need no key.
pub(crate) fn routes() -> Router<SharedApp> {
    Router::new()
        .route("/", get(models::page))
        .route("/compare", get(compare::page))
        .route("/playground", get(playground::page))
        .route("/assets/{version}/{name}", get(assets::file))
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
