//! Usage of some days as people look at it: sums, a column a day, a bar a key and a task.
//! Places are in units of a picture 360 wide, which is legible on a phone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::numbers::{about, about_money, grouped, money};
use crate::metering::PicoUsd;
use crate::store::Time;
use crate::store::usage::{DAY_MS, Part, Sum};

/// Which days, and what of them is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) days: i64,
    pub(super) measure: Measure,
}

/// What of the usage is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    Dollars,
    Tokens,
    Requests,
}

impl Measure {
    /// As it stands in the address.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Dollars => "dollars",
            Self::Tokens => "tokens",
            Self::Requests => "requests",
        }
    }

    fn of(self, sum: Sum) -> i64 {
        match self {
            Self::Dollars => sum.cost_usd.0,
            Self::Tokens => sum.tokens,
            Self::Requests => sum.requests,
        }
    }

    fn about(self, value: i64) -> String {
        match self {
            Self::Dollars => about_money(PicoUsd(value)),
            Self::Tokens | Self::Requests => about(value.unsigned_abs()),
        }
    }
}

/// `?days=30&show=tokens`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ShownQuery {
    days: Option<String>,
    show: Option<String>,
}

impl ShownQuery {
    /// What was asked for, and a month's dollars where that is nothing that we show.
    pub(super) fn shown(&self) -> Shown {
        let asked = self.days.as_deref().and_then(|days| days.parse().ok());
        let measures = [Measure::Dollars, Measure::Tokens, Measure::Requests];
        let named = |it: &Measure| Some(it.word()) == self.show.as_deref();
        Shown {
            days: asked.filter(|days| DAYS.contains(days)).unwrap_or(30),
            measure: measures.into_iter().find(named).unwrap_or(Measure::Dollars),
        }
    }
}

/// So many days can be looked at.
const DAYS: [i64; 3] = [7, 30, 90];

impl Shown {
    /// The start of the first day.
    pub(super) fn first_day_ms(self, now: Time) -> i64 {
        now.0 / DAY_MS * DAY_MS - (self.days - 1) * DAY_MS
    }
}

/// What bars are of, and the name of each part's.
pub(super) type Grouping<'a> = (&'static str, &'a dyn Fn(&Part) -> String);

/// A choice and where it leads.
pub(super) struct Choice {
    pub(super) words: String,
    pub(super) query: String,
    pub(super) is_chosen: bool,
}

/// Usage, added up and drawn.
pub(super) struct UsageView {
    pub(super) days: Vec<Choice>,
    pub(super) measures: Vec<Choice>,
    pub(super) requests: String,
    pub(super) tokens: String,
    pub(super) cost: String,
    pub(super) is_empty: bool,
    pub(super) measure: &'static str,
    pub(super) columns: Columns,
    pub(super) bars: Vec<Bars>,
    /// Newest first, days without usage left out.
    pub(super) table: Vec<Line>,
}

/// A day in the table.
pub(super) struct Line {
    pub(super) day: String,
    pub(super) requests: String,
    pub(super) tokens: String,
    pub(super) cost: String,
}

/// A column a day.
pub(super) struct Columns {
    pub(super) columns: Vec<Column>,
    /// The largest, in words.
    pub(super) high: String,
    /// First, middle and last day.
    pub(super) days: [String; 3],
}

/// One.
pub(super) struct Column {
    pub(super) x: String,
    pub(super) y: String,
    pub(super) width: String,
    pub(super) height: String,
    pub(super) words: String,
}

/// A bar for each key, task or account.
pub(super) struct Bars {
    pub(super) of: &'static str,
    pub(super) height: usize,
    pub(super) bars: Vec<Bar>,
}

/// One.
pub(super) struct Bar {
    pub(super) name: String,
    /// As much of it as has room.
    pub(super) short: String,
    pub(super) value: String,
    pub(super) y: usize,
    pub(super) width: String,
}

/// The field of the columns.
const X: (f64, f64) = (4.0, 356.0);
const Y: (f64, f64) = (24.0, 132.0);
/// How far bars are apart, how long the longest is, and how many there are; the rest is one.
const ROW: usize = 38;
const WIDTH: f64 = 356.0;
const MAX_BARS: usize = 8;
const NAME_CHARS: usize = 36;

