//! `quintet pack`: a model's packed weights kept as a file.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::args::ModelArgs;
use crate::failure::UserError;
use crate::model::{self, Fit};
use crate::output::Output;
use crate::settings::Settings;
use crate::table::size;

/// Keep a model's packed weights as a file, for a quick start.
///
/// Every command that loads the model at the same precision finds the file and maps it instead of
/// packing the weights again. Each byte is checked against its checksum first; a file that is
/// damaged, or older than the model, is made anew with a word on stderr. It lies in the cache
/// (QUINTET_CACHE, else XDG_CACHE_HOME/quintet, else ~/.cache/quintet) and needs the model beside
/// it; deleting it is always safe.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet pack
  quintet pack --precision balanced
  quintet embed --precision balanced \"Where do storks spend the winter?\"")]
pub(crate) struct PackArgs {
    /// Model, as --model names it
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,
    /// Print {"model", "precision", "path", "bytes"}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    precision: &'a str,
    path: PathBuf,
    bytes: u64,
}

/// Runs the command.
pub(crate) fn run(args: &PackArgs, settings: &Settings) -> anyhow::Result<()> {
    let name = args.positional.as_deref().or(args.model.model.as_deref());
    let located = model::locate(name, settings)?;
    let Some(path) = model::packed_path(&located, args.model.precision, settings)? else {
        return Err(UserError::new(format!(
            "`{}` is built in, expected a model in a file",
            located.name
        ))
        .hint("the built-in model needs no packed file: it starts in a moment")
        .into());
    };
    let checkpoint = located.open()?;
    let embedder =
        model::load_unpacked(&located, &checkpoint, &args.model, Fit::default(), settings)?;
    let bytes = embedder.write_packed(&checkpoint, &path)?;
    let mut output = Output::stdout();
    if args.json {
        output.json(&Report {
            model: &located.name,
            precision: args.model.precision.name(),
            path,
            bytes,
        })?;
    } else {
        let precision = args.model.precision;
        let (name, size) = (&located.name, size(bytes));
        writeln!(output, "{name}, {precision}: {size} in {}", path.display())?;
    }
    Ok(output.finish()?)
}
