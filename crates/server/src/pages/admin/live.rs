//! `/admin/live`: how the server does at the moment. Read whole without scripts; with them it is read anew
//! every other second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use askama::Template;
use axum::response::Response;

use super::super::frame::{self, Frame};
use super::super::numbers::{about, about_money, grouped, span};
use super::super::session::{AdminVisit, PLACES, Visit};
use crate::error::ApiError;
use crate::recent::{Second, WINDOW_S};
use crate::store::usage::{DAY_MS, Sum};
use crate::store::{Time, accounts, usage};

#[derive(Template)]
#[template(path = "live.html")]
struct LivePage<'a> {
    frame: &'a Frame,
    visit: &'a Visit,
    model: String,
    uptime: String,
    connections: String,
    queued: String,
    queue_room: String,
    /// In percent, for the meter.
    queue_share: usize,
    tokens_per_second: String,
    requests_per_second: String,
    refused: u64,
    failed: u64,
    columns: Vec<Column>,
    high: String,
    timed: String,
    is_timed: bool,
    latencies: Vec<Latency>,
    accounts: Vec<Used>,
}

/// Tokens of some seconds.
struct Column {
    x: String,
    y: String,
    height: String,
    words: String,
}

/// Percentiles of a step.
struct Latency {
    step: &'static str,
    times: [String; 4],
}

/// What an account used today.
struct Used {
    id: String,
    name: String,
    requests: String,
    tokens: String,
    cost: String,
}

/// Rates are of the last seconds that are over.
const RATE_S: usize = 10;
/// Seconds of a column.
const COLUMN_S: usize = 5;
/// Accounts that are listed.
const ACCOUNTS: usize = 10;
/// The field of the columns.
const X: (f64, f64) = (4.0, 356.0);
const Y: (f64, f64) = (24.0, 132.0);

/// `GET /admin/live`.
pub(crate) async fn page(AdminVisit(visit): AdminVisit) -> Result<Response, ApiError> {
    let today = Time::now().0 / DAY_MS * DAY_MS;
    let read = visit.read(move |database| {
        let parts = usage::since(database, None, today)?;
        let mut sums: HashMap<String, Sum> = HashMap::new();
        for part in parts {
            let sum = sums.entry(part.account_id).or_default();
            *sum = sum.plus(part.sum);
        }
        let mut sums: Vec<(String, Sum)> = sums.into_iter().collect();
        sums.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.tokens));
        sums.truncate(ACCOUNTS);
        let named = sums.into_iter().map(|(id, sum)| {
            let account = accounts::find(database, &id)?;
            Ok((account, sum))
        });
        named.collect::<Result<Vec<_>, _>>()
    });
    let used = read.await?;
    let app = &visit.app;
    let now = Instant::now();
    let window = app.metrics.recent.window(now);
    let service = app.service_now();
    let queued = service.as_ref().map_or(0, |it| it.batcher.queued_tokens());
    let room = app.config.batcher.queue_tokens;
    let sum = |of: fn(&Second) -> u64| window.seconds.iter().map(of).sum::<u64>();
    let rate = |of: fn(&Second) -> u64| {
        let over = &window.seconds[WINDOW_S - 1 - RATE_S..WINDOW_S - 1];
        over.iter().map(of).sum::<u64>() as f64 / RATE_S as f64
    };
    let (columns, high) = columns(&window.seconds);
    let steps = ["tokenising", "waiting", "model", "all three"];
    Ok(frame::private_page(&LivePage {
        frame: &visit.frame,
        visit: &visit,
        model: match &service {
            Some(service) => service.model.id().to_owned(),
            None => "no model yet, it is loading".to_owned(),
        },
        uptime: span(app.metrics.recent.uptime(now)),
        connections: grouped(app.metrics.open_connections()),
        queued: grouped(queued as u64),
        queue_room: grouped(room as u64),
        queue_share: (queued * 100).checked_div(room).unwrap_or(0).min(100),
        tokens_per_second: about(rate(|it| it.tokens).round() as u64),
        requests_per_second: rate_words(rate(|it| it.requests)),
        refused: sum(|it| it.refused),
        failed: sum(|it| it.failed),
        columns,
        high,
        timed: grouped(window.timed as u64),
        is_timed: window.timed > 0,
        latencies: steps
            .into_iter()
            .zip(window.percentiles)
            .map(|(step, times)| Latency {
                step,
                times: times.map(latency),
            })
            .collect(),
        accounts: used
            .into_iter()
            .map(|(account, sum)| Used {
                id: account.id,
                name: account.name,
                requests: grouped(sum.requests.unsigned_abs()),
                tokens: grouped(sum.tokens.unsigned_abs()),
                cost: about_money(sum.cost_usd),
            })
            .collect(),
    }))
}

/// The window's tokens as columns of some seconds each, and the most tokens a second, in words.
fn columns(seconds: &[Second]) -> (Vec<Column>, String) {
    let rates: Vec<f64> = seconds
        .chunks(COLUMN_S)
        .map(|chunk| {
            let tokens: u64 = chunk.iter().map(|second| second.tokens).sum();
            tokens as f64 / COLUMN_S as f64
        })
        .collect();
    let high = rates.iter().copied().fold(0.0, f64::max);
    let step = (X.1 - X.0) / rates.len() as f64;
    let columns = rates.iter().enumerate().map(|(index, &rate)| {
        let height = match rate {
            0.0 => 0.0,
            rate => (rate / high * (Y.1 - Y.0)).max(1.5),
        };
        Column {
            x: format!("{:.1}", X.0 + (index as f64 + 0.1) * step),
            y: format!("{:.1}", Y.1 - height),
            height: format!("{height:.1}"),
            words: format!(
                "{} s ago: {} tokens a second",
                (rates.len() - 1 - index) * COLUMN_S,
                about(rate.round() as u64)
            ),
        }
    });
    (columns.collect(), about(high.round() as u64))
}

/// `0.4`, `12`.
fn rate_words(rate: f64) -> String {
    match rate {
        0.0..10.0 => format!("{rate:.1}"),
        rate => about(rate.round() as u64),
    }
}

/// `0.08 ms`, `12 ms`, `1.4 s`.
fn latency(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        0.0..1.0 => format!("{ms:.2} ms"),
        1.0..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_as_people_read_them() {
        let ms = |ms: f64| latency(Duration::from_secs_f64(ms / 1e3));
        assert_eq!(
            [ms(0.0), ms(0.084), ms(2.25)],
            ["0.00 ms", "0.08 ms", "2.2 ms"]
        );
        assert_eq!([ms(12.4), ms(1449.0)], ["12 ms", "1.4 s"]);
        assert_eq!(rate_words(0.44), "0.4");
        assert_eq!(rate_words(1234.4), "1,234");
    }

    #[test]
    fn columns_stay_in_their_field() {
        let mut seconds = vec![Second::default(); WINDOW_S];
        seconds[WINDOW_S - 1].tokens = 500;
        seconds[0].tokens = 1;
        let (columns, high) = columns(&seconds);
        assert_eq!(high, "100");
        assert_eq!(columns.len(), WINDOW_S / COLUMN_S);
        assert_eq!(columns[0].height, "1.5");
        let last = columns.last().unwrap();
        assert_eq!(last.height, format!("{:.1}", Y.1 - Y.0));
        assert!(last.x.parse::<f64>().unwrap() < X.1);
    }
}
