//! What the server did in the last five minutes, second by second, and how long its requests took: exact,
//! in bounded memory, for the operator's page.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::batcher::StepTimes;

/// Seconds that are looked back.
pub(crate) const WINDOW_S: usize = 300;
/// Requests whose times are kept.
const MAX_TIMES: usize = 4096;

/// Counts and times of the last minutes.
#[derive(Debug)]
pub(crate) struct Recent {
    start: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first, none twice, seconds without anything left out.
    seconds: VecDeque<Second>,
    times: VecDeque<(Instant, StepTimes)>,
}

/// What a second saw.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Second {
    /// Since the start.
    number: u64,
    /// Tokens that were embedded.
    pub(crate) tokens: u64,
    /// Requests that embedded them.
    pub(crate) requests: u64,
    /// Requests that were sent away: no credit, over a limit, no room.
    pub(crate) refused: u64,
    /// Requests that failed by our fault.
    pub(crate) failed: u64,
}

/// The window as it stands.
#[derive(Debug)]
pub(crate) struct Window {
    /// Every second of it, the one that runs now last.
    pub(crate) seconds: Vec<Second>,
    /// Requests of the window whose times are known.
    pub(crate) timed: usize,
    /// Tokenising, queue, model, and all three; each the 50th, 90th and 99th percentile and the longest.
    pub(crate) percentiles: [[Duration; 4]; 4],
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            kept: Mutex::default(),
        }
    }
}

impl Recent {
    /// Tokens of a request were embedded.
    pub(crate) fn embedded(&self, now: Instant, tokens: usize, times: StepTimes) {
        let mut kept = self.kept();
        let second = self.second(&mut kept, now);
        second.tokens += tokens as u64;
        second.requests += 1;
        if kept.times.len() == MAX_TIMES {
            kept.times.pop_front();
        }
        kept.times.push_back((now, times));
    }

    /// A request was answered with this status.
    pub(crate) fn answered(&self, now: Instant, status: u16) {
        match status {
            402 | 429 | 503 => self.second(&mut self.kept(), now).refused += 1,
            500.. => self.second(&mut self.kept(), now).failed += 1,
            _ => {}
        }
    }

    /// Since the server started.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    /// The last minutes.
    pub(crate) fn window(&self, now: Instant) -> Window {
        let current = self.number(now);
        let mut seconds = vec![Second::default(); WINDOW_S];
        let kept = self.kept();
        for second in &kept.seconds {
            let age = usize::try_from(current.saturating_sub(second.number)).unwrap_or(WINDOW_S);
            if age < WINDOW_S {
                seconds[WINDOW_S - 1 - age] = *second;
            }
        }
        let window = Duration::from_secs(WINDOW_S as u64);
        let times: Vec<StepTimes> = kept
            .times
            .iter()
            .filter(|(at, _)| now.saturating_duration_since(*at) <= window)
            .map(|(_, times)| *times)
            .collect();
        drop(kept);
        let steps: [fn(&StepTimes) -> Duration; 4] = [
            |times| times.tokenize,
            |times| times.queue,
            |times| times.forward,
            |times| times.tokenize + times.queue + times.forward,
        ];
        Window {
            seconds,
            timed: times.len(),
            percentiles: steps.map(|step| percentiles(times.iter().map(step).collect())),
        }
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }

    /// The second that runs now. One that another thread began later is taken as well.
    fn second<'a>(&self, kept: &'a mut Kept, now: Instant) -> &'a mut Second {
        let number = self.number(now);
        if kept.seconds.back().is_none_or(|last| last.number < number) {
            if kept.seconds.len() == WINDOW_S {
                kept.seconds.pop_front();
            }
            kept.seconds.push_back(Second {
                number,
                ..Second::default()
            });
        }
        let last = kept.seconds.len() - 1;
        &mut kept.seconds[last]
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By nearest rank; zeros of nothing.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 4] {
    times.sort_unstable();
    [50, 90, 99, 100].map(|percent| {
        let rank = (times.len() * percent).div_ceil(100);
        let found = rank.checked_sub(1).and_then(|index| times.get(index));
        found.copied().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: u64) -> StepTimes {
        StepTimes {
            tokenize: Duration::from_millis(1),
            queue: Duration::from_millis(ms),
            forward: Duration::from_millis(2 * ms),
        }
    }

    #[test]
    fn a_window_has_every_second_and_forgets_what_is_older() {
        let recent = Recent::default();
        let at = |seconds| recent.start + Duration::from_secs(seconds);
        recent.embedded(at(0), 100, times(1));
        recent.embedded(at(2), 7, times(1));
        recent.embedded(at(2), 8, times(1));
        recent.answered(at(3), 429);
        recent.answered(at(3), 500);
        recent.answered(at(3), 200);
        let window = recent.window(at(3));
        let tokens: Vec<u64> = window.seconds[WINDOW_S - 4..]
            .iter()
            .map(|it| it.tokens)
            .collect();
        assert_eq!(tokens, [100, 0, 15, 0]);
        let last = window.seconds[WINDOW_S - 1];
        assert_eq!((last.refused, last.failed), (1, 1));
        let window = recent.window(at(WINDOW_S as u64 + 1));
        let sum: u64 = window.seconds.iter().map(|it| it.tokens).sum();
        assert_eq!((sum, window.timed), (15, 2));
        for second in 0..2 * WINDOW_S as u64 {
            recent.embedded(at(second), 1, times(1));
        }
        assert_eq!(recent.kept().seconds.len(), WINDOW_S);
    }

    #[test]
    fn percentiles_are_times_that_were() {
        let recent = Recent::default();
        for ms in 1..=200 {
            recent.embedded(recent.start, 1, times(ms));
        }
        let [_, queue, forward, all] = recent.window(recent.start).percentiles;
        let ms = |times: [Duration; 4]| times.map(|time| time.as_millis());
        assert_eq!(ms(queue), [100, 180, 198, 200]);
        assert_eq!(ms(forward), [200, 360, 396, 400]);
        assert_eq!(ms(all), [301, 541, 595, 601]);
        assert_eq!(percentiles(Vec::new()), [Duration::ZERO; 4]);
        for _ in 0..2 * MAX_TIMES {
            recent.embedded(recent.start, 1, times(1));
        }
        assert_eq!(recent.window(recent.start).timed, MAX_TIMES);
    }
}
