//! `quintet embed`: texts in, vectors out, in bounded memory and in order.

mod late_chunking;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use quintet_engine::late_chunking::ChunkPooling;
use quintet_engine::{EmbedError, EmbedOptions, Embedder, Task, Truncate};
use serde::Serialize;

use crate::args::{InputArgs, ModelArgs};
use crate::failure::UserError;
use crate::input::{InputError, Inputs, Item};
use crate::output::Output;
use crate::rows::{Row, RowFormat, RowWriter, TypeArg, Vector};
use crate::settings::Settings;
use crate::{model, progress};

/// Turn texts into vectors, one or millions.
///
/// Reads texts from the command line, or one input per line from a file or stdin. A line is a
/// text, or a JSON object: {"text": "…"} or {"token_ids": [0, …, 2]} (ids of the model's own
/// vocabulary, <s> and </s> included), each with a "task" of its own if it likes. Other fields are
/// left alone. An empty line is an empty text, so that line n of the input is line n of the output.
///
/// Prints one JSON object per input, in order and as soon as it is known:
/// {"index": 0, "tokens": 17, "truncated": false, "embedding": […]}; `index` counts from 0, `tokens`
/// is what the model saw. Input of any size streams through. A wrong line is named and ends the
/// work; what was printed before it stays good. A file named by --output appears only when all is
/// done.
///
/// Tasks: retrieval.query, retrieval.passage, separation, classification, text-matching, or raw for
/// the base model. A task brings its adapter and its instruction. Vectors of one index need one
/// task; queries and passages are the pair that belongs together.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, after_long_help = LATE_CHUNKING.to_owned() + EXAMPLES)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    input: InputArgs,

    /// Adapter and instruction: a task of the model, the NAME of an --adapter, or `raw`. An
    /// input's own "task" goes first
    #[arg(long, short, value_name = "TASK", default_value = "raw")]
    task: String,
    /// Keep the first N components, before normalising (trained: 32, 64, 128, 256, 512, 768, 1024)
    #[arg(long, short, value_name = "N")]
    dimensions: Option<usize>,
    /// Give the mean as it is, not scaled to length 1
    #[arg(long)]
    no_normalize: bool,
    /// An input longer than the context is an `error`, or loses its `end` [default: error; with
    /// --late-chunking, windows over the whole document]
    #[arg(long, value_enum, value_name = "WHAT")]
    truncate: Option<TruncateArg>,

    /// Read texts or lines as chunks of one document, or each JSON object as a document
    #[arg(long, help_heading = "Late chunking")]
    late_chunking: bool,
    /// Whether the first chunk's mean takes in <s> and the instruction, and the last one's </s>
    #[arg(
        long,
        value_enum,
        value_name = "ROWS",
        default_value = "with-specials",
        help_heading = "Late chunking",
        requires = "late_chunking"
    )]
    chunk_pooling: PoolingArg,
    /// Tokens that a window of a long document repeats of the one before [default: 256]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Late chunking",
        requires = "late_chunking"
    )]
    window_overlap: Option<usize>,

    /// Numbers of a vector
    #[arg(
        long = "type",
        value_enum,
        value_name = "TYPE",
        default_value = "float",
        help_heading = "Output"
    )]
    embedding_type: TypeArg,
    /// Form of the output
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "jsonl",
        help_heading = "Output"
    )]
    format: RowFormat,
    /// Write to FILE instead of stdout; it appears when all is done
    #[arg(long, short, value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,
}

const LATE_CHUNKING: &str = "\
Late chunking reads a document once and gives a vector to each chunk of it, so that every chunk \
knows its context (retrieval.passage is the task for it). Texts or lines are then the chunks of one \
document, and each gets a line {\"index\", \"document_tokens\", \"windows\", \"truncated\", \
\"embedding\"}. Or every line is a document: {\"chunks\": [\"…\", …]}, {\"text\": \"…\", \
\"characters\": [[0, 9], …]} or {\"text\": \"…\", \"tokens\": [[0, 3], …]} (half-open ranges), each \
gets one line {\"index\", \"tokens\", \"truncated\", \"windows\", \"embedding\", \"chunks\": \
[{\"embedding\"}, …]}, with null for a chunk behind the cut.

