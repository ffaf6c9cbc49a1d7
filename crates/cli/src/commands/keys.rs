//! `quintet keys`: who may call a hosted service.

use std::io::Write;

use clap::{Args, Subcommand};
use quintet_server::metering::PicoUsd;
use quintet_server::store::Time;
use quintet_server::store::keys::{
    self, DEFAULT_PREFIX, Key, KeyLimits, KeyOptions, NewKey, Scope,
};
use secrecy::ExposeSecret;

use crate::failure::note;
use crate::output::Output;
use crate::settings::Settings;
use crate::state::{RateArgs, StateArgs, day, shown_limits};
use crate::table::{Align, columns, shorten};

/// Make, list, rotate and revoke the keys of a hosted service.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet keys create --account acct-7hq2mnpvw3xk laptop
  quintet keys rotate --grace-hours 24 4fj7nq8wz2ka
  quintet keys limit --tokens-per-minute 100000 --monthly-budget 20 4fj7nq8wz2ka")]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Create(CreateArgs),
    List(ListArgs),
    /// Show a key, without its secret
    Show(ShowArgs),
    Rotate(RotateArgs),
    /// End a key for good
    Revoke(ShowArgs),
    Limit(LimitArgs),
}

/// Make a key. It is printed once; only its hash is kept.
#[derive(Args, Debug)]
struct CreateArgs {
    /// The account that pays
    #[arg(long, value_name = "ID")]
    account: String,
    /// What the key is called
    #[arg(value_name = "NAME")]
    name: String,
    /// What it may do: `embed` calls the model, `account` changes the keys of its account, `admin` changes
    /// all accounts and keys. May be repeated
    #[arg(long = "scope", value_name = "SCOPE", default_value = "embed")]
    scopes: Vec<Scope>,
    /// The only models that it may call, with commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// The only tasks that it may name, with commas
    #[arg(long, value_name = "TASKS", value_delimiter = ',')]
    tasks: Option<Vec<String>>,
    /// Task of requests that name none
    #[arg(long, value_name = "TASK")]
    default_task: Option<String>,
    /// When it ends, such as 2027-01-01
    #[arg(long, value_name = "DATE")]
    expires: Option<Time>,
    /// What the key begins with
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_PREFIX)]
    prefix: String,
    #[command(flatten)]
    limits: KeyLimitArgs,
    /// Print the key and all about it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Limits of a key.
#[derive(Args, Clone, Copy, Debug)]
struct KeyLimitArgs {
    #[command(flatten)]
    rates: RateArgs,
    /// Dollars in a calendar month, UTC
    #[arg(long, value_name = "USD", help_heading = "Limits")]
    monthly_budget: Option<PicoUsd>,
}

impl KeyLimitArgs {
    fn limits(self) -> KeyLimits {
        KeyLimits {
            rates: self.rates.rates(),
            monthly_budget: self.monthly_budget,
        }
    }
}

/// List the keys of an account, or of all.
#[derive(Args, Debug)]
struct ListArgs {
    /// Only those of this account
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// One key by its public id.
#[derive(Args, Debug)]
struct ShowArgs {
    /// The key's public id
    #[arg(value_name = "KEY-ID")]
    id: String,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Give a key a new secret. It is printed once.
#[derive(Args, Debug)]
struct RotateArgs {
    /// The key's public id
    #[arg(value_name = "KEY-ID")]
    id: String,
    /// Hours during which the secret before is still accepted
    #[arg(long, value_name = "HOURS", default_value_t = 0)]
    grace_hours: u16,
    /// What the key begins with
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_PREFIX)]
    prefix: String,
    /// Print the key and all about it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Give a key limits in place of all that it had; limits that are not named are taken away.
#[derive(Args, Debug)]
struct LimitArgs {
    /// The key's public id
    #[arg(value_name = "KEY-ID")]
    id: String,
    #[command(flatten)]
    limits: KeyLimitArgs,
    /// Print the key as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Runs the command.
pub(crate) fn run(args: &KeysArgs, settings: &Settings) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Create(args) => {
            let options = KeyOptions {
                name: args.name.clone(),
                scopes: args.scopes.clone(),
                models: args.models.clone(),
                tasks: args.tasks.clone(),
                default_task: args.default_task.clone(),
                expires: args.expires,
                limits: args.limits.limits(),
            };
            let mut state = args.state.open(settings)?;
            let made = state.change(|database, change| {
                keys::create(database, change, &args.account, &args.prefix, &options)
            })?;
            print_new(&made, args.json)
        }
        Verb::Rotate(args) => {
            let grace_ms = i64::from(args.grace_hours) * 3_600_000;
            let made = args.state.open(settings)?.change(|database, change| {
                keys::rotate(database, change, &args.id, &args.prefix, grace_ms)
            })?;
            print_new(&made, args.json)
        }
        Verb::List(args) => {
            let mut state = args.state.open(settings)?;
            let account = args.account.as_deref();
            let keys = keys::list(state.database(), account, Time::now())?;
            print(&keys, args.json)
        }
        Verb::Show(args) => {
            let mut state = args.state.open(settings)?;
            let key = keys::find(state.database(), &args.id, Time::now())?;
            print_one(&key, args.json)
        }
        Verb::Revoke(args) => {
            let mut state = args.state.open(settings)?;
            let key = state.change(|database, change| keys::revoke(database, change, &args.id))?;
            print_one(&key, args.json)
        }
        Verb::Limit(args) => {
            let limits = args.limits.limits();
            let key = args
                .state
                .open(settings)?
                .change(|database, change| keys::set_limits(database, change, &args.id, limits))?;
            print_one(&key, args.json)
        }
    }
}

fn print_new(made: &NewKey, json: bool) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    if json {
        output.json(made)?;
    } else {
        writeln!(output, "{}", made.text.expose_secret())?;
        output.flush()?;
        let id = &made.key.id;
        note(&format!("this is key `{id}`; it is not shown again"));
    }
    Ok(output.finish()?)
}

fn print(keys: &[Key], json: bool) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    if json {
        output.json(&keys)?;
    } else {
        let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
        write!(output, "{}", columns(&rows, &[Align::Left; 7]))?;
    }
    Ok(output.finish()?)
}

fn print_one(key: &Key, json: bool) -> anyhow::Result<()> {
    if !json {
        return print(std::slice::from_ref(key), false);
    }
    let mut output = Output::stdout();
    output.json(key)?;
    Ok(output.finish()?)
}

fn row(key: &Key) -> Vec<String> {
    let now = Time::now();
    let condition = match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", day(at)),
        (None, Some(at)) if at <= now => format!("ended {}", day(at)),
        (None, Some(at)) => format!("until {}", day(at)),
        (None, None) => "valid".to_owned(),
    };
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
    vec![
        key.id.clone(),
        key.account_id.clone(),
        shorten(&key.name, 32),
        scopes.join(","),
        condition,
        format!("${} this month", key.month_spent_usd),
        shown_limits(key.limits, key.monthly_budget_usd),
    ]
}
