//! `quintet tokenize`: texts as the model sees them.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use clap::Args;
use quintet_engine::config::{TASK_NAMES, default_task_instructions};
use quintet_engine::tokenizer::TokenizerError;
use quintet_engine::{Cpu, RAW, Tokenizer, UnknownTask};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::args::{InputArgs, ThreadArgs};
use crate::failure::UserError;
use crate::input::{InputError, Inputs, Item, ItemContent};
use crate::model;
use crate::output::Output;
use crate::settings::Settings;
use crate::table::{Align, Paint, pad, terminal_width};

/// Show texts as the model sees them: pieces and token ids.
///
/// The ids are those that `embed` would feed to the model, <s> and </s> included, and with --task its
/// instruction in front. Nothing is truncated: compare the count with the model's context. No weights
/// are read.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet tokenize \"Where do storks spend the winter?\" --task retrieval.query
  quintet tokenize --input corpus.txt --json | jq .tokens
  quintet tokenize --model tokenizer.json \"a tokenizer file alone\"")]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    input: InputArgs,

    /// Put the instruction of this task before every text
    #[arg(long, short, value_name = "TASK", default_value = RAW)]
    task: String,
    /// Print a line {"index", "tokens", "token_ids"} per text
    #[arg(long)]
    json: bool,
    /// With --json, add "pieces": what each id stands for
    #[arg(long, requires = "json")]
    pieces: bool,

    /// Model, or a tokenizer.json file [env: QUINTET_MODEL]
    #[arg(long, short, value_name = "ID|PATH", help_heading = "Model")]
    model: Option<String>,
    #[command(flatten)]
    threads: ThreadArgs,
}

/// Lines that are tokenised at once.
const CHUNK_INPUTS: usize = 8192;
const CHUNK_BYTES: usize = 8 << 20;
/// Lines that one thread takes at once.
const BLOCK: usize = 64;

#[derive(Serialize)]
struct Line {
    index: u64,
    tokens: usize,
    token_ids: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pieces: Option<Vec<String>>,
}

/// Runs the command.
pub(crate) fn run(args: &TokenizeArgs, settings: &Settings) -> anyhow::Result<()> {
    let mut inputs = Inputs::open(&args.input)?;
    let source = Source::open(args, settings)?;
    source.instruction(&args.task)?;
    let cpu = Cpu::new(settings.isa()?, settings.threads(&args.threads)?);
    let mut output = Output::stdout();
    let mut index = 0;
    loop {
        let (items, mut error) = inputs.chunk(CHUNK_INPUTS, CHUNK_BYTES);
        let count = items.len();
        let is_last = items.is_empty();
        for line in source.lines(&items, index, args, &cpu) {
            match line {
                Ok(line) if args.json => {
                    serde_json::to_writer(&mut output, &line).map_err(std::io::Error::from)?;
                    output.write_all(b"\n")?;
                }
                Ok(line) => {
                    let text = drawn(
                        &line,
                        &source.tokenizer,
                        Paint {
                            on: settings.colour,
                        },
                    );
                    write!(output, "{}{text}", if line.index > 0 { "\n" } else { "" })?;
                }
                Err(refused) => {
                    error = Some(refused);
                    break;
                }
            }
        }
        index += count as u64;
        if let Some(error) = error {
            output.flush()?;
            return Err(error.into());
        }
        if is_last {
            return Ok(output.finish()?);
        }
    }
}

/// A tokenizer and the instructions that go with it.
struct Source {
    tokenizer: Tokenizer,
    /// Tasks with their instructions.
    tasks: Vec<(String, String)>,
}

impl Source {
    fn open(args: &TokenizeArgs, settings: &Settings) -> anyhow::Result<Self> {
        if let Some(name) = settings.model(args.model.as_deref()) {
            let path = Path::new(name);
            let inside = path.join("tokenizer.json");
            let is_bare = inside.is_file() && !path.join("config.json").exists();
            if is_bare {
                return Ok(Self::bare(Tokenizer::from_file(&inside)?));
            }
            if path.is_file()
                && path
                    .extension()
                    .is_some_and(|extension| extension == "json")
            {
                return Ok(Self::bare(Tokenizer::from_file(path)?));
            }
        }
        let located = model::locate(args.model.as_deref(), settings)?;
        let checkpoint = located.open()?;
        let tokenizer = Tokenizer::open(&checkpoint.tokenizer, checkpoint.config.vocab_size)?
            .ok_or_else(|| {
                UserError::new(format!("model `{}` has no tokenizer", located.name))
                    .hint("name a tokenizer.json file by --model")
            })?;
        let adapters = checkpoint.adapters.into_iter();
        let tasks = adapters
            .map(|adapter| (adapter.name, adapter.instruction))
            .collect();
        Ok(Self { tokenizer, tasks })
    }

