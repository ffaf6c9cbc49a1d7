//! From options to a hosted service: where its state is, what it costs, whom it lets in.

use std::sync::Arc;

use quintet_server::metering::{PicoUsd, Price, Rates};
use quintet_server::store::{Location, StoreError};
use quintet_server::{Hosting, HostingConfig, SignUp};

use super::ServeOptions;
use crate::failure::UserError;

/// Opens the state that the options name, if they do. Where they name no price, the catalogue's applies.
pub(super) fn open(
    options: &ServeOptions,
    listed: Option<Price>,
) -> anyhow::Result<Option<Arc<Hosting>>> {
    let Some(state) = &options.state else {
        return match needless(options) {
            Some(name) => Err(
                UserError::new(format!("`{name}` needs accounts to apply to"))
                    .hint("name the file of their state with --state")
                    .into(),
            ),
            None => Ok(None),
        };
    };
    if options.api_key.is_some() || options.api_key_file.is_some() || options.no_auth {
        return Err(UserError::new("one key, or none, and accounts exclude each other")
            .hint("leave --api-key, --api-key-file and --no-auth out; `quintet keys create` makes keys")
            .into());
    }
    let config = config(options, listed)?;
    let location: Location = state.parse().map_err(StoreError::from)?;
    let hosting = Hosting::open(&location, config).map_err(StoreError::from)?;
    Ok(Some(Arc::new(hosting)))
}

/// An option that is set and does nothing without accounts.
fn needless(options: &ServeOptions) -> Option<&'static str> {
    let is_set = [
        ("price", options.price.is_some()),
        ("batch_price", options.batch_price.is_some()),
        ("requests_per_minute", options.requests_per_minute.is_some()),
        ("tokens_per_minute", options.tokens_per_minute.is_some()),
        ("concurrent_requests", options.concurrent_requests.is_some()),
        ("sign_up", options.sign_up.is_some()),
        ("free_credit", options.free_credit.is_some()),
        ("key_prefix", options.key_prefix.is_some()),
    ];
    let first = is_set.into_iter().find(|(_, is_set)| *is_set);
    first.map(|(name, _)| name)
}

fn config(options: &ServeOptions, listed: Option<Price>) -> anyhow::Result<HostingConfig> {
    let defaults = HostingConfig::default();
    let realtime = options.price.as_deref().map(|text| price("price", text));
    let batch = options
        .batch_price
        .as_deref()
        .map(|text| price("batch_price", text));
    let price = match (realtime.transpose()?, batch.transpose()?) {
        (None, None) => listed,
        (None, Some(_)) => {
            return Err(UserError::new("`batch_price` is set and `price` is not")
                .hint("give --price, which applies to all other requests")
                .into());
        }
        (Some(realtime), batch) => Some(Price {
            realtime_micro_usd_per_million: realtime,
            batch_micro_usd_per_million: batch.unwrap_or(realtime),
        }),
    };
    let sign_up = match options.sign_up.as_deref() {
        None | Some("off") => SignUp::Off,
        Some("invite") => SignUp::Invite,
        Some("open") => SignUp::Open,
        Some(word) => {
            let message = format!("sign_up is `{word}`, expected `off`, `invite` or `open`");
            return Err(UserError::new(message).into());
        }
    };
    let limit = |option: Option<usize>| option.map(|limit| limit as u64);
    Ok(HostingConfig {
        price,
        limits: Rates {
            requests_per_minute: limit(options.requests_per_minute),
            tokens_per_minute: limit(options.tokens_per_minute),
            concurrent_requests: limit(options.concurrent_requests),
        }
        .or(defaults.limits),
        sign_up,
        free_credit: match &options.free_credit {
            Some(text) => amount("free_credit", text)?,
            None => PicoUsd::ZERO,
        },
        key_prefix: options.key_prefix.clone().unwrap_or(defaults.key_prefix),
        ..HostingConfig::default()
    })
}

fn amount(name: &str, text: &str) -> Result<PicoUsd, UserError> {
    match text.parse::<PicoUsd>() {
        Ok(amount) if amount >= PicoUsd::ZERO => Ok(amount),
        _ => Err(UserError::new(format!(
            "{name} is `{text}`, expected dollars such as `0.02`"
        ))),
    }
}

/// Micro-dollars per million tokens, from dollars per million.
fn price(name: &str, text: &str) -> Result<u64, UserError> {
    const MICRO_DOLLAR: u64 = 1_000_000;
    let amount = amount(name, text)?.0.unsigned_abs();
    if amount.is_multiple_of(MICRO_DOLLAR) {
        Ok(amount / MICRO_DOLLAR)
    } else {
        Err(UserError::new(format!(
            "{name} is `{text}`, expected at most six digits behind the point"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_dollars_per_million_tokens() {
        assert_eq!(price("price", "0.02").unwrap(), 20_000);
        assert_eq!(price("price", "0.000001").unwrap(), 1);
        for text in ["0.0000001", "-1", "much"] {
            assert!(price("price", text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_needs_accounts_is_refused_without() {
        let options = ServeOptions {
            sign_up: Some("open".to_owned()),
            ..ServeOptions::default()
        };
        let message = open(&options, None).unwrap_err().to_string();
        assert_eq!(message, "`sign_up` needs accounts to apply to");
    }
}
