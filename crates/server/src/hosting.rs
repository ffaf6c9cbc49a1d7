//! A hosted service: callers with keys and accounts, prices and limits, over the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::metering::limits;
use crate::metering::{PicoUsd, Price, Rates, Refusal};
use crate::store::accounts::{self, Account, Change};
use crate::store::keys::{self, DEFAULT_PREFIX, Key, KeyOptions, NewKey, Scope};
use crate::store::{DatabaseError, Location, RetryWindow, Store, StoreError, Time};

/// What an operator decides about a hosted service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostingConfig {
    /// Prices by model id; a model that is not here costs nothing.
    pub prices: BTreeMap<String, Price>,
    /// The price of every model, in place of the others.
    pub price: Option<Price>,
    /// Limits of accounts that have none of their own.
    pub limits: Rates,
    /// Who may open an account by themselves.
    pub sign_up: SignUp,
    /// What an account that was opened so begins with.
    pub free_credit: PicoUsd,
    /// What keys begin with.
    pub key_prefix: String,
    /// How long and how often the same request is answered again without being billed again.
    pub retries: RetryWindow,
}

impl Default for HostingConfig {
    fn default() -> Self {
        Self {
            prices: BTreeMap::new(),
            price: None,
            limits: Rates {
                requests_per_minute: Some(3_000),
                tokens_per_minute: Some(1_000_000),
                concurrent_requests: Some(64),
            },
            sign_up: SignUp::Off,
            free_credit: PicoUsd::ZERO,
            key_prefix: DEFAULT_PREFIX.to_owned(),
            retries: RetryWindow::default(),
        }
    }
}

/// Who may open an account by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignUp {
    /// Nobody.
    #[default]
    Off,
    /// Whoever has an invitation.
    Invite,
    /// Everyone.
    Open,
}

/// The service, open.
#[derive(Debug)]
pub struct Hosting {
    /// What the operator decided.
    pub config: HostingConfig,
    /// Accounts, keys and the ledger.
    pub store: Arc<Store>,
    keys: Mutex<HashMap<String, Known>>,
    /// Answers to wrong keys, each of which is held back for a while.
    wrong: Semaphore,
    /// When the bucket of accounts that strangers open is full again, in microseconds.
    sign_ups_full_us: Mutex<i64>,
}

/// A key as the store had it.
#[derive(Debug, Clone)]
struct Known {
    key: Arc<Key>,
    read: Instant,
}

/// A key that was read is taken as it is for so long: a revocation is heard of after this time, and
/// before it by whatever is billed.
const FRESH: Duration = Duration::from_secs(5);
/// While the database is down, keys that were read before are accepted for so long.
const STALE: Duration = Duration::from_secs(300);
/// Keys that are kept in mind.
const MAX_KNOWN: usize = 10_000;
/// The answer to a wrong key waits so long, and so many wait at once: 128 guesses a second.
const WRONG_DELAY: Duration = Duration::from_millis(500);
const MAX_WRONG: usize = 64;
/// Why such an account has credit.
const FREE_CREDIT: &str = "free credit";
/// Accounts that strangers may open.
const SIGN_UPS_PER_MINUTE: u64 = 30;

