//! `quintet credit`: prepaid money of accounts.

use clap::{Args, Subcommand};
use quintet_server::metering::PicoUsd;
use quintet_server::store::accounts;

use super::accounts::print_one;
use crate::settings::Settings;
use crate::state::StateArgs;

/// Give an account credit, and see what it has.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet credit grant acct-7hq2mnpvw3xk 25 --note \"invoice 117\"
  quintet credit grant acct-7hq2mnpvw3xk -- -5
  quintet credit show acct-7hq2mnpvw3xk")]
pub(crate) struct CreditArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Grant(GrantArgs),
    Show(ShowArgs),
}

/// Give credit, or take it back with a negative amount. It becomes an entry of the ledger.
#[derive(Args, Debug)]
struct GrantArgs {
    /// The account's id
    #[arg(value_name = "ID")]
    id: String,
    /// Dollars
    #[arg(value_name = "USD")]
    amount: PicoUsd,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Show an account's credit.
#[derive(Args, Debug)]
struct ShowArgs {
    /// The account's id
    #[arg(value_name = "ID")]
    id: String,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Runs the command.
pub(crate) fn run(args: &CreditArgs, settings: &Settings) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Grant(args) => {
            let note = args.note.as_deref();
            let account = args.state.open(settings)?.change(|database, change| {
                accounts::grant(database, change, &args.id, args.amount, note)
            })?;
            print_one(&account, args.json)
        }
        Verb::Show(args) => {
            let account = accounts::find(args.state.open(settings)?.database(), &args.id)?;
            print_one(&account, args.json)
        }
    }
}
