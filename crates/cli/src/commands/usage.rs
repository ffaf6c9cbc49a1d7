//! `quintet usage`: what was used, added up.

use std::io::Write;

use clap::{Args, ValueEnum};
use quintet_server::store::Time;
use quintet_server::store::ledger::{self, Selection, Usage, UsageBy, csv};

use crate::output::Output;
use crate::settings::Settings;
use crate::state::{StateArgs, day};
use crate::table::{Align, columns, grouped};

/// Show requests, tokens and their price, by day, key, model or account.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet usage --by account --from 2026-11-01
  quintet usage --account acct-7hq2mnpvw3xk --by day --csv")]
pub(crate) struct UsageArgs {
    /// What it is added up by
    #[arg(long, value_enum, value_name = "WHAT", default_value = "day")]
    by: By,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print [{"group", "requests", "tokens", "cost_usd"}, …]
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Day,
    Key,
    Model,
    Account,
}

/// Which entries of the ledger.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Selection")]
pub(super) struct SelectionArgs {
    /// Only this account's
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// From this day or moment on, UTC
    #[arg(long, value_name = "DATE")]
    from: Option<Time>,
    /// Before this day or moment, UTC
    #[arg(long, value_name = "DATE")]
    until: Option<Time>,
}

impl SelectionArgs {
    /// As the ledger knows it.
    pub(super) fn selection(&self) -> Selection {
        Selection {
            account_id: self.account.clone(),
            from_ms: self.from.map(|time| time.0),
            until_ms: self.until.map(|time| time.0),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &UsageArgs, settings: &Settings) -> anyhow::Result<()> {
    let by = match args.by {
        By::Day => UsageBy::Day,
        By::Key => UsageBy::Key,
        By::Model => UsageBy::Model,
        By::Account => UsageBy::Account,
    };
    let mut state = args.state.open(settings)?;
    let usage = ledger::usage(state.database(), &args.selection.selection(), by)?;
    let usage: Vec<Usage> = usage
        .into_iter()
        .map(|usage| Usage {
            group: name(&usage.group, args.by),
            ..usage
        })
        .collect();
    let mut output = Output::stdout();
    if args.json {
        output.json(&usage)?;
    } else if args.csv {
        let names = csv::line(["group", "requests", "tokens", "cost_usd"]);
        output.write_all(names.as_bytes())?;
        for row in &usage {
            let (requests, tokens) = (row.requests.to_string(), row.tokens.to_string());
            let line = csv::line([&row.group, &requests, &tokens, &row.cost_usd.to_string()]);
            output.write_all(line.as_bytes())?;
        }
    } else {
        let number = |number: i64| grouped(usize::try_from(number).unwrap_or_default());
        let rows: Vec<Vec<String>> = usage
            .iter()
            .map(|row| {
                vec![
                    row.group.clone(),
                    format!("{} requests", number(row.requests)),
                    format!("{} tokens", number(row.tokens)),
                    format!("${}", row.cost_usd),
                ]
            })
            .collect();
        let align = [Align::Left, Align::Right, Align::Right, Align::Right];
        write!(output, "{}", columns(&rows, &align))?;
    }
    Ok(output.finish()?)
}

/// A day as a date; others are as they are.
fn name(group: &str, by: By) -> String {
    match (by, group.parse()) {
        (By::Day, Ok(start)) => day(Time(start)),
        _ => group.to_owned(),
    }
}
