//! Style sheet, scripts and icon, from the program.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::error::ApiError;

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! asset {
    ($name:literal, $kind:expr) => {
        ($name, $kind, include_str!(concat!("../../assets/", $name)))
    };
}

const FILES: [(&str, &str, &str); 16] = [
    asset!("page.css", CSS),
    asset!("icon.svg", "image/svg+xml"),
    asset!("account.js", SCRIPT),
    asset!("live.js", SCRIPT),
    asset!("models.js", SCRIPT),
    asset!("model.js", SCRIPT),
    asset!("copy.js", SCRIPT),
    asset!("tabs.js", SCRIPT),
    asset!("playground.js", SCRIPT),
    asset!("modes.js", SCRIPT),
    asset!("api.js", SCRIPT),
    asset!("code.js", SCRIPT),
    asset!("draw.js", SCRIPT),
    asset!("vectors.js", SCRIPT),
    asset!("quality.js", SCRIPT),
    asset!("dial.js", SCRIPT),
];

/// Part of every asset's address, so that browsers may keep what they have until it changes.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    FILES.iter().for_each(|(_, _, text)| hash.update(text));
    let digest = hash.finalize();
    digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
});

/// `GET /assets/{version}/{name}`.
pub(super) async fn file(Path((version, name)): Path<(String, String)>) -> Response {
    match FILES.iter().find(|(known, _, _)| *known == name) {
        Some((_, kind, text)) if version == *VERSION => {
            let headers = [
                (header::CONTENT_TYPE, *kind),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, *text).into_response()
        }
        _ => ApiError::unknown_route("GET", &format!("/assets/{version}/{name}")).into_response(),
    }
}
