//! Moments as people and accounting programs write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Serialize, Serializer};

/// Milliseconds since 1970, written as `2026-11-25T22:40:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// By the system's clock.
    pub fn now() -> Self {
        Self(Timestamp::now().as_millisecond())
    }

    /// How long it is after another; nothing where it is before.
    pub fn since(self, earlier: Self) -> Duration {
        let ms = self.0.saturating_sub(earlier.0);
        Duration::from_millis(ms.try_into().unwrap_or(0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// A text is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no date, expected one such as `2026-11-25` or `2026-11-25T22:40:00Z`")]
pub struct InvalidTime {
    text: String,
}

/// A day is its start in UTC.
impl FromStr for Time {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        let day = || {
            let day: Date = text.parse().ok()?;
            let start = day.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
            Some(start.timestamp())
        };
        let moment = text.parse::<Timestamp>().ok().or_else(day);
        moment
            .map(|moment| Self(moment.as_millisecond()))
            .ok_or_else(|| InvalidTime {
                text: text.to_owned(),
            })
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let time = Time(1_764_110_400_250);
        assert_eq!(time.to_string(), "2025-11-25T22:40:00.25Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!("1970-01-02".parse(), Ok(Time(86_400_000)));
        for text in ["", "today", "2026-13-01", "1"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
