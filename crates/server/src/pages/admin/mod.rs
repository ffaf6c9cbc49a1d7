//! `/admin/…`: what an operator sees and changes, with a key of the scope `admin`.
//!
//! - `live`: queue, throughput and latency now; `accounts`: opened, credited, limited and closed
//! - here: the trail of who changed what

pub(super) mod accounts;
pub(super) mod live;

use askama::Template;
use axum::response::Response;

use super::frame::{self, Frame};
use super::session::{AdminVisit, PLACES, Visit};
use super::usage_view::minute;
use crate::error::ApiError;
use crate::store::accounts::audit_trail;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    entries: Vec<Noted>,
    limit: i64,
}

/// A line of the trail.
struct Noted {
    at: String,
    actor: String,
    action: String,
    target: String,
    detail: String,
}

/// So many lines are shown; `quintet accounts audit` has all.
const ENTRIES: i64 = 200;

/// `GET /admin/audit`.
pub(super) async fn audit(AdminVisit(visit): AdminVisit) -> Result<Response, ApiError> {
    let entries = visit
        .read(|database| audit_trail(database, ENTRIES))
        .await?;
    Ok(frame::private_page(&AuditPage {
        frame: &visit.frame,
        visit: &visit,
        limit: ENTRIES,
        entries: entries
            .into_iter()
            .map(|entry| Noted {
                at: minute(entry.at),
                actor: entry.actor,
                action: entry.action,
                target: entry.target,
                detail: entry.detail,
            })
            .collect(),
    }))
}
