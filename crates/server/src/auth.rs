//! Who may call: nobody is asked, or one key, or the keys of a hosted service.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::app::SharedApp;
use crate::batcher::Tenant;
use crate::error::ApiError;
use crate::hosting::Hosting;
use crate::meter::Meter;
use crate::observe::RequestId;
use crate::routes::tier;
use crate::store::keys::{Key, Scope};

/// How callers are told apart.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Everyone may call.
    Open,
    /// Whoever has the key may call. Only its hash is kept.
    Key(KeyHash),
    /// Whoever has a key of an account may do what its scopes say.
    Accounts(Arc<Hosting>),
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

/// What a route asks of its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The scope `embed`; what the model does is billed by the handler.
    Model,
    /// The scope `embed`; it costs nothing.
    Free,
    /// Any key, also one in the query, as at gigarouter's.
    Account,
    /// The scope `admin`.
    Admin,
}

impl Access {
    fn scope(self) -> Option<Scope> {
        match self {
            Self::Model | Self::Free => Some(Scope::Embed),
            Self::Account => None,
            Self::Admin => Some(Scope::Admin),
        }
    }
}

/// Who calls. In the request's extensions behind `check_access`.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The key of an account; `None` where nobody is told apart.
    pub key: Option<Arc<Key>>,
    /// What counts and bills the request.
    pub meter: Option<Arc<Meter>>,
}

impl Caller {
    /// Whose share of the processor the request takes: the account's, or everybody's.
    pub(crate) fn tenant(&self) -> Tenant {
        let account = self.key.as_ref().map(|key| key.account_id.as_str());
        Tenant(account.map(Into::into))
    }

    /// The key's default task, by name.
    pub fn default_task(&self) -> Option<&str> {
        self.key.as_ref()?.default_task.as_deref()
    }
}

impl Auth {
    /// One key for all.
    pub fn key(key: &SecretString) -> Self {
        Self::Key(KeyHash(Sha256::digest(key.expose_secret()).into()))
    }

    /// Finds out who presents this; the key of an account, if there are accounts.
    ///
    /// # Errors
    /// 401 without a key or with a wrong one.
    async fn authenticate(&self, presented: Option<&[u8]>) -> Result<Option<Arc<Key>>, ApiError> {
        if matches!(self, Self::Open) {
            return Ok(None);
        }
        let Some(presented) = presented else {
            return Err(ApiError::unauthorized(
                "You didn't provide an API key; send it as `Authorization: Bearer YOUR_KEY`",
            ));
        };
        match self {
            Self::Accounts(hosting) => hosting.authenticate(presented).await.map(Some),
            Self::Key(KeyHash(expected)) => {
                let found: [u8; 32] = Sha256::digest(presented).into();
                if bool::from(found.ct_eq(expected)) {
                    Ok(None)
                } else {
                    Err(ApiError::wrong_key())
                }
            }
            Self::Open => Ok(None),
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

/// `?key=…`. Keys need no escapes.
fn key_in_query(query: Option<&str>) -> Option<&[u8]> {
    let mut fields = query?.split('&');
    let key = fields.find_map(|field| field.strip_prefix("key="));
    key.map(str::as_bytes)
}

/// Whether a key was sent, wherever it may stand.
pub(crate) fn has_key(headers: &HeaderMap, query: Option<&str>) -> bool {
    presented_key(headers).is_some() || key_in_query(query).is_some()
}

/// Middleware of every route that is not open to all: lets a caller in, notes who it is, and meters
/// what it does.
pub(crate) async fn check_access(
    State((app, access)): State<(SharedApp, Access)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let by_header = presented_key(request.headers());
    let presented = match access {
        Access::Account => by_header.or_else(|| key_in_query(request.uri().query())),
        Access::Model | Access::Free | Access::Admin => by_header,
    };
    let key = app.auth.authenticate(presented).await?;
    let (hosting, key) = match (&app.auth, key) {
        (Auth::Accounts(hosting), Some(key)) => (hosting, key),
        _ if access.scope() == Some(Scope::Embed) => {
            request.extensions_mut().insert(Caller::default());
            return Ok(next.run(request).await);
        }
        _ => return Err(ApiError::no_accounts()),
    };
    if let Some(scope) = access.scope()
        && !key.scopes.contains(&scope)
    {
        return Err(ApiError::missing_scope(scope.name()));
    }
    let extensions = request.extensions();
    let id = extensions.get::<RequestId>().map(|id| id.0.clone());
    // A client leaves `/v1` out or not; it is the same request.
    let path = extensions
        .get::<MatchedPath>()
        .map_or("", |route| route.as_str().trim_start_matches("/v1"));
    let headers = request.headers();
    let meter = Arc::new(Meter::new(
        hosting,
        &key,
        id.unwrap_or_default(),
        tier(headers),
        path,
        headers,
    ));
    if access != Access::Model
        && let Err(refused) = meter.count().await
    {
        return Ok(meter.finish(refused.into_response()).await);
    }
    request.extensions_mut().insert(Caller {
        key: Some(key),
        meter: Some(Arc::clone(&meter)),
    });
    let response = next.run(request).await;
    Ok(meter.finish(response).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[tokio::test]
    async fn the_key_is_taken_from_the_usual_headers() {
        let auth = Auth::key(&SecretString::from("sesame"));
        for (name, value, is_accepted) in [
            ("authorization", "Bearer sesame", true),
            ("authorization", "bearer  sesame", true),
            ("api-key", "sesame", true),
            ("x-api-key", "sesame", true),
            ("authorization", "sesame", false),
            ("authorization", "Basic sesame", false),
            ("authorization", "Bearer sesam", false),
        ] {
            let headers = headers(name, value);
            let authenticated = auth.authenticate(presented_key(&headers)).await;
            assert_eq!(authenticated.is_ok(), is_accepted, "{name}: {value}");
        }
        assert!(auth.authenticate(None).await.is_err());
        assert!(Auth::Open.authenticate(None).await.is_ok());
    }

    #[test]
    fn a_key_in_the_query_is_found_among_others() {
        assert_eq!(key_in_query(Some("a=1&key=x-y-z")), Some(&b"x-y-z"[..]));
        assert_eq!(key_in_query(Some("monkey=x")), None);
        assert_eq!(key_in_query(None), None);
    }

    #[test]
    fn neither_key_nor_hash_is_shown() {
        let auth = Auth::key(&SecretString::from("sesame"));
        assert_eq!(format!("{auth:?}"), "Key(KeyHash(…))");
    }
}
