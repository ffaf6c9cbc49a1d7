//! Who may call: nobody is asked, or one key. The key service takes this module's place.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::app::SharedApp;
use crate::error::ApiError;

/// How callers are told apart.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Everyone may call.
    Open,
    /// Whoever has the key may call. Only its hash is kept.
    Key(KeyHash),
}

/// SHA-256 of a key. Keys are random, so no slow hash is needed.
#[derive(Clone)]
pub struct KeyHash([u8; 32]);

/// Does not show the hash.
impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// Who calls. In the request's extensions behind `require_key`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Public id of the key, for logs; `None` where nobody is told apart.
    pub id: Option<String>,
    /// The key's default task, by name.
    pub default_task: Option<String>,
}

impl Auth {
    /// One key for all.
    pub fn key(key: &SecretString) -> Self {
        Self::Key(KeyHash(Sha256::digest(key.expose_secret()).into()))
    }

    /// Finds out who calls.
    ///
    /// # Errors
    /// 401 without a key or with a wrong one.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let Self::Key(KeyHash(expected)) = self else {
            return Ok(Caller::default());
        };
        let Some(key) = presented_key(headers) else {
            return Err(ApiError::unauthorized(
                "You didn't provide an API key; send it as `Authorization: Bearer YOUR_KEY`",
            ));
        };
        let found: [u8; 32] = Sha256::digest(key).into();
        if bool::from(found.ct_eq(expected)) {
            Ok(Caller::default())
        } else {
            Err(ApiError::unauthorized("Incorrect API key provided"))
        }
    }
}

/// `Authorization: Bearer`, or the headers that Azure's and other clients use.
fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        return scheme
            .eq_ignore_ascii_case(b"Bearer ")
            .then(|| key.trim_ascii());
    }
    let value = headers
        .get("x-api-key")
        .or_else(|| headers.get("api-key"))?;
    Some(value.as_bytes())
}

/// Middleware: lets a caller in and notes who it is.
pub(crate) async fn require_key(
    State(app): State<SharedApp>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = app.auth.authenticate(request.headers())?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn the_key_is_taken_from_the_usual_headers() {
        let auth = Auth::key(&SecretString::from("sesame"));
        let accepted = |name, value| auth.authenticate(&headers(name, value)).is_ok();
        assert!(accepted("authorization", "Bearer sesame"));
        assert!(accepted("authorization", "bearer  sesame"));
        assert!(accepted("api-key", "sesame"));
        assert!(accepted("x-api-key", "sesame"));
        assert!(!accepted("authorization", "sesame"));
        assert!(!accepted("authorization", "Basic sesame"));
        assert!(!accepted("authorization", "Bearer sesam"));
        assert!(auth.authenticate(&HeaderMap::new()).is_err());
        assert!(Auth::Open.authenticate(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn neither_key_nor_hash_is_shown() {
        let auth = Auth::key(&SecretString::from("sesame"));
        assert_eq!(format!("{auth:?}"), "Key(KeyHash(…))");
    }
}