    /// A tokenizer file alone: the instructions of the released model.
    fn bare(tokenizer: Tokenizer) -> Self {
        let instructions = default_task_instructions();
        let instruction = |task: &str| {
            let found = instructions.iter().find(|(name, _)| name == task);
            found.map_or(String::new(), |(_, instruction)| instruction.clone())
        };
        let tasks = TASK_NAMES
            .map(|task| (task.to_owned(), instruction(task)))
            .to_vec();
        Self { tokenizer, tasks }
    }

    fn instruction(&self, task: &str) -> Result<&str, UnknownTask> {
        if task == RAW {
            return Ok("");
        }
        let found = self.tasks.iter().find(|(name, _)| name == task);
        found
            .map(|(_, instruction)| instruction.as_str())
            .ok_or_else(|| UnknownTask {
                name: task.to_owned(),
                known: self.tasks.iter().map(|(name, _)| name.clone()).collect(),
            })
    }

    /// Tokenises on all threads; the results stand in the order of `items`.
    fn lines(
        &self,
        items: &[Item],
        first_index: u64,
        args: &TokenizeArgs,
        cpu: &Cpu,
    ) -> impl Iterator<Item = Result<Line, InputError>> {
        let blocks: Vec<&[Item]> = items.chunks(BLOCK).collect();
        let results: Vec<OnceLock<Vec<Result<Line, InputError>>>> =
            blocks.iter().map(|_| OnceLock::new()).collect();
        cpu.pool().run(blocks.len(), &|block, _| {
            results[block].get_or_init(|| {
                let index = first_index + (block * BLOCK) as u64;
                let numbered = blocks[block].iter().zip(index..);
                numbered
                    .map(|(item, index)| self.line(item, index, args))
                    .collect()
            });
        });
        results
            .into_iter()
            .filter_map(OnceLock::into_inner)
            .flatten()
    }

    fn line(&self, item: &Item, index: u64, args: &TokenizeArgs) -> Result<Line, InputError> {
        let task = item.task.as_deref().unwrap_or(&args.task);
        let place = &item.place;
        let instruction = self.instruction(task).map_err(|source| InputError::Task {
            place: place.clone(),
            source,
        })?;
        let encoded = match &item.content {
            ItemContent::Text(text) if instruction.is_empty() => self.tokenizer.encode(text),
            ItemContent::Text(text) => self.tokenizer.encode(&format!("{instruction}{text}")),
            ItemContent::TokenIds(token_ids) => Ok(token_ids.clone()),
        };
        let token_ids = encoded.map_err(|source: TokenizerError| InputError::Embed {
            place: place.clone(),
            error: quintet_engine::EmbedError::Tokenizer { index: 0, source },
        })?;
        let pieces = args
            .pieces
            .then(|| token_ids.iter().map(|&id| self.piece(id)).collect());
        Ok(Line {
            index,
            tokens: token_ids.len(),
            token_ids,
            pieces,
        })
    }

    fn piece(&self, token_id: u32) -> String {
        piece(&self.tokenizer, token_id)
    }
}

fn piece(tokenizer: &Tokenizer, token_id: u32) -> String {
    tokenizer
        .piece(token_id)
        .unwrap_or_else(|| "(no piece)".to_owned())
}

/// Pieces over their ids, in lines that fit the terminal. `▁` is the space before a word.
fn drawn(line: &Line, tokenizer: &Tokenizer, paint: Paint) -> String {
    let width = terminal_width();
    let mut text = paint.with("1", &format!("{} tokens", line.tokens)) + "\n";
    let (mut pieces, mut ids, mut used) = (String::new(), String::new(), 0);
    let mut end_line = |pieces: &mut String, ids: &mut String| {
        text.push_str(&format!("{}\n{}\n", pieces.trim_end(), ids.trim_end()));
        pieces.clear();
        ids.clear();
    };
    for (position, &token_id) in line.token_ids.iter().enumerate() {
        let piece = piece(tokenizer, token_id);
        let id = token_id.to_string();
        let cell = piece.width().max(id.width());
        if used > 0 && used + cell > width {
            end_line(&mut pieces, &mut ids);
            used = 0;
        }
        let is_special = [tokenizer.bos_id(), tokenizer.eos_id()].contains(&token_id);
        let colour = match position % 2 {
            _ if is_special => "2",
            0 => "36",
            _ => "33",
        };
        pieces.push_str(&paint.with(colour, &pad(&piece, cell, Align::Left)));
        ids.push_str(&paint.with("2", &pad(&id, cell, Align::Left)));
        pieces.push(' ');
        ids.push(' ');
        used += cell + 1;
    }
    end_line(&mut pieces, &mut ids);
    text
}
