//! Who looks at a page: the cookie of a session, the tokens that our own forms carry, and the visits that
//! both let in.
//!
//! A cookie alone changes nothing: it is not sent along from other sites (`SameSite=Strict`), and every
//! form brings a token that is made from it, which no other site can know. No route of the API reads it.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Redirect, Response};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::form::Fields;
use super::frame::{Frame, is_https};
use crate::app::{App, SharedApp};
use crate::auth::Auth;
use crate::error::ApiError;
use crate::hosting::Hosting;
use crate::store::accounts::Change;
use crate::store::keys::{Key, Scope};
use crate::store::ledger::hex_digits;
use crate::store::{Database, StoreError, Time, sessions};

/// Which cookie.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cookie {
    /// That of somebody who is signed in.
    Session,
    /// That which the forms belong to that somebody sends before.
    Form,
}

impl Cookie {
    /// Browsers take `__Host-` from this very host over HTTPS only.
    fn name(self, is_https: bool) -> &'static str {
        match (self, is_https) {
            (Self::Session, true) => "__Host-quintet-session",
            (Self::Session, false) => "quintet-session",
            (Self::Form, true) => "__Host-quintet-form",
            (Self::Form, false) => "quintet-form",
        }
    }

    /// Its secret, where the visitor has one.
    pub(super) fn read(self, app: &App, headers: &HeaderMap) -> Option<SecretString> {
        let name = self.name(is_https(app, headers));
        let cookies = headers.get_all(header::COOKIE).iter();
        let mut pairs = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let (_, secret) = pairs.find(|(found, _)| *found == name)?;
        Some(secret.into())
    }

    /// `Set-Cookie` for this secret, or to forget it.
    pub(super) fn write(
        self,
        app: &App,
        headers: &HeaderMap,
        secret: Option<&SecretString>,
    ) -> HeaderValue {
        let is_https = is_https(app, headers);
        let name = self.name(is_https);
        let secure = if is_https { "; Secure" } else { "" };
        let text = match secret {
            Some(secret) => format!(
                "{name}={}; Max-Age={}; Path=/; HttpOnly; SameSite=Strict{secure}",
                secret.expose_secret(),
                sessions::LASTS_MS / 1000
            ),
            None => format!("{name}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict{secure}"),
        };
        // Secrets are letters and digits of our own making.
        let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

/// What a form must bring from whoever has this cookie.
pub(super) fn form_token(secret: &SecretString) -> String {
    let mut hash = Sha256::new();
    hash.update("quintet form ");
    hash.update(secret.expose_secret());
    hex_digits(&hash.finalize()[..16])
}

/// Whether a form brought it.
///
/// # Errors
/// 403 if not.
pub(super) fn check_form(fields: &Fields, token: &str) -> Result<(), ApiError> {
    let found = fields.text("form_token").as_bytes();
    if bool::from(found.ct_eq(token.as_bytes())) {
        Ok(())
    } else {
        Err(ApiError::strange_form())
    }
}

/// The hosted service behind the pages.
///
/// # Errors
/// 404 where there is none.
pub(super) fn hosting(app: &App) -> Result<&Arc<Hosting>, ApiError> {
    match &app.auth {
        Auth::Accounts(hosting) => Ok(hosting),
        Auth::Open | Auth::Key(_) => Err(ApiError::no_accounts()),
    }
}

/// A page of somebody who is signed in.
pub(super) struct Visit {
    pub(super) app: SharedApp,
    pub(super) hosting: Arc<Hosting>,
    pub(super) frame: Frame,
    /// What was shown at the door.
    pub(super) key: Key,
    /// What the page's forms bring.
    pub(super) form_token: String,
    /// The headers of the request.
    pub(super) headers: HeaderMap,
}

impl Visit {
    /// Whether the key reaches other accounts.
    pub(super) fn is_admin(&self) -> bool {
        self.key.scopes.contains(&Scope::Admin)
    }

    /// Whether the key may change the keys of its account.
    pub(super) fn changes_keys(&self) -> bool {
        self.is_admin() || self.key.scopes.contains(&Scope::Account)
    }

    /// The same, for whoever is about to.
    ///
    /// # Errors
    /// 403 if not.
    pub(super) fn check_changes_keys(&self) -> Result<(), ApiError> {
        match self.changes_keys() {
            true => Ok(()),
            false => Err(ApiError::missing_scope(Scope::Account.name())),
        }
    }

    /// Reads the state.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        Ok(self.hosting.store.read(work).await?)
    }

    /// Changes the state in the name of the visitor's key.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Database, Change<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let actor = self.key.id.clone();
        let done = self.hosting.store.write(move |database| {
            let change = Change {
                actor: &actor,
                now: Time::now(),
            };
            work(database, change)
        });
        Ok(done.await?)
    }
}

/// Why there was no visit.
pub(super) enum TurnedAway {
    /// Nobody is signed in; whoever is goes on to this path.
    SignIn(Option<String>),
    /// It would not help.
    Refused(ApiError),
}