impl UsageView {
    /// Of these parts; a drawing of bars for each grouping.
    pub(super) fn new(parts: &[Part], shown: Shown, now: Time, groups: &[Grouping<'_>]) -> Self {
        let Shown { days, measure } = shown;
        let sum = |parts: &mut dyn Iterator<Item = &Part>| {
            parts.fold(Sum::default(), |sum, part| sum.plus(part.sum))
        };
        let total = sum(&mut parts.iter());
        let mut by_day: BTreeMap<i64, Sum> = BTreeMap::new();
        for part in parts {
            let day = by_day.entry(part.day_ms).or_default();
            *day = day.plus(part.sum);
        }
        let choices = DAYS.map(|it| Choice {
            words: format!("{it} days"),
            query: format!("?days={it}&show={}", measure.word()),
            is_chosen: it == days,
        });
        let measures = [Measure::Dollars, Measure::Tokens, Measure::Requests].map(|it| Choice {
            words: it.word().to_owned(),
            query: format!("?days={days}&show={}", it.word()),
            is_chosen: it == measure,
        });
        Self {
            days: choices.into(),
            measures: measures.into(),
            requests: grouped(total.requests.unsigned_abs()),
            tokens: grouped(total.tokens.unsigned_abs()),
            cost: money(total.cost_usd),
            is_empty: total == Sum::default(),
            measure: measure.word(),
            columns: Columns::new(&by_day, shown, now),
            bars: groups
                .iter()
                .map(|(of, name)| Bars::new(of, parts, measure, *name))
                .collect(),
            table: by_day
                .iter()
                .rev()
                .map(|(day_ms, sum)| Line {
                    day: day(*day_ms),
                    requests: grouped(sum.requests.unsigned_abs()),
                    tokens: grouped(sum.tokens.unsigned_abs()),
                    cost: money(sum.cost_usd),
                })
                .collect(),
        }
    }
}

impl Columns {
    fn new(by_day: &BTreeMap<i64, Sum>, shown: Shown, now: Time) -> Self {
        let Shown { days, measure } = shown;
        let first = shown.first_day_ms(now);
        let value = |day_ms| by_day.get(&day_ms).map_or(0, |sum| measure.of(*sum));
        let days_ms: Vec<i64> = (0..days).map(|index| first + index * DAY_MS).collect();
        let high = days_ms.iter().map(|&it| value(it)).max().unwrap_or(0);
        let step = (X.1 - X.0) / days as f64;
        let width = (step * 0.75).min(24.0);
        let columns = days_ms.iter().enumerate().map(|(index, &day_ms)| {
            let value = value(day_ms);
            let share = value as f64 / high.max(1) as f64;
            // What was used a little is seen.
            let height = match value {
                0 => 0.0,
                _ => (share * (Y.1 - Y.0)).max(1.5),
            };
            Column {
                x: format!("{:.1}", X.0 + (index as f64 + 0.5) * step - width / 2.0),
                y: format!("{:.1}", Y.1 - height),
                width: format!("{width:.1}"),
                height: format!("{height:.1}"),
                words: format!("{}: {}", day(day_ms), measure.about(value)),
            }
        });
        Self {
            columns: columns.collect(),
            high: measure.about(high),
            days: [0, days / 2, days - 1].map(|index| short_day(first + index * DAY_MS)),
        }
    }
}

impl Bars {
    fn new(
        of: &'static str,
        parts: &[Part],
        measure: Measure,
        name: &dyn Fn(&Part) -> String,
    ) -> Self {
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for part in parts {
            let sum = sums.entry(name(part)).or_default();
            *sum = sum.saturating_add(measure.of(part.sum));
        }
        let mut sums: Vec<(String, i64)> = sums.into_iter().collect();
        sums.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
        if sums.len() > MAX_BARS {
            let rest = sums.split_off(MAX_BARS - 1);
            let value = rest.iter().map(|(_, value)| value).sum();
            sums.push((format!("{} others", rest.len()), value));
        }
        let high = sums.iter().map(|(_, value)| *value).max().unwrap_or(0);
        let bars = sums.into_iter().enumerate().map(|(index, (name, value))| {
            let width = value as f64 / high.max(1) as f64 * WIDTH;
            Bar {
                short: shortened(&name),
                name,
                value: measure.about(value),
                y: index * ROW,
                width: format!("{:.1}", width.max(if value > 0 { 1.5 } else { 0.0 })),
            }
        });
        let bars: Vec<Bar> = bars.collect();
        Self {
            of,
            height: bars.len() * ROW,
            bars,
        }
    }
}

/// As much of a name as has room beside its value.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// `2026-11-26`.
pub(super) fn day(ms: i64) -> String {
    written(ms, "%Y-%m-%d")
}

/// `26 Nov`.
fn short_day(ms: i64) -> String {
    written(ms, "%-d %b")
}

/// `2026-11-26 14:05`, in UTC.
pub(super) fn minute(time: Time) -> String {
    written(time.0, "%Y-%m-%d %H:%M")
}

fn written(ms: i64, format: &str) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_zoned(TimeZone::UTC).strftime(format).to_string(),
        Err(_) => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(day_ms: i64, key_id: &str, tokens: i64) -> Part {
        Part {
            account_id: "acct".to_owned(),
            day_ms,
            key_id: key_id.to_owned(),
            task: "raw".to_owned(),
            sum: Sum {
                requests: 1,
                tokens,
                cost_usd: PicoUsd(tokens * 20_000),
            },
        }
    }

