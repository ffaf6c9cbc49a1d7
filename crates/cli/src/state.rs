//! The state of a hosted service, as the commands that change it find it.

use clap::Args;
use quintet_server::metering::{PicoUsd, Rates};
use quintet_server::store::accounts::Change;
use quintet_server::store::{Database, Durability, Location, StoreError, Time, transaction};

use crate::failure::UserError;
use crate::settings::Settings;

/// Where the state is.
#[derive(Args, Clone, Debug)]
pub(crate) struct StateArgs {
    /// The service's state: a file, created where there is none, or postgres://… in a program with that
    /// feature [env: QUINTET_STATE]
    #[arg(long, value_name = "FILE|URL", help_heading = "State")]
    state: Option<String>,
}

impl StateArgs {
    /// Opens the state.
    pub(crate) fn open(&self, settings: &Settings) -> anyhow::Result<State> {
        let text = self.state.clone();
        let text = text.or_else(|| settings.variable("QUINTET_STATE"));
        let text = text.ok_or_else(|| {
            UserError::new("no state is named")
                .hint("give --state FILE or set QUINTET_STATE, as for `quintet serve`")
        })?;
        let location: Location = text.parse().map_err(StoreError::from)?;
        let database = location.open().map_err(StoreError::from)?;
        Ok(State { database })
    }
}

/// The state, open.
pub(crate) struct State {
    database: Box<dyn Database>,
}

impl State {
    /// Changes it: all of it or nothing.
    pub(crate) fn change<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Database, Change<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let change = Change {
            actor: "cli",
            now: Time::now(),
        };
        let work = |database: &mut dyn Database| work(database, change);
        transaction(&mut *self.database, Durability::Disk, work)
    }

    /// Reads it.
    pub(crate) fn database(&mut self) -> &mut dyn Database {
        &mut *self.database
    }
}

/// Limits by the minute. Those that are not named are taken away.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct RateArgs {
    /// Requests in a minute
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Tokens in a minute, counted as the model sees them
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u32>,
    /// Requests that run at the same time
    #[arg(long, value_name = "N")]
    concurrent_requests: Option<u32>,
}

impl RateArgs {
    /// As the meter knows them.
    pub(crate) fn rates(self) -> Rates {
        Rates {
            requests_per_minute: self.requests_per_minute.map(u64::from),
            tokens_per_minute: self.tokens_per_minute.map(u64::from),
            concurrent_requests: self.concurrent_requests.map(u64::from),
        }
    }
}

/// Limits in a line.
pub(crate) fn shown_limits(limits: Rates, monthly_budget: Option<PicoUsd>) -> String {
    let limit = |number: Option<u64>, unit: &str| number.map(|number| format!("{number}{unit}"));
    let parts: Vec<String> = [
        limit(limits.requests_per_minute, " requests/min"),
        limit(limits.tokens_per_minute, " tokens/min"),
        limit(limits.concurrent_requests, " at once"),
        monthly_budget.map(|budget| format!("${budget}/month")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        "no limits of its own".to_owned()
    } else {
        parts.join(", ")
    }
}

/// The day of a moment, in UTC.
pub(crate) fn day(time: Time) -> String {
    time.to_string().chars().take(10).collect()
}
