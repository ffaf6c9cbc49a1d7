//! `quintet ledger`: proof and export of what was billed.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use quintet_server::store::DatabaseError;
use quintet_server::store::ledger::{self, Noted, VerifyError, csv};

use super::usage::SelectionArgs;
use crate::failure::UserError;
use crate::output::Output;
use crate::settings::Settings;
use crate::state::StateArgs;

/// Verify the ledger, and export it for accounting.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet ledger verify
  quintet ledger verify --contains 1042:9f86d081884c7d65…
  quintet ledger export --from 2026-11-01 --until 2026-12-01 --output november.csv")]
pub(crate) struct LedgerArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Verify(VerifyArgs),
    Export(ExportArgs),
}

/// Add and hash every entry again, and compare the accounts' balances. Exit 1 where one is wrong.
#[derive(Args, Debug)]
struct VerifyArgs {
    /// An entry that was the last one before: it must still be there, so that nothing before it was
    /// changed
    #[arg(long, value_name = "SEQ:HASH")]
    contains: Option<NotedArg>,
    /// Print {"entries", "accounts", "tokens", "head"}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// `SEQ:HASH` of an entry.
#[derive(Clone, Debug)]
struct NotedArg(Noted);

impl FromStr for NotedArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let noted = || {
            let (seq, hash) = text.split_once(':')?;
            let seq = seq.parse().ok()?;
            let hash = hash.to_ascii_lowercase();
            (hash.len() == 64).then_some(Self(Noted { seq, hash }))
        };
        noted().ok_or("expected SEQ:HASH as `quintet ledger verify` prints it")
    }
}

/// Write entries, oldest first.
#[derive(Args, Debug)]
struct ExportArgs {
    /// File to write; stdout without
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What a line is
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

/// Runs the command.
pub(crate) fn run(args: &LedgerArgs, settings: &Settings) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Verify(args) => verify(args, settings),
        Verb::Export(args) => export(args, settings),
    }
}

fn verify(args: &VerifyArgs, settings: &Settings) -> anyhow::Result<()> {
    let mut state = args.state.open(settings)?;
    let noted = args.contains.as_ref().map(|NotedArg(noted)| noted);
    let verified = ledger::verify(state.database(), noted).map_err(|error| {
        let is_unreadable = matches!(error, VerifyError::Database(_));
        let error = anyhow::Error::from(error);
        if is_unreadable {
            return error;
        }
        error.context(
            UserError::new("the ledger was changed or damaged")
                .hint("restore a copy, and compare exports from before"),
        )
    })?;
    let mut output = Output::stdout();
    if args.json {
        output.json(&verified)?;
    } else {
        writeln!(
            output,
            "{} entries of {} accounts, {} tokens: every hash and every sum is right",
            verified.entries, verified.accounts, verified.tokens
        )?;
        writeln!(
            output,
            "the last entry is {}:{}",
            verified.entries, verified.head
        )?;
    }
    Ok(output.finish()?)
}

fn export(args: &ExportArgs, settings: &Settings) -> anyhow::Result<()> {
    let mut state = args.state.open(settings)?;
    let mut output = Output::open(args.output.as_deref())?;
    let selection = args.selection.selection();
    if args.format == Format::Csv {
        output.write_all(csv::line(csv::COLUMNS).as_bytes())?;
    }
    ledger::for_each(state.database(), &selection, |entry| {
        let cells = csv::cells(&entry);
        match args.format {
            Format::Csv => output.write_all(csv::line(cells).as_bytes())?,
            Format::Jsonl => {
                let fields: serde_json::Map<_, _> = csv::COLUMNS
                    .iter()
                    .zip(cells)
                    .filter(|(_, cell)| !cell.is_empty())
                    .map(|(name, cell)| ((*name).to_owned(), cell.into()))
                    .collect();
                serde_json::to_writer(&mut output, &fields).map_err(std::io::Error::from)?;
                writeln!(output)?;
            }
        }
        Ok::<(), ExportError>(())
    })?;
    Ok(output.finish()?)
}

/// Why an export ended.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the ledger cannot be read")]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Output(#[from] std::io::Error),
}
