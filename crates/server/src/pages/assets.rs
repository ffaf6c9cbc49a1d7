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

/// The modules that a script imports, and those that they import: a page names them, so that a browser
/// loads them at once instead of finding them one after the other.
pub(super) fn imports(script: &str) -> Vec<&'static str> {
    let mut found: Vec<&'static str> = Vec::new();
    let mut next = 0;
    let mut script = script;
    loop {
        let file = FILES.iter().find(|(name, _, _)| *name == script);
        let lines = file.map_or("", |(_, _, text)| *text).lines();
        let imports = lines.filter(|line| line.starts_with("import "));
        for import in imports.filter_map(|line| line.split("\"./").nth(1)?.split('"').next()) {
            if !found.contains(&import) {
                found.push(import);
            }
        }
        let Some(&import) = found.get(next) else {
            return found;
        };
        script = import;
        next += 1;
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_every_module_that_its_script_needs() {
        assert_eq!(imports("copy.js"), Vec::<&str>::new());
        let found = imports("quality.js");
        assert_eq!(
            found,
            [
                "api.js",
                "code.js",
                "copy.js",
                "dial.js",
                "draw.js",
                "vectors.js"
            ]
        );
        for (name, kind, _) in FILES.iter().filter(|(_, kind, _)| *kind == SCRIPT) {
            for import in imports(name) {
                let known = FILES.iter().any(|(known, _, _)| *known == import);
                assert!(known, "{name} of {kind} imports {import}");
            }
        }
    }
}
