//! How long to wait before the next try, and when to stop trying.

use std::time::Duration;

use super::HubError;

/// The rule for tries after a failure. Waiting itself is passed in, so that tests need not.
pub(crate) struct Backoff<'a> {
    /// Overrides every wait, the server's wishes included.
    pub(crate) fixed_delay: Option<Duration>,
    /// Waits.
    pub(crate) sleep: &'a dyn Fn(Duration),
}

/// Failures in a row that are tried again; the next one is final.
pub(crate) const RETRIES: u32 = 5;

/// A server that asks for more patience than this gets none: the user decides. The hub counts
/// requests in windows of five minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

const FIRST_DELAY: Duration = Duration::from_secs(1);

impl Backoff<'_> {
    /// The wait before the next try, `None` when there shall be none.
    ///
    /// `failures` counts this one and those right before it. Without a wish of the server the
    /// wait doubles from one second.
    pub(crate) fn delay(&self, error: &HubError, failures: u32) -> Option<Duration> {
        if !error.is_passing() || failures > RETRIES {
            return None;
        }
        let asked = error.retry_after();
        if asked.is_some_and(|asked| asked > LONGEST_WAIT) {
            return None;
        }
        let doubled = FIRST_DELAY * 2_u32.pow(failures.saturating_sub(1));
        Some(self.fixed_delay.or(asked).unwrap_or(doubled))
    }

    /// Runs `request` until it succeeds or a failure is final; `note` hears of every wait.
    pub(crate) fn run<T>(
        &self,
        mut note: impl FnMut(&HubError, u32, Duration),
        mut request: impl FnMut() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            let error = match request() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failures += 1;
            let Some(delay) = self.delay(&error, failures) else {
                return Err(error);
            };
            note(&error, failures, delay);
            (self.sleep)(delay);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn limited(retry_after: Option<u64>) -> HubError {
        HubError::RateLimited {
            url: "u".into(),
            retry_after: retry_after.map(Duration::from_secs),
            message: None,
            has_token: false,
        }
    }

    /// Seconds slept while `request` failed as often as it does.
    fn slept(fixed_delay: Option<Duration>, error: impl Fn() -> HubError) -> Vec<u64> {
        let waits = RefCell::new(Vec::new());
        let sleep = |delay: Duration| waits.borrow_mut().push(delay.as_secs());
        let backoff = Backoff {
            fixed_delay,
            sleep: &sleep,
        };
        let result: Result<(), _> = backoff.run(|_, _, _| {}, || Err(error()));
        assert!(result.is_err());
        waits.into_inner()
    }

    #[test]
    fn waits_double_and_end() {
        assert_eq!(slept(None, || limited(None)), [1, 2, 4, 8, 16]);
    }

    #[test]
    fn the_servers_wish_comes_first_within_reason() {
        assert_eq!(slept(None, || limited(Some(7))), [7; 5]);
        assert_eq!(slept(None, || limited(Some(301))), [0_u64; 0]);
    }

    #[test]
    fn a_fixed_delay_overrides_both() {
        let fixed = Some(Duration::ZERO);
        assert_eq!(slept(fixed, || limited(Some(7))), [0; 5]);
        assert_eq!(slept(fixed, || limited(None)), [0; 5]);
    }

    #[test]
    fn lasting_trouble_is_not_tried_again() {
        assert_eq!(slept(None, || HubError::Token), [0_u64; 0]);
    }

    #[test]
    fn a_success_ends_the_tries() {
        let backoff = Backoff {
            fixed_delay: None,
            sleep: &|_| {},
        };
        let mut tries = 0;
        let result = backoff.run(
            |_, _, _| {},
            || {
                tries += 1;
                if tries < 3 {
                    Err(limited(None))
                } else {
                    Ok(tries)
                }
            },
        );
        assert_eq!(result.unwrap(), 3);
    }
}
