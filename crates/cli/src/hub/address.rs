//! Addresses of web servers: whose they are, where a redirect leads, what of them may be shown.

use ureq::http::Uri;

use super::HubError;

/// Scheme, host and port: what decides who may see the token.
#[derive(PartialEq, Eq)]
pub(crate) struct Origin {
    /// `https` rather than `http`.
    pub(crate) is_https: bool,
    /// In lower case, without the brackets of an IPv6 address.
    pub(crate) host: String,
    /// The scheme's own when the address has none.
    pub(crate) port: u16,
}

impl Origin {
    /// `None` for an address without a host, or of another scheme.
    pub(crate) fn of(url: &Uri) -> Option<Self> {
        let is_https = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = url.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        let port = url.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        (!host.is_empty()).then_some(Self {
            is_https,
            host,
            port,
        })
    }

    /// The hub's origin, from the text of `HF_ENDPOINT`.
    pub(crate) fn of_endpoint(endpoint: &str) -> Result<Self, HubError> {
        let bad = |reason| HubError::Endpoint { reason };
        let url: Uri = endpoint
            .parse()
            .map_err(|_| bad("it cannot be read as an address"))?;
        if url.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(bad("it holds a user name"));
        }
        if url.query().is_some() {
            return Err(bad("it holds a query"));
        }
        Self::of(&url).ok_or_else(|| bad("it does not start with `https://` or `http://`"))
    }
}

/// An address without its query, which may hold a signature.
pub(crate) fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", url.path())
}

/// A `Location` header, absolute or relative to the address that sent it.
pub(crate) fn join(base: &Uri, location: &str) -> Option<String> {
    if location.is_empty() {
        return None;
    }
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let location = location.split('#').next().unwrap_or_default();
    let is_absolute = location.split_once("://").is_some_and(|(scheme, _)| {
        // A relative address may hold a whole one in its query.
        scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    Some(if is_absolute {
        location.into()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    })
}

/// A path for an address: everything but letters, digits, `-`, `_`, `.` and `~` is escaped, and
/// `/` too unless it parts the path.
pub(crate) fn escaped(path: &str, keep_slashes: bool) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if is_plain || (keep_slashes && byte == b'/') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn locations_are_absolute_or_relative() {
        let base = uri("https://hub.example/a/b?x=1");
        let cases = [
            ("https://cdn.example/f?s=1", "https://cdn.example/f?s=1"),
            ("//cdn.example/f", "https://cdn.example/f"),
            ("/api/f#top", "https://hub.example/api/f"),
            ("c", "https://hub.example/a/c"),
            ("/f?next=http://x", "https://hub.example/f?next=http://x"),
        ];
        for (location, expected) in cases {
            assert_eq!(join(&base, location).as_deref(), Some(expected));
        }
        assert_eq!(join(&base, ""), None);
    }

    #[test]
    fn shown_addresses_hold_no_query_and_no_user() {
        let url = uri("https://me:secret@cdn.example:8443/a/b?signature=secret");
        assert_eq!(shown(&url), "https://cdn.example:8443/a/b");
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("1_Pooling/a b.json", true), "1_Pooling/a%20b.json");
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
