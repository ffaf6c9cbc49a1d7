//! Inputs, one by one in bounded memory: texts of the command line, or lines of a file or stdin.
//!
//! `lines` reads lines, `item` reads what a line says, `error` is everything that can be wrong.

mod error;
mod item;
mod lines;

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;

pub(crate) use error::{InputError, Place};
pub(crate) use item::{Chunks, DocumentItem, Item, ItemContent, find_task};
use lines::Lines;

use crate::args::InputArgs;
use crate::failure::UserError;

/// What a line of input is.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputFormat {
    /// A JSON object where a line begins with `{`, else a text
    Auto,
    /// Every line is a text
    Text,
    /// Every line is a JSON object
    Jsonl,
}

/// Inputs in their order.
pub(crate) struct Inputs {
    source: Source,
    format: InputFormat,
    total_bytes: Option<u64>,
}

enum Source {
    Arguments {
        texts: std::vec::IntoIter<String>,
        number: u64,
    },
    Lines(Lines<Box<dyn BufRead>>),
}

/// One input as it was given, and where.
pub(crate) struct RawInput {
    pub(crate) place: Place,
    pub(crate) text: String,
    /// Whether the text may be a JSON object.
    pub(crate) format: InputFormat,
}

impl Inputs {
    /// Opens what the arguments name: texts, a file, or stdin.
    ///
    /// # Errors
    /// [`InputError::Open`], and [`UserError`] when there is nothing to read.
    pub(crate) fn open(args: &InputArgs) -> anyhow::Result<Self> {
        if !args.texts.is_empty() {
            let texts = args.texts.clone().into_iter();
            return Ok(Self {
                source: Source::Arguments { texts, number: 0 },
                format: InputFormat::Text,
                total_bytes: None,
            });
        }
        let (reader, name, total_bytes): (Box<dyn BufRead>, _, _) = match args.input.as_deref() {
            Some(path) if path != Path::new("-") => {
                let (file, total_bytes) = open(path).map_err(|source| InputError::Open {
                    path: path.to_owned(),
                    source,
                })?;
                (
                    Box::new(BufReader::new(file)),
                    format!("`{}`", path.display()),
                    total_bytes,
                )
            }
            None if io::stdin().is_terminal() => {
                return Err(UserError::new("there is no text to read")
                    .hint("give texts as arguments, a file by --input, or pipe lines in")
                    .into());
            }
            _ => (Box::new(io::stdin().lock()), "stdin".to_owned(), None),
        };
        Ok(Self {
            source: Source::Lines(Lines::new(reader, Arc::from(name))),
            format: args.input_format,
            total_bytes,
        })
    }

    /// The next input, `None` at the end.
    ///
    /// # Errors
    /// [`InputError`] naming the line.
    pub(crate) fn next(&mut self) -> Result<Option<RawInput>, InputError> {
        let format = self.format;
        match &mut self.source {
            Source::Arguments { texts, number } => Ok(texts.next().map(|text| {
                *number += 1;
                RawInput {
                    place: Place::Argument(*number),
                    text,
                    format,
                }
            })),
            Source::Lines(lines) => {
                let line = lines.next()?;
                Ok(line.map(|(place, text)| RawInput {
                    place,
                    text,
                    format,
                }))
            }
        }
    }

    /// The next inputs, about as many as the limits allow, none at the end; and the error that ended
    /// them early.
    pub(crate) fn chunk(
        &mut self,
        max_items: usize,
        max_bytes: usize,
    ) -> (Vec<Item>, Option<InputError>) {
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < max_items && bytes < max_bytes {
            match self.next().and_then(|raw| raw.map(Item::read).transpose()) {
                Ok(None) => break,
                Ok(Some(item)) => {
                    bytes += item.content.len_bytes();
                    items.push(item);
                }
                Err(error) => return (items, Some(error)),
            }
        }
        (items, None)
    }

    /// Bytes of the input read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        match &self.source {
            Source::Arguments { .. } => 0,
            Source::Lines(lines) => lines.bytes_read(),
        }
    }

    /// Bytes of the whole input, where it is a file.
    pub(crate) fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }
}

fn open(path: &Path) -> io::Result<(File, Option<u64>)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok((file, metadata.is_file().then_some(metadata.len())))
}