impl From<ApiError> for TurnedAway {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl IntoResponse for TurnedAway {
    fn into_response(self) -> Response {
        match self {
            Self::SignIn(Some(next)) => {
                Redirect::to(&format!("/sign-in?next={next}")).into_response()
            }
            Self::SignIn(None) => Redirect::to("/sign-in").into_response(),
            Self::Refused(error) => error.into_response(),
        }
    }
}

impl FromRequestParts<SharedApp> for Visit {
    type Rejection = TurnedAway;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, TurnedAway> {
        let hosting = Arc::clone(hosting(app)?);
        let path = parts.uri.path();
        let next = (parts.method == Method::GET).then(|| path.to_owned());
        let Some(secret) = Cookie::Session.read(app, &parts.headers) else {
            return Err(TurnedAway::SignIn(next));
        };
        let form_token = form_token(&secret);
        let found = hosting
            .store
            .read(move |database| sessions::key(database, &secret, Time::now()));
        let Some(key) = found.await.map_err(ApiError::from)? else {
            return Err(TurnedAway::SignIn(next));
        };
        let place = PLACES.iter().find(|(place, _)| path.starts_with(place));
        Ok(Self {
            frame: Frame::new(app, &parts.headers, place.map_or("/account", |(it, _)| it)),
            app: Arc::clone(app),
            hosting,
            key,
            form_token,
            headers: parts.headers.clone(),
        })
    }
}

/// Where somebody who is signed in can go: the account's pages, then the operator's.
pub(super) const PLACES: [(&str, &str); 8] = [
    ("/account/overview", "Overview"),
    ("/account/keys", "Keys"),
    ("/account/batches", "Batches"),
    ("/account/ledger", "Ledger"),
    ("/admin/live", "Live"),
    ("/admin/accounts", "Accounts"),
    ("/admin/batches", "All batches"),
    ("/admin/audit", "Audit trail"),
];

/// A visit of an operator.
pub(super) struct AdminVisit(pub(super) Visit);

impl FromRequestParts<SharedApp> for AdminVisit {
    type Rejection = TurnedAway;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, TurnedAway> {
        let visit = Visit::from_request_parts(parts, app).await?;
        match visit.is_admin() {
            true => Ok(Self(visit)),
            false => Err(ApiError::missing_scope(Scope::Admin.name()).into()),
        }
    }
}

/// A form that a visitor sent from a page of ours.
pub(super) struct Posted<V>(pub(super) V, pub(super) Fields);

/// What both kinds of visit are.
pub(super) trait Visiting:
    FromRequestParts<SharedApp, Rejection = TurnedAway> + Send
{
    /// The visit.
    fn visit(&self) -> &Visit;
}

impl Visiting for Visit {
    fn visit(&self) -> &Visit {
        self
    }
}

impl Visiting for AdminVisit {
    fn visit(&self) -> &Visit {
        &self.0
    }
}

impl<V: Visiting> FromRequest<SharedApp> for Posted<V> {
    type Rejection = TurnedAway;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, TurnedAway> {
        let (mut parts, body) = request.into_parts();
        let visit = V::from_request_parts(&mut parts, app).await?;
        let fields = Fields::read(Request::from_parts(parts, body), app).await?;
        check_form(&fields, &visit.visit().form_token)?;
        Ok(Self(visit, fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn cookies_are_for_this_host_alone_and_no_script_reads_them() {
        let app = App::new(Config::default()).unwrap();
        let secret = SecretString::from("sesame");
        let mut headers = HeaderMap::new();
        let plain = Cookie::Session.write(&app, &headers, Some(&secret));
        assert_eq!(
            plain.to_str().unwrap(),
            "quintet-session=sesame; Max-Age=43200; Path=/; HttpOnly; SameSite=Strict"
        );
        assert!(plain.is_sensitive());
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        let secure = Cookie::Session.write(&app, &headers, None);
        assert_eq!(
            secure.to_str().unwrap(),
            "__Host-quintet-session=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict; Secure"
        );
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let app = App::new(Config::default()).unwrap();
        let read = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(text))]);
            let secret = Cookie::Session.read(&app, &headers)?;
            Some(secret.expose_secret().to_owned())
        };
        assert_eq!(read("a=b; quintet-session=x; c=d").as_deref(), Some("x"));
        assert_eq!(read("my-quintet-session=x"), None);
        // Over plain HTTP another site of the host may have set it.
        assert_eq!(read("__Host-quintet-session=x"), None);
    }

    #[test]
    fn a_form_token_says_nothing_about_the_cookie_and_fits_no_other() {
        let (one, other) = (form_token(&"a".into()), form_token(&"b".into()));
        assert_ne!(one, other);
        assert_ne!(one, hex_digits(&Sha256::digest("a")[..16]));
        let fields = |token: &str| Fields::of(&[("form_token", token)]);
        assert!(check_form(&fields(&one), &one).is_ok());
        assert!(check_form(&fields(&other), &one).is_err());
        assert!(check_form(&fields(""), &one).is_err());
        assert!(check_form(&Fields::of(&[]), &one).is_err());
    }
}
