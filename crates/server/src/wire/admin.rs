//! Bodies of the admin API.

use serde::{Deserialize, Deserializer, de};

use crate::metering::{PicoUsd, Rates};
use crate::store::Time;
use crate::store::keys::{KeyLimits, Scope};

/// A value that is written as a text: an amount, a moment, a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written<T>(pub T);

impl<'de, T: std::str::FromStr<Err: std::fmt::Display>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

/// `POST /v1/admin/accounts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// What it is called.
    pub name: String,
    /// Billed afterwards.
    #[serde(default)]
    pub postpaid: bool,
}

/// `POST /v1/admin/accounts/{id}/credit`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCredit {
    /// Dollars, as a text; negative takes them back.
    pub amount_usd: Written<PicoUsd>,
    /// Why.
    pub note: Option<String>,
}

/// `POST /v1/admin/accounts/{id}/closed`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closing {
    /// Whether it is closed from now on.
    pub closed: bool,
}

/// `POST /v1/admin/invitations`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInvitation {
    /// When it ends.
    pub expires_at: Written<Time>,
}

/// Limits of an account or a key; what is not there is no limit.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLimits {
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens in a minute.
    pub tokens_per_minute: Option<u32>,
    /// Requests that run at the same time.
    pub concurrent_requests: Option<u32>,
    /// Dollars in a calendar month, as a text; of keys only.
    pub monthly_budget_usd: Option<Written<PicoUsd>>,
}

impl NewLimits {
    /// Those of an account.
    pub fn rates(&self) -> Rates {
        Rates {
            requests_per_minute: self.requests_per_minute.map(u64::from),
            tokens_per_minute: self.tokens_per_minute.map(u64::from),
            concurrent_requests: self.concurrent_requests.map(u64::from),
        }
    }

    /// Those of a key.
    pub fn of_key(&self) -> KeyLimits {
        KeyLimits {
            rates: self.rates(),
            monthly_budget: self.monthly_budget_usd.map(|Written(budget)| budget),
        }
    }
}

/// `POST /v1/admin/keys`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKeyRequest {
    /// The account that pays.
    pub account_id: String,
    /// What the key is called.
    pub name: String,
    /// What it may do; `embed` where nothing is said.
    pub scopes: Option<Vec<Written<Scope>>>,
    /// The only models that it may call.
    pub models: Option<Vec<String>>,
    /// The only tasks that it may name.
    pub tasks: Option<Vec<String>>,
    /// The task of requests that leave it open.
    pub default_task: Option<String>,
    /// When it ends.
    pub expires_at: Option<Written<Time>>,
    /// Its limits.
    #[serde(default)]
    pub limits: NewLimits,
}

/// `POST /v1/admin/keys/{id}/rotate`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Hours during which the secret before is still accepted.
    #[serde(default)]
    pub grace_hours: u16,
}
