//! The command line: the commands, and the arguments that several of them share.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use quintet_engine::Precision;

use crate::commands::accounts::AccountsArgs;
use crate::commands::bench::BenchArgs;
use crate::commands::calibrate::CalibrateArgs;
use crate::commands::config::ConfigArgs;
use crate::commands::credit::CreditArgs;
use crate::commands::embed::EmbedArgs;
use crate::commands::info::InfoArgs;
use crate::commands::keys::KeysArgs;
use crate::commands::ledger::LedgerArgs;
use crate::commands::models::ModelsArgs;
use crate::commands::pack::PackArgs;
use crate::commands::pull::PullArgs;
use crate::commands::serve::ServeArgs;
use crate::commands::similarity::SimilarityArgs;
use crate::commands::tokenize::TokenizeArgs;
use crate::commands::tune::TuneArgs;
use crate::commands::usage::UsageArgs;
use crate::commands::verify::VerifyArgs;
use crate::input::InputFormat;

/// Embeddings of jina-embeddings-v3 on your own machine: five tasks, 8192 tokens, any language.
#[derive(Parser, Debug)]
#[command(
    name = "quintet",
    version,
    help_template = TEMPLATE,
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Embed(EmbedArgs),
    Similarity(SimilarityArgs),
    Tokenize(TokenizeArgs),
    Pull(PullArgs),
    Models(ModelsArgs),
    Pack(PackArgs),
    Calibrate(CalibrateArgs),
    Info(InfoArgs),
    Verify(VerifyArgs),
    Bench(BenchArgs),
    Tune(Box<TuneArgs>),
    Serve(Box<ServeArgs>),
    Config(Box<ConfigArgs>),
    Accounts(AccountsArgs),
    Keys(KeysArgs),
    Credit(CreditArgs),
    Usage(UsageArgs),
    Ledger(LedgerArgs),
}

const TEMPLATE: &str = "\
{about}

Usage: quintet <COMMAND> [OPTIONS]

Embed:
  embed       Turn texts into vectors, one or millions
  similarity  Compare texts by the angle between their vectors
  tokenize    Show texts as the model sees them: pieces and token ids

Serve:
  serve       Answer OpenAI's and Jina's clients over HTTP
  config      Show the server's options as they apply

Host, for many callers:
  accounts    Make, list, limit and close accounts
  keys        Make, list, rotate and revoke keys
  credit      Give an account credit, and see what it has
  usage       Show requests, tokens and their price
  ledger      Verify what was billed, and export it

Models:
  pull        Download a model from the model hub
  models      List the downloaded models
  pack        Keep a model's packed weights as a file, for a quick start
  calibrate   Fit `fast` to your texts: round its weights for them, keep what suffers in 16 bits
  info        Describe a model: layout, shapes, adapters, memory, licence

Check:
  verify      Compare a model's numbers with published or golden ones
  bench       Measure speed against what the processor can do
  tune        Measure what smaller vectors cost, on your documents and queries

Options:
{options}

Start, with the small built-in model:
  quintet similarity \"a stork\" \"ein Storch\" \"a bicycle\"

With jina-embeddings-v3:
  quintet pull --accept-license
  quintet embed --task retrieval.query \"Where do storks spend the winter?\"

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 you can fix it, 2 a bug or
the machine. `quintet <COMMAND> --help` explains one command.
";

impl Args {
    /// Reads the process's arguments.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        Self::try_parse()
    }
}

/// Which model runs, and how.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Model: a hub id that was pulled, a directory, or a .safetensors or .gguf file
    /// [env: QUINTET_MODEL] [default: jinaai/jina-embeddings-v3 if it was pulled, else the built-in mini]
    #[arg(long, short, value_name = "ID|PATH", help_heading = "Model")]
    pub(crate) model: Option<String>,
    /// Add an adapter of your own as task NAME: a PEFT folder, an original-layout file (FILE#TASK
    /// for one of a stack) or a GGUF LoRA file. May be repeated
    #[arg(long = "adapter", value_name = "NAME=PATH", help_heading = "Model")]
    pub(crate) adapters: Vec<AdapterArg>,
    /// Arithmetic of the weight products: `exact` is f32, `balanced` 16-bit and `fast` 8-bit integers
    #[arg(long, value_name = "PRECISION", default_value = "exact", help_heading = "Model", value_parser = precision())]
    pub(crate) precision: Precision,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
}

/// Reads a precision, and lists them in the help.
pub(crate) fn precision() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(Precision::ALL.iter().map(|precision| precision.name()))
        .try_map(|name| name.parse())
}

/// How many threads work.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ThreadArgs {
    /// Threads; their number never changes a result [env: QUINTET_THREADS] [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Model")]
    pub(crate) threads: Option<u16>,
}

/// `NAME=PATH` of a custom adapter.
#[derive(Clone, Debug)]
pub(crate) struct AdapterArg {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl FromStr for AdapterArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(Self {
                name: name.to_owned(),
                path: path.into(),
            }),
            _ => Err("expected NAME=PATH"),
        }
    }
}

/// The texts: on the command line, in a file, or from stdin.
#[derive(clap::Args, Debug)]
pub(crate) struct InputArgs {
    /// Texts, taken literally; without any, --input or stdin is read
    #[arg(value_name = "TEXT")]
    pub(crate) texts: Vec<String>,
    /// Read one input per line from FILE, or from stdin with `-`
    #[arg(long, short, value_name = "FILE", conflicts_with = "texts")]
    pub(crate) input: Option<PathBuf>,
    /// What a line is: `auto` takes a line that begins with `{` as a JSON object and any other as
    /// a text
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "auto")]
    pub(crate) input_format: InputFormat,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_command() {
        let help = Args::command().render_help().to_string();
        for command in Args::command().get_subcommands() {
            let line = format!("\n  {:<10}  ", command.get_name());
            assert!(help.contains(&line), "{line:?} is not in\n{help}");
        }
    }

    #[test]
    fn an_adapter_is_a_name_and_a_path() {
        let adapter: AdapterArg = "mine=a=b".parse().unwrap();
        assert_eq!(
            (adapter.name.as_str(), adapter.path.to_str()),
            ("mine", Some("a=b"))
        );
        for text in ["mine", "=path", "mine="] {
            assert!(text.parse::<AdapterArg>().is_err(), "{text}");
        }
    }
}
