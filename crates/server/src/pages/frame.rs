//! What all pages share: the head, the way around, the visitor's own address, the headers.

use askama::Template;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};

use super::assets::{VERSION, imports};
use crate::app::App;
use crate::auth::Auth;
use crate::error::ApiError;
use crate::listen::Listen;

/// No script, style or picture but our own, no request but to this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What the template `frame.html` needs of every page.
pub(super) struct Frame {
    /// Where the server is, as the visitor reached it: `https://example.org`.
    pub(super) origin: String,
    /// The release.
    pub(super) release: &'static str,
    /// Of the assets.
    pub(super) version: &'static str,
    /// Whether callers need a key.
    pub(super) is_keyed: bool,
    /// Whether there are accounts to sign in to.
    pub(super) has_accounts: bool,
    /// The page's own path, for the mark in the menu.
    pub(super) path: &'static str,
}

impl Frame {
    /// For a visitor who sent these headers.
    pub(super) fn new(app: &App, headers: &HeaderMap, path: &'static str) -> Self {
        Self {
            origin: origin(app, headers),
            release: env!("CARGO_PKG_VERSION"),
            version: &VERSION,
            is_keyed: !matches!(app.auth, Auth::Open),
            has_accounts: matches!(app.auth, Auth::Accounts(_)),
            path,
        }
    }

    /// The modules that a script of the page imports.
    pub(super) fn imports(&self, script: &str) -> Vec<&'static str> {
        imports(script)
    }
}

/// Where the visitor reached us. The headers are the visitor's own words: what is no plain host is not
/// repeated.
fn origin(app: &App, headers: &HeaderMap) -> String {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let is_plain = |host: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]_".contains(&byte);
        (1..=255).contains(&host.len()) && host.bytes().all(plain)
    };
    let scheme = if is_https(app, headers) {
        "https"
    } else {
        "http"
    };
    let host = text(header::HOST.as_str()).filter(is_plain);
    match (host, &app.config.listen) {
        (Some(host), _) => format!("{scheme}://{host}"),
        (None, Listen::Tcp(address)) => format!("{scheme}://{address}"),
        (None, Listen::Unix(_)) => format!("{scheme}://localhost"),
    }
}

/// Whether the visitor's connection is encrypted, up to us or to the proxy before us.
pub(super) fn is_https(app: &App, headers: &HeaderMap) -> bool {
    let proto = headers.get("x-forwarded-proto");
    app.config.tls.is_some() || proto.is_some_and(|proto| proto.as_bytes() == b"https")
}

/// A page as an answer.
pub(super) fn page(template: &impl Template) -> Response {
    written(template, "no-cache")
}

/// A page that nobody shall keep: it is about an account, or has a key in it.
pub(super) fn private_page(template: &impl Template) -> Response {
    written(template, "no-store")
}

fn written(template: &impl Template, cache: &'static str) -> Response {
    match template.render() {
        Ok(html) => {
            let headers = [
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::CACHE_CONTROL, cache),
                (header::REFERRER_POLICY, "no-referrer"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::VARY, "accept, host"),
            ];
            (headers, Html(html)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "a page cannot be written");
            ApiError::internal().into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn only_a_plain_host_is_repeated() {
        let app = App::new(Config::default()).unwrap();
        let of = |host: &'static str, proto: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("host", host.parse().unwrap());
            headers.insert("x-forwarded-proto", proto.parse().unwrap());
            origin(&app, &headers)
        };
        assert_eq!(of("example.org:9000", "https"), "https://example.org:9000");
        assert_eq!(of("[::1]:80", "http"), "http://[::1]:80");
        assert_eq!(of("a\"><script>", "https"), "https://127.0.0.1:8080");
        assert_eq!(of("a'; rm -rf ~", ""), "http://127.0.0.1:8080");
        assert_eq!(origin(&app, &HeaderMap::new()), "http://127.0.0.1:8080");
    }
}
