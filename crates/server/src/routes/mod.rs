//! The handlers, one file a subject.

pub mod embeddings;
pub mod health;
pub mod models;

use axum::http::HeaderMap;
use std::time::Duration;

use crate::batcher::Tier;

/// `X-Tier: batch` gives up its turn to whoever waits.
pub fn tier(headers: &HeaderMap) -> Tier {
    match headers.get("x-tier") {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"batch") => Tier::Batch,
        _ => Tier::Realtime,
    }
}

/// `Prefer: wait=N` (RFC 7240): how long the caller would rather wait than be refused.
pub fn preferred_wait(headers: &HeaderMap) -> Duration {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .find_map(|preference| {
            let seconds = preference.trim().strip_prefix("wait")?.trim_start();
            seconds.strip_prefix('=')?.trim().parse().ok()
        })
        .map_or(Duration::ZERO, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_to_wait_is_found_among_others() {
        let wait = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", value.parse().unwrap());
            preferred_wait(&headers).as_secs()
        };
        assert_eq!(wait("wait=30"), 30);
        assert_eq!(wait("respond-async, wait = 5"), 5);
        assert_eq!(wait("wait=long"), 0);
        assert_eq!(preferred_wait(&HeaderMap::new()), Duration::ZERO);
    }
}