";
const EXAMPLES: &str = "\
Examples:
  quintet embed \"Where do storks spend the winter?\" -t retrieval.query
  quintet embed -i corpus.txt -t retrieval.passage -o corpus.jsonl
  quintet embed -i corpus.jsonl -d 256 --format npy -o corpus.npy
  zcat corpus.gz | quintet embed --type int8 | gzip > vectors.gz
  quintet embed -i chunks.txt --late-chunking -t retrieval.passage";

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum TruncateArg {
    Error,
    End,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum PoolingArg {
    WithSpecials,
    TextOnly,
}

impl From<PoolingArg> for ChunkPooling {
    fn from(pooling: PoolingArg) -> Self {
        match pooling {
            PoolingArg::WithSpecials => Self::WithSpecials,
            PoolingArg::TextOnly => Self::TextOnly,
        }
    }
}

/// Inputs that the engine gets at once. More fill its batches better; fewer show sooner what is done
/// and lose less to an interruption. Sixteen full batches or so waste a few per cent of one.
const CHUNK_INPUTS: usize = 512;
const CHUNK_BYTES: usize = 64 << 10;

/// Runs the command.
pub(crate) fn run(args: &EmbedArgs, settings: &Settings) -> anyhow::Result<()> {
    args.check()?;
    let mut inputs = Inputs::open(&args.input)?;
    let embedder = model::load(&args.model, settings)?;
    let task = embedder.task(&args.task)?;
    let options = args.options(&embedder)?;
    let dimensions = options
        .dimensions
        .map_or(embedder.config().hidden_size, |d| d.value());
    let output = Output::open(args.output.as_deref())?;
    let mut rows = RowWriter::new(output, args.format, args.embedding_type, dimensions)?;
    let bar = progress::embedding(inputs.total_bytes(), args.output.is_none());
    let run = Run {
        args,
        embedder: &embedder,
        task,
        options: &options,
        bar: &bar,
    };
    let done = if args.late_chunking {
        run.embed_documents(&mut inputs, &mut rows)
    } else {
        run.embed_inputs(&mut inputs, &mut rows)
    };
    bar.finish_and_clear();
    done?;
    Ok(rows.finish()?)
}

impl EmbedArgs {
    /// What can be refused before anything is loaded.
    fn check(&self) -> Result<(), UserError> {
        if self.no_normalize && matches!(self.embedding_type, TypeArg::Int8 | TypeArg::Uint8) {
            return Err(UserError::new("--type int8 and uint8 do not go with --no-normalize")
                .hint("their scale fits vectors of length 1: leave --no-normalize out, or take `float`"));
        }
        if self.window_overlap.is_some() && self.truncate.is_some() {
            return Err(
                UserError::new("--window-overlap does not go with --truncate")
                    .hint("a document is read in windows when --truncate is left out"),
            );
        }
        if self.format == RowFormat::Npy {
            RowWriter::check_npy(self.embedding_type, self.output.as_deref())?;
        }
        Ok(())
    }

    fn options(&self, embedder: &Embedder) -> Result<EmbedOptions, EmbedError> {
        let dimensions = model::dimensions(embedder, self.dimensions)?;
        let truncate = match self.truncate {
            Some(TruncateArg::End) => Truncate::End,
            Some(TruncateArg::Error) | None => Truncate::Error,
        };
        Ok(EmbedOptions {
            dimensions,
            normalize: !self.no_normalize,
            truncate,
        })
    }
}

/// One run over all inputs.
struct Run<'a> {
    args: &'a EmbedArgs,
    embedder: &'a Embedder,
    /// The task of inputs that name none.
    task: Task,
    options: &'a EmbedOptions,
    bar: &'a ProgressBar,
}

/// One line of output.
#[derive(Serialize)]
struct EmbeddingRow {
    index: u64,
    tokens: usize,
    truncated: bool,
    embedding: Vector,
}

impl Row for EmbeddingRow {
    fn vector(&self) -> Option<&Vector> {
        Some(&self.embedding)
    }
}

impl Run<'_> {
    /// Reads, embeds and writes chunk after chunk. Before an error is reported, the inputs in front of
    /// it are embedded and written.
    fn embed_inputs(&self, inputs: &mut Inputs, rows: &mut RowWriter) -> anyhow::Result<()> {
        let mut index = 0;
        loop {
            let (items, error) = inputs.chunk(CHUNK_INPUTS, CHUNK_BYTES);
            if items.is_empty() && error.is_none() {
                return Ok(());
            }
            self.embed_chunk(&items, &mut index, rows)?;
            rows.flush()?;
            self.bar.set_position(inputs.bytes_read());
            self.bar.set_message(format!("{index} inputs"));
            if let Some(error) = error {
                return Err(error.into());
            }
        }
    }

    fn embed_chunk(
        &self,
        items: &[Item],
        index: &mut u64,
        rows: &mut RowWriter,
    ) -> anyhow::Result<()> {
        let mut found = Vec::with_capacity(items.len());
        let mut refused = None;
        for item in items {
            match item.to_input(self.embedder, self.task) {
                Ok(input) => found.push(input),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let embedded = match self.embedder.embed(&found, self.options) {
            Err(error) => {
                let Some(first) = error.input_index().filter(|&first| first < found.len()) else {
                    return Err(error.into());
                };
                let place = items[first].place.clone();
                refused = Some(InputError::Embed { place, error });
                self.embedder.embed(&found[..first], self.options)?
            }
            Ok(embedded) => embedded,
        };
        for embedded in embedded {
            rows.write(&EmbeddingRow {
                index: *index,
                tokens: embedded.tokens,
                truncated: embedded.truncated,
                embedding: Vector::new(&embedded.embedding, self.args.embedding_type),
            })?;
            *index += 1;
        }
        match refused {
            Some(error) => {
                rows.flush()?;
                Err(error.into())
            }
            None => Ok(()),
        }
    }
}
