//! `quintet accounts`: who pays for the calls of a hosted service.

use std::io::Write;

use clap::{Args, Subcommand};
use quintet_server::store::Time;
use quintet_server::store::accounts::{self, Account};

use crate::output::Output;
use crate::settings::Settings;
use crate::state::{RateArgs, StateArgs, day, shown_limits};
use crate::table::{Align, columns, shorten};

/// Make, list, limit and close the accounts of a hosted service.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet accounts create \"Stork Search Ltd\"
  quintet accounts limit --tokens-per-minute 1000000 acct-7hq2mnpvw3xk
  quintet accounts invite")]
pub(crate) struct AccountsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Create(CreateArgs),
    List(ListArgs),
    /// Show an account with its balance
    Show(ShowArgs),
    Limit(LimitArgs),
    /// Refuse an account's keys from now on
    Close(ShowArgs),
    /// Accept the keys of a closed account again
    Reopen(ShowArgs),
    Invite(InviteArgs),
    Audit(AuditArgs),
}

/// Make an account, without credit.
#[derive(Args, Debug)]
struct CreateArgs {
    /// What it is called
    #[arg(value_name = "NAME")]
    name: String,
    /// Bill it afterwards: it may call without credit, and its balance falls below zero
    #[arg(long)]
    postpaid: bool,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// List all accounts.
#[derive(Args, Debug)]
struct ListArgs {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// One account by its id.
#[derive(Args, Debug)]
struct ShowArgs {
    /// The account's id
    #[arg(value_name = "ID")]
    id: String,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Give an account limits in place of all that it had; the server's apply where none is named.
#[derive(Args, Debug)]
struct LimitArgs {
    /// The account's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    limits: RateArgs,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Make an invitation that one account can be opened with. Its code is printed once.
#[derive(Args, Debug)]
struct InviteArgs {
    /// Days until it ends
    #[arg(long, value_name = "DAYS", default_value_t = 14)]
    days: u16,
    #[command(flatten)]
    state: StateArgs,
}

/// Show who changed what, newest first.
#[derive(Args, Debug)]
struct AuditArgs {
    /// Lines at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    lines: u32,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Runs the command.
pub(crate) fn run(args: &AccountsArgs, settings: &Settings) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Create(args) => {
            let account = args.state.open(settings)?.change(|database, change| {
                accounts::create(database, change, &args.name, !args.postpaid)
            })?;
            print_one(&account, args.json)
        }
        Verb::List(args) => {
            let accounts = accounts::list(args.state.open(settings)?.database())?;
            print(&accounts, args.json)
        }
        Verb::Show(args) => {
            let account = accounts::find(args.state.open(settings)?.database(), &args.id)?;
            print_one(&account, args.json)
        }
        Verb::Limit(args) => {
            let limits = args.limits.rates();
            let account = args.state.open(settings)?.change(|database, change| {
                accounts::set_limits(database, change, &args.id, limits)
            })?;
            print_one(&account, args.json)
        }
        Verb::Close(args) => set_closed(args, true, settings),
        Verb::Reopen(args) => set_closed(args, false, settings),
        Verb::Invite(args) => {
            let expires = Time(Time::now().0 + i64::from(args.days) * 86_400_000);
            let code = args
                .state
                .open(settings)?
                .change(|database, change| accounts::invite(database, change, expires))?;
            let mut output = Output::stdout();
            writeln!(output, "{code}")?;
            Ok(output.finish()?)
        }
        Verb::Audit(args) => audit(args, settings),
    }
}

fn set_closed(args: &ShowArgs, is_closed: bool, settings: &Settings) -> anyhow::Result<()> {
    let account = args
        .state
        .open(settings)?
        .change(|database, change| accounts::set_closed(database, change, &args.id, is_closed))?;
    print_one(&account, args.json)
}

fn audit(args: &AuditArgs, settings: &Settings) -> anyhow::Result<()> {
    let mut state = args.state.open(settings)?;
    let trail = accounts::audit_trail(state.database(), args.lines.into())?;
    let mut output = Output::stdout();
    if args.json {
        output.json(&trail)?;
    } else {
        let rows: Vec<Vec<String>> = trail
            .into_iter()
            .map(|entry| {
                let detail = shorten(&entry.detail, 60);
                vec![
                    entry.at.to_string(),
                    entry.actor,
                    entry.action,
                    entry.target,
                    detail,
                ]
            })
            .collect();
        write!(output, "{}", columns(&rows, &[Align::Left; 5]))?;
    }
    Ok(output.finish()?)
}

fn print(accounts: &[Account], json: bool) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    if json {
        output.json(&accounts)?;
    } else {
        let rows: Vec<Vec<String>> = accounts.iter().map(row).collect();
        let align = [
            Align::Left,
            Align::Left,
            Align::Right,
            Align::Left,
            Align::Left,
        ];
        write!(output, "{}", columns(&rows, &align))?;
    }
    Ok(output.finish()?)
}

pub(super) fn print_one(account: &Account, json: bool) -> anyhow::Result<()> {
    if !json {
        return print(std::slice::from_ref(account), false);
    }
    let mut output = Output::stdout();
    output.json(account)?;
    Ok(output.finish()?)
}

fn row(account: &Account) -> Vec<String> {
    let condition = match account.closed_at {
        Some(at) => format!("closed {}", day(at)),
        None if account.is_prepaid => "prepaid".to_owned(),
        None => "postpaid".to_owned(),
    };
    vec![
        account.id.clone(),
        shorten(&account.name, 40),
        format!("${}", account.balance_usd),
        condition,
        shown_limits(account.limits, None),
    ]
}