impl Hosting {
    /// Opens the state, or creates it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn open(location: &Location, config: HostingConfig) -> Result<Self, DatabaseError> {
        Ok(Self {
            store: Arc::new(Store::open(location, config.retries)?),
            config,
            keys: Mutex::default(),
            wrong: Semaphore::new(MAX_WRONG),
            sign_ups_full_us: Mutex::default(),
        })
    }

    /// What a model's tokens cost.
    pub fn price(&self, model: &str) -> Price {
        let listed = || self.config.prices.get(model).copied();
        self.config.price.or_else(listed).unwrap_or_default()
    }

    /// The key whose text was presented.
    ///
    /// # Errors
    /// 401 for a wrong one, after a while; 503 while the database is down.
    pub async fn authenticate(&self, presented: &[u8]) -> Result<Arc<Key>, ApiError> {
        let text = std::str::from_utf8(presented).ok();
        if let Some((id, secret)) = text.and_then(keys::parts)
            && let Some(key) = self.key(id).await?
        {
            let now = Time::now();
            if key.secrets.accept(secret.as_bytes(), now) && !key.is_over(now) {
                return Ok(key);
            }
        }
        let Ok(_permit) = self.wrong.try_acquire() else {
            return Err(ApiError::too_many_wrong_keys(WRONG_DELAY));
        };
        tokio::time::sleep(WRONG_DELAY).await;
        Err(ApiError::wrong_key())
    }

    /// The key of this public id, read within the last seconds.
    ///
    /// # Errors
    /// 503 while the database is down.
    pub(crate) async fn key(&self, id: &str) -> Result<Option<Arc<Key>>, ApiError> {
        let known = self.keys().get(id).cloned();
        let is_younger = |known: &&Known, age| known.read.elapsed() < age;
        if let Some(known) = known.as_ref().filter(|known| is_younger(known, FRESH)) {
            return Ok(Some(Arc::clone(&known.key)));
        }
        let asked = id.to_owned();
        let read = Instant::now();
        let found = self
            .store
            .read(move |database| keys::find(database, &asked, Time::now()));
        match found.await {
            Ok(key) => {
                let key = Arc::new(key);
                self.keep(Known {
                    key: Arc::clone(&key),
                    read,
                });
                Ok(Some(key))
            }
            Err(StoreError::UnknownKey { .. }) => Ok(None),
            Err(error) => match known.filter(|known| is_younger(&known, STALE)) {
                Some(known) => Ok(Some(known.key)),
                None => Err(error.into()),
            },
        }
    }

    fn keep(&self, known: Known) {
        let mut keys = self.keys();
        if keys.len() >= MAX_KNOWN {
            keys.retain(|_, known| known.read.elapsed() < FRESH);
        }
        if keys.len() < MAX_KNOWN {
            keys.insert(known.key.id.clone(), known);
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an account that a stranger wants to open.
    ///
    /// # Errors
    /// 429 for too many of them.
    pub fn take_sign_up(&self, now: Time) -> Result<(), ApiError> {
        let mut full_us = self
            .sign_ups_full_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = limits::take(*full_us, now.0.saturating_mul(1000), 1, SIGN_UPS_PER_MINUTE);
        *full_us = taken.map_err(|retry_after| Refusal::Requests {
            limit: SIGN_UPS_PER_MINUTE,
            retry_after,
        })?;
        Ok(())
    }

    /// Opens an account with the free credit and its first key, where the operator allows it.
    ///
    /// # Errors
    /// 403 where nobody may, or not without an invitation; 429 for too many of them.
    pub async fn sign_up(
        &self,
        name: Option<String>,
        invitation: Option<String>,
    ) -> Result<(Account, NewKey), ApiError> {
        let is_invited = match self.config.sign_up {
            SignUp::Off => {
                return Err(ApiError::sign_up_refused(
                    "Accounts are opened by the operator of this server",
                ));
            }
            SignUp::Invite if invitation.is_none() => {
                return Err(ApiError::sign_up_refused(
                    "An account needs an invitation, expected its code in `invitation`",
                ));
            }
            SignUp::Invite => true,
            SignUp::Open => false,
        };
        self.take_sign_up(Time::now())?;
        let Some(name) = name else {
            return Err(ApiError::invalid_param(
                "name",
                "The field `name` is missing, expected what the account is called",
            ));
        };
        let (credit, prefix) = (self.config.free_credit, self.config.key_prefix.clone());
        let opened = self.store.write(move |database| {
            let change = Change {
                actor: "sign-up",
                now: Time::now(),
            };
            let account = accounts::create(database, change, &name, true)?;
            if let (true, Some(code)) = (is_invited, invitation) {
                accounts::accept_invitation(database, change.now, &code, &account.id)?;
            }
            let account = if credit > PicoUsd::ZERO {
                accounts::grant(database, change, &account.id, credit, Some(FREE_CREDIT))?
            } else {
                account
            };
            let options = KeyOptions {
                name: "first".to_owned(),
                scopes: vec![Scope::Embed, Scope::Account],
                ..KeyOptions::default()
            };
            let key = keys::create(database, change, &account.id, &prefix, &options)?;
            Ok::<_, StoreError>((account, key))
        });
        Ok(opened.await?)
    }

    /// Forgets a key that was changed here, so that it is read anew.
    pub fn forget(&self, key_id: &str) {
        self.keys().remove(key_id);
    }
}