    const NOW: Time = Time(1_795_700_000_000);

    #[test]
    fn columns_stand_at_their_days_and_in_their_field() {
        let shown = Shown {
            days: 7,
            measure: Measure::Tokens,
        };
        let today = NOW.0 / DAY_MS * DAY_MS;
        let parts = [
            part(today - 6 * DAY_MS, "a", 100),
            part(today, "a", 150),
            part(today, "b", 50),
        ];
        let key = |part: &Part| part.key_id.clone();
        let view = UsageView::new(&parts, shown, NOW, &[("key", &key)]);
        let columns = &view.columns.columns;
        assert_eq!(columns.len(), 7);
        assert_eq!(columns[6].height, format!("{:.1}", Y.1 - Y.0));
        assert_eq!(columns[0].height, format!("{:.1}", (Y.1 - Y.0) / 2.0));
        assert_eq!(columns[3].height, "0.0");
        for column in columns {
            let x: f64 = column.x.parse().unwrap();
            let width: f64 = column.width.parse().unwrap();
            assert!(X.0 <= x && x + width <= X.1);
        }
        assert_eq!(view.tokens, "300");
        assert_eq!(view.bars[0].bars[0].name, "a");
        assert_eq!(view.bars[0].bars[1].width, format!("{:.1}", 0.2 * WIDTH));
        assert_eq!(view.table[0].tokens, "200");
    }

    #[test]
    fn many_keys_become_a_few_bars_and_the_others() {
        let parts: Vec<Part> = (1..=20)
            .map(|number| part(0, &format!("key {number}"), number))
            .collect();
        let name = |part: &Part| part.key_id.clone();
        let bars = Bars::new("key", &parts, Measure::Tokens, &name);
        assert_eq!(bars.bars.len(), MAX_BARS);
        assert_eq!(bars.bars[MAX_BARS - 1].name, "13 others");
        assert_eq!(bars.bars[MAX_BARS - 1].value, "91");
    }

    #[test]
    fn what_is_not_offered_is_a_month_of_dollars() {
        let shown = |days: &str, show: &str| {
            let owned = |text: &str| Some(text.to_owned());
            let query = ShownQuery {
                days: owned(days),
                show: owned(show),
            };
            query.shown()
        };
        let month = Shown {
            days: 30,
            measure: Measure::Dollars,
        };
        assert_eq!(shown("-1", "<script>"), month);
        assert_eq!(ShownQuery::default().shown(), month);
        assert_eq!(shown("7", "tokens").days, 7);
    }
}
