//! The fields of a form as a person filled them in, and what they mean.

use axum::extract::Request;
use serde::Deserialize;

use crate::app::SharedApp;
use crate::body;
use crate::error::{ApiError, shortened};
use crate::metering::{PicoUsd, Rates};
use crate::store::Time;
use crate::store::keys::{Key, KeyLimits};

/// Names and texts, in the order of the form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Those of a request.
    ///
    /// # Errors
    /// [`ApiError`] for a body that is too long or too late, or no form.
    pub(super) async fn read(request: Request, app: &SharedApp) -> Result<Self, ApiError> {
        body::form(request, app).await.map(Self)
    }

    /// A key's name and limits, to be changed.
    pub(super) fn of_key(key: &Key) -> Self {
        let budget = key.monthly_budget_usd.map(|it| it.to_string());
        let mut fields = Self::of_rates(key.limits);
        fields.push("name", key.name.clone());
        fields.push("monthly_budget", budget.unwrap_or_default());
        fields
    }

    /// Limits, to be changed.
    pub(super) fn of_rates(rates: Rates) -> Self {
        let mut fields = Self::default();
        for (name, limit) in [
            ("requests_per_minute", rates.requests_per_minute),
            ("tokens_per_minute", rates.tokens_per_minute),
            ("concurrent_requests", rates.concurrent_requests),
        ] {
            let text = limit.map(|limit| limit.to_string());
            fields.push(name, text.unwrap_or_default());
        }
        fields
    }

    fn push(&mut self, name: &str, text: String) {
        self.0.push((name.to_owned(), text));
    }

    /// The text of a field, without blanks around it; empty where there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    /// The same, where something was filled in.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// The texts of all fields of this name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(found, _)| found == name);
        named.map(|(_, text)| text.trim())
    }

    /// Whether a box was ticked.
    pub(super) fn has(&self, name: &str, value: &str) -> bool {
        self.all(name).any(|found| found == value)
    }

    /// A whole number from 1 up, where something was filled in.
    fn count(&self, name: &'static str, label: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.filled(name) else {
            return Ok(None);
        };
        match text.parse::<u32>() {
            Ok(number) if number > 0 => Ok(Some(number.into())),
            _ => Err(ApiError::invalid_param(
                name,
                format!(
                    "{label}: `{}` is no whole number from 1 up",
                    shortened(text)
                ),
            )),
        }
    }

    /// The limits of an account.
    ///
    /// # Errors
    /// 400 for what is no number.
    pub(super) fn rates(&self) -> Result<Rates, ApiError> {
        Ok(Rates {
            requests_per_minute: self.count("requests_per_minute", "Requests a minute")?,
            tokens_per_minute: self.count("tokens_per_minute", "Tokens a minute")?,
            concurrent_requests: self.count("concurrent_requests", "Requests at the same time")?,
        })
    }

    /// The limits of a key.
    ///
    /// # Errors
    /// 400 for what is no number or no amount.
    pub(super) fn key_limits(&self) -> Result<KeyLimits, ApiError> {
        let monthly_budget = self.dollars("monthly_budget", "Dollars a month")?;
        if monthly_budget.is_some_and(|budget| budget <= PicoUsd::ZERO) {
            return Err(ApiError::invalid_param(
                "monthly_budget",
                "Dollars a month: expected more than nothing",
            ));
        }
        Ok(KeyLimits {
            rates: self.rates()?,
            monthly_budget,
        })
    }

    /// An amount, where one was filled in.
    ///
    /// # Errors
    /// 400 for what is none.
    pub(super) fn dollars(
        &self,
        name: &'static str,
        label: &str,
    ) -> Result<Option<PicoUsd>, ApiError> {
        let Some(text) = self.filled(name) else {
            return Ok(None);
        };
        let amount = text.trim_start_matches('$').parse::<PicoUsd>();
        amount.map(Some).map_err(|_| {
            let found = shortened(text);
            let message = format!(
                "{label}: `{found}` is no amount, expected dollars such as 5 or 0.25, at most 9000000"
            );
            ApiError::invalid_param(name, message)
        })
    }

    /// A day that is still to come, where one was filled in: its start.
    ///
    /// # Errors
    /// 400 for what is no day, and for one that is past.
    pub(super) fn day_to_come(
        &self,
        name: &'static str,
        label: &str,
        now: Time,
    ) -> Result<Option<Time>, ApiError> {
        let day = self.day(name, label)?;
        match day {
            Some(day) if day <= now => Err(ApiError::invalid_param(
                name,
                format!("{label}: expected a day that is still to come"),
            )),
            day => Ok(day),
        }
    }

    /// A day, where one was filled in: its start.
    ///
    /// # Errors
    /// 400 for what is none.
    pub(super) fn day(&self, name: &'static str, label: &str) -> Result<Option<Time>, ApiError> {
        let Some(text) = self.filled(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            let found = shortened(text);
            let message = format!("{label}: `{found}` is no day, expected one such as 2027-01-31");
            ApiError::invalid_param(name, message)
        })
    }
}

#[cfg(test)]
impl Fields {
    /// These.
    pub(super) fn of(fields: &[(&str, &str)]) -> Self {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        Self(fields.iter().map(owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_empty_is_no_limit_and_what_is_no_number_is_said() {
        let fields = Fields::of(&[
            ("requests_per_minute", " 60 "),
            ("tokens_per_minute", ""),
            ("monthly_budget", "$2.50"),
        ]);
        let limits = fields.key_limits().unwrap();
        assert_eq!(limits.rates.requests_per_minute, Some(60));
        assert_eq!(limits.rates.tokens_per_minute, None);
        assert_eq!(limits.monthly_budget, Some(PicoUsd(2_500_000_000_000)));
        for (name, text) in [
            ("requests_per_minute", "0"),
            ("requests_per_minute", "-1"),
            ("tokens_per_minute", "many"),
            ("monthly_budget", "0"),
            ("monthly_budget", "-5"),
            ("monthly_budget", "1e3"),
        ] {
            assert!(Fields::of(&[(name, text)]).key_limits().is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_ends_on_a_day_to_come() {
        let now: Time = "2026-11-26T12:00:00Z".parse().unwrap();
        let end = |text| Fields::of(&[("end", text)]).day_to_come("end", "End", now);
        assert_eq!(end("2026-11-27").unwrap(), "2026-11-27".parse().ok());
        assert_eq!(end("").unwrap(), None);
        assert!(end("2026-11-26").is_err());
        assert!(end("soon").is_err());
    }
}
