//! `quintet similarity`: how close texts are to each other.

use std::io::Write;

use clap::Args;
use quintet_engine::{EmbedOptions, Embedder, Task};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::args::{InputArgs, ModelArgs};
use crate::failure::UserError;
use crate::input::{InputError, Inputs, Item, ItemContent};
use crate::model;
use crate::output::Output;
use crate::settings::Settings;
use crate::table::{Align, Paint, pad, shorten, terminal_width};

/// Compare texts by the angle between their vectors.
///
/// Two texts give one number, more give a matrix: the cosine similarity, 1 for the same direction,
/// about 0 for texts that have nothing in common. How high "similar" is depends on the task and the
/// model; compare numbers with each other.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet similarity \"a stork\" \"ein Storch\"
  quintet similarity \"a stork\" \"ein Storch\" \"une cigogne\" \"a bicycle\"
  quintet similarity --input questions.txt --json
  quintet similarity --input pairs.jsonl      a \"task\" of its own for each line")]
pub(crate) struct SimilarityArgs {
    #[command(flatten)]
    input: InputArgs,

    /// Adapter and instruction for all texts [default: text-matching, or raw where the model has no
    /// adapters]
    #[arg(long, short, value_name = "TASK")]
    task: Option<String>,
    /// Compare the first N components only (Matryoshka)
    #[arg(long, short, value_name = "N")]
    dimensions: Option<usize>,
    /// Print {"task", "tokens": […], "similarity": [[…], …]}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// A matrix of more is a job for `embed`.
const MAX_TEXTS: usize = 1000;
const DEFAULT_TASK: &str = "text-matching";

#[derive(Serialize)]
struct Report<'a> {
    task: &'a str,
    tokens: Vec<usize>,
    similarity: Vec<Vec<f64>>,
}

/// Runs the command.
pub(crate) fn run(args: &SimilarityArgs, settings: &Settings) -> anyhow::Result<()> {
    let items = read(&args.input)?;
    let embedder = model::load(&args.model, settings)?;
    let has_default = embedder.tasks().any(|task| task == DEFAULT_TASK);
    let task = match &args.task {
        Some(task) => task,
        None if has_default => DEFAULT_TASK,
        None => quintet_engine::RAW,
    };
    let options = EmbedOptions {
        dimensions: model::dimensions(&embedder, args.dimensions)?,
        ..EmbedOptions::default()
    };
    let (tokens, vectors) = embed(&items, &embedder, embedder.task(task)?, &options)?;
    let similarity: Vec<Vec<f64>> = vectors
        .iter()
        .map(|row| vectors.iter().map(|column| cosine(row, column)).collect())
        .collect();
    let mut output = Output::stdout();
    if args.json {
        serde_json::to_writer(
            &mut output,
            &Report {
                task,
                tokens,
                similarity,
            },
        )
        .map_err(std::io::Error::from)?;
        writeln!(output)?;
    } else if let [a, b] = &similarity[..] {
        let strength = Paint {
            on: settings.colour,
        }
        .with("1", &format!("{:.4}", a[1].min(b[0])));
        writeln!(
            output,
            "{strength}  cosine similarity, 1 is the same direction (task {task})"
        )?;
    } else {
        let labels: Vec<&str> = items.iter().map(label).collect();
        let paint = Paint {
            on: settings.colour,
        };
        write!(
            output,
            "{}",
            matrix(&labels, &similarity, terminal_width(), paint)
        )?;
    }
    Ok(output.finish()?)
}

fn read(args: &InputArgs) -> anyhow::Result<Vec<Item>> {
    let mut inputs = Inputs::open(args)?;
    let mut items = Vec::new();
    while let Some(raw) = inputs.next()? {
        items.push(Item::read(raw)?);
        if items.len() > MAX_TEXTS {
            return Err(
                UserError::new(format!("there are more than {MAX_TEXTS} texts"))
                    .hint("`quintet embed --format npy` gives vectors to compare at any number")
                    .into(),
            );
        }
    }
    if items.len() < 2 {
        let found = if items.is_empty() {
            "no text"
        } else {
            "one text only"
        };
        return Err(
            UserError::new(format!("there is {found}, expected two or more"))
                .hint("`quintet similarity \"one text\" \"another\"`")
                .into(),
        );
    }
    Ok(items)
}

fn embed(
    items: &[Item],
    embedder: &Embedder,
    default_task: Task,
    options: &EmbedOptions,
) -> anyhow::Result<(Vec<usize>, Vec<Vec<f32>>)> {
    let inputs = items
        .iter()
        .map(|item| item.to_input(embedder, default_task))
        .collect::<Result<Vec<_>, _>>()?;
    let embedded = embedder.embed(&inputs, options).map_err(|error| {
        match error.input_index().and_then(|index| items.get(index)) {
            Some(item) => InputError::Embed {
                place: item.place.clone(),
                error,
            }
            .into(),
            None => anyhow::Error::from(error),
        }
    })?;
    Ok(embedded
        .into_iter()
        .map(|embedded| (embedded.tokens, embedded.embedding))
        .unzip())
}

/// Of vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

fn label(item: &Item) -> &str {
    match &item.content {
        ItemContent::Text(text) => text,
        ItemContent::TokenIds(_) => "(token ids)",
    }
}

/// Columns of a cell: two spaces and ` 0.123`, or more for a column's number.
const CELL: usize = 7;

/// Rows with their texts, columns with their numbers; blocks of columns where a line is too short.
fn matrix(labels: &[&str], similarity: &[Vec<f64>], width: usize, paint: Paint) -> String {
    let numbers = labels.len().to_string().len();
    let texts: Vec<String> = labels
        .iter()
        .map(|label| shorten(label, width / 3))
        .collect();
    let text_width = texts.iter().map(|text| text.width()).max().unwrap_or(0);
    let stub = numbers + 1 + text_width;
    let fitting = (width.saturating_sub(stub) / CELL).max(1);
    let columns: Vec<usize> = (0..labels.len()).collect();
    let mut lines = Vec::new();
    for block in columns.chunks(fitting) {
        let heads = block
            .iter()
            .map(|column| pad(&(column + 1).to_string(), CELL, Align::Right));
        let head = format!("{}{}", " ".repeat(stub), heads.collect::<String>());
        lines.push(paint.with("2", &head));
        for (row, text) in texts.iter().enumerate() {
            let number = pad(&(row + 1).to_string(), numbers, Align::Right);
            let mut line = format!(
                "{} {}",
                paint.with("2", &number),
                pad(text, text_width, Align::Left)
            );
            for &column in block {
                let value = similarity[row][column];
                let cell = pad(&format!("{value:.3}"), CELL, Align::Right);
                line.push_str(&paint.with(heat(value, row == column), &cell));
            }
            lines.push(line);
        }
        lines.push(String::new());
    }
    lines.pop();
    lines.join("\n") + "\n"
}

/// From dim over plain to bold green; the diagonal is always 1 and stays dim.
fn heat(value: f64, is_diagonal: bool) -> &'static str {
    match value {
        _ if is_diagonal => "2",
        value if value >= 0.8 => "1;32",
        value if value >= 0.6 => "32",
        value if value >= 0.4 => "33",
        value if value >= 0.2 => "39",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_matrix_is_cut_into_blocks_that_fit() {
        let labels = vec!["日本語の長い文章です。とても長い。"; 12];
        let similarity = vec![vec![-0.5; 12]; 12];
        for width in [20, 40, 80] {
            let text = matrix(&labels, &similarity, width, Paint { on: false });
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
            assert_eq!(text.matches("-0.500").count(), 144);
        }
    }
}
