//! `quintet config show`: which options of the server apply, and where they come from.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::serve::{Effective, ServeOptions, config_file, is_secret};
use crate::output::Output;
use crate::settings::Settings;
use crate::table::{Align, columns};

/// Show the server's options as they apply, and where each comes from.
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Show(ShowArgs),
}

/// Show what `quintet serve` with the same flags would run with.
///
/// Options that are not listed have their defaults; `quintet serve --help` names them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet config show
  quintet config show --config quintet.toml --json")]
struct ShowArgs {
    /// Read options from FILE, in TOML [env: QUINTET_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print {"NAME": {"value", "from"}, …}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: ServeOptions,
}

/// Runs the command.
pub(crate) fn run(args: &ConfigArgs, settings: &Settings) -> anyhow::Result<()> {
    let Verb::Show(args) = &args.verb;
    let file = config_file(args.config.clone(), settings);
    let effective = Effective::read(&args.options, file.as_deref(), settings)?;
    let shown = effective.set.into_iter().map(|(name, (value, origin))| {
        let value = if is_secret(&name, &value) {
            toml::Value::String("(set, not shown)".to_owned())
        } else {
            value
        };
        (name, value, origin.to_string())
    });
    let mut output = Output::stdout();
    if args.json {
        let options: Map<String, Value> = shown
            .map(|(name, value, origin)| (name, json!({"value": value, "from": origin})))
            .collect();
        output.json(&options)?;
    } else {
        let rows: Vec<Vec<String>> = shown
            .map(|(name, value, origin)| vec![name, value.to_string(), origin])
            .collect();
        if rows.is_empty() {
            writeln!(output, "every option has its default")?;
        }
        write!(output, "{}", columns(&rows, &[Align::Left; 3]))?;
    }
    Ok(output.finish()?)
}
