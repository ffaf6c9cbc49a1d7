//! `quintet calibrate`: which matrices `fast` shall keep in 16 bits, measured on the user's texts.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use quintet_engine::calibration::{distance, sensitivities};
use quintet_engine::{Checkpoint, EmbedOptions, Embedder, Input, Precision, RAW, Sensitivity};
use serde::Serialize;

use crate::args::{InputArgs, ModelArgs, ThreadArgs};
use crate::failure::UserError;
use crate::input::{InputFormat, Inputs, Item};
use crate::model::{self, Located};
use crate::output::Output;
use crate::progress;
use crate::sample;
use crate::settings::Settings;
use crate::table::{Align, columns};

/// Find the matrices that `fast` shall keep in 16 bits, on your texts.
///
/// Runs the model in `exact`, then once for each of its matrices with that one in 8 bits, and sees
/// how far the vectors move. Matrices that cost more than twice the mean for their size are kept in
/// 16 bits; --keep says instead how much of the model is. The result is the file that `quintet pack
/// --precision fast` makes, so every command at `--precision fast` finds it; when the model changes,
/// calibrate again. It takes a pass over the texts for each matrix: 96 for jina-embeddings-v3.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet calibrate
  quintet calibrate --input questions.jsonl      lines as `quintet embed` reads them
  quintet calibrate --keep 25
  quintet verify --precision fast                what it came to")]
pub(crate) struct CalibrateArgs {
    /// Model, as --model names it
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,
    /// Texts to measure on, one a line or a JSON object with a task of its own; a few dozen do
    /// [default: 12 sentences in 8 languages]
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Keep this share of the weights in 16 bits, the ones that suffer most first
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    keep: Option<u8>,
    /// Show beside it what other shares cost and give
    #[arg(long)]
    curve: bool,
    /// Print {"model", "path", "before", "after", "matrices": […]}
    #[arg(long)]
    json: bool,

    /// Model: a hub id that was pulled, a directory, or a .safetensors or .gguf file
    /// [env: QUINTET_MODEL]
    #[arg(long, short, value_name = "ID|PATH", help_heading = "Model")]
    model: Option<String>,
    #[command(flatten)]
    threads: ThreadArgs,
}

/// Matrices that cost this many times the mean for their size are kept.
const SUFFERS: f64 = 2.0;
/// The shares of `--curve`, in percent.
const CURVE: [u8; 8] = [0, 5, 10, 20, 35, 50, 75, 100];
/// Passes over the texts for each of its speeds, of which the fastest counts.
const CURVE_PASSES: usize = 3;
/// Texts at most; more tell nothing new and take longer.
const MAX_TEXTS: usize = 256;

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    path: PathBuf,
    texts: usize,
    /// All matrices in 8 bits.
    before: Distance,
    /// As they are kept.
    after: Distance,
    /// Of the weights, in 16 bits.
    kept_percent: f64,
    matrices: Vec<Matrix>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    curve: Vec<Point>,
}

/// What one share of 16 bits costs and gives.
#[derive(Serialize)]
struct Point {
    percent: u8,
    tokens_per_s: f64,
    #[serde(flatten)]
    distance: Distance,
}

/// `1 - cosine` to `exact`.
#[derive(Serialize)]
struct Distance {
    mean: f64,
    worst: f64,
}

#[derive(Serialize)]
struct Matrix {
    name: String,
    numbers: usize,
    /// `1 - cosine` when it alone is in 8 bits.
    error: f64,
    kept: bool,
}

/// Runs the command.
pub(crate) fn run(args: &CalibrateArgs, settings: &Settings) -> anyhow::Result<()> {
    let name = args.positional.as_deref().or(args.model.as_deref());
    let located = model::locate(name, settings)?;
    let Some(path) = model::packed_path(&located, Precision::Fast, settings)? else {
        return Err(UserError::new(format!(
            "`{}` is built in, expected a model in a file",
            located.name
        ))
        .hint("there is no file to keep the result in; name another model with --model")
        .into());
    };
    let checkpoint = located.open()?;
    let at = |precision| ModelArgs {
        model: args.model.clone(),
        adapters: Vec::new(),
        precision,
        threads: args.threads.clone(),
    };
    let exact = model::load_located(&located, &at(Precision::Exact), settings)?;
    let items = read(args, &exact)?;
    let inputs = with_tasks(&items, &exact)?;
    let measured = measure(&exact, &checkpoint, &located, &inputs)?;
    let kept = match args.keep {
        Some(percent) => share(&measured, percent),
        None => sufferers(&measured),
    };
    let expected = vectors(&exact, &inputs)?;
    let load = |kept: &[usize]| {
        model::load_unpacked(&located, &checkpoint, &at(Precision::Fast), kept, settings)
    };
    let before = Distance::between(&expected, &vectors(&load(&[])?, &inputs)?);
    let calibrated = load(&kept)?;
    let after = Distance::between(&expected, &vectors(&calibrated, &inputs)?);
    calibrated.write_packed(&checkpoint, &path)?;
    drop(calibrated);
    let shares = CURVE.iter().filter(|_| args.curve);
    let curve = shares.map(|&percent| -> anyhow::Result<Point> {
        let embedder = load(&share(&measured, percent))?;
        let distance = Distance::between(&expected, &vectors(&embedder, &inputs)?);
        Ok(Point {
            percent,
            tokens_per_s: tokens_per_s(&embedder, &inputs)?,
            distance,
        })
    });
    let curve = curve.collect::<Result<_, _>>()?;
    let matrices: Vec<Matrix> = measured
        .into_iter()
        .map(|matrix| Matrix {
            kept: kept.contains(&matrix.matrix),
            name: matrix.name,
            numbers: matrix.numbers,
            error: matrix.error,
        })
        .collect();
    let numbers = |is_counted: fn(&Matrix) -> bool| -> usize {
        let counted = matrices.iter().filter(|matrix| is_counted(matrix));
        counted.map(|matrix| matrix.numbers).sum()
    };
    let kept_share = numbers(|matrix| matrix.kept) as f64 / numbers(|_| true) as f64;
    let report = Report {
        model: &located.name,
        path,
        texts: inputs.len(),
        before,
        after,
        kept_percent: 100.0 * kept_share,
        matrices,
        curve,
    };
    let mut output = Output::stdout();
    match args.json {
        true => output.json(&report)?,
        false => write!(output, "{}", report.drawn())?,
    }
    Ok(output.finish()?)
}

fn read(args: &CalibrateArgs, embedder: &Embedder) -> anyhow::Result<Vec<Item>> {
    let Some(path) = &args.input else {
        return Ok(sample::items(embedder));
    };
    let mut inputs = Inputs::open(&InputArgs {
        texts: Vec::new(),
        input: Some(path.clone()),
        input_format: InputFormat::Auto,
    })?;
    let (items, error) = inputs.chunk(MAX_TEXTS, usize::MAX);
    match error {
        Some(error) => Err(error.into()),
        None if items.is_empty() => Err(UserError::new(format!(
            "`{}` holds no text, expected some dozens",
            path.display()
        ))
        .into()),
        None => Ok(items),
    }
}

/// The inputs, those without a task under each of the model's and none in turn.
fn with_tasks<'a>(items: &'a [Item], embedder: &Embedder) -> anyhow::Result<Vec<Input<'a>>> {
    let names: Vec<&str> = embedder.tasks().chain([RAW]).collect();
    let inputs = items.iter().zip(names.iter().cycle()).map(|(item, name)| {
        let task = embedder.task(name)?;
        Ok(item.to_input(embedder, task)?)
    });
    inputs.collect()
}

fn measure(
    embedder: &Embedder,
    checkpoint: &Checkpoint,
    located: &Located,
    inputs: &[Input<'_>],
) -> anyhow::Result<Vec<Sensitivity>> {
    let bar = progress::calibrating(&located.name);
    let measured = sensitivities(embedder, checkpoint, inputs, &|done, steps| {
        bar.set_length(steps as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(measured?)
}

/// The matrices that cost more than others of their size.
fn sufferers(measured: &[Sensitivity]) -> Vec<usize> {
    let error: f64 = measured.iter().map(|matrix| matrix.error).sum();
    let numbers: usize = measured.iter().map(|matrix| matrix.numbers).sum();
    let bound = SUFFERS * error / numbers as f64;
    let suffers = measured.iter().filter(|matrix| matrix.density() > bound);
    suffers.map(|matrix| matrix.matrix).collect()
}

/// The matrices that suffer most, as many as make up a share of all numbers.
fn share(measured: &[Sensitivity], percent: u8) -> Vec<usize> {
    let mut order: Vec<&Sensitivity> = measured.iter().collect();
    order.sort_by(|a, b| b.density().total_cmp(&a.density()));
    let numbers: usize = measured.iter().map(|matrix| matrix.numbers).sum();
    let mut room = numbers as u128 * u128::from(percent) / 100;
    let mut kept = Vec::new();
    for matrix in order {
        if let Some(rest) = room.checked_sub(matrix.numbers as u128) {
            room = rest;
            kept.push(matrix.matrix);
        }
    }
    kept.sort_unstable();
    kept
}

fn vectors(embedder: &Embedder, inputs: &[Input<'_>]) -> anyhow::Result<Vec<Vec<f32>>> {
    let embedded = embedder.embed(inputs, &EmbedOptions::default())?;
    Ok(embedded.into_iter().map(|row| row.embedding).collect())
}

fn tokens_per_s(embedder: &Embedder, inputs: &[Input<'_>]) -> anyhow::Result<f64> {
    let mut fastest: f64 = 0.0;
    for _ in 0..CURVE_PASSES {
        let start = Instant::now();
        let embedded = embedder.embed(inputs, &EmbedOptions::default())?;
        let tokens: usize = embedded.iter().map(|row| row.tokens).sum();
        fastest = fastest.max(tokens as f64 / start.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

impl Distance {
    fn between(expected: &[Vec<f32>], found: &[Vec<f32>]) -> Self {
        let pairs = expected.iter().zip(found);
        let distances: Vec<f64> = pairs.map(|(a, b)| distance(a, b)).collect();
        Self {
            mean: distances.iter().sum::<f64>() / distances.len() as f64,
            worst: distances.iter().copied().fold(0.0, f64::max),
        }
    }
}

impl Report<'_> {
    fn drawn(&self) -> String {
        let kept: Vec<&str> = self
            .matrices
            .iter()
            .filter(|matrix| matrix.kept)
            .map(|matrix| matrix.name.as_str())
            .collect();
        let row = |what: String, distance: &Distance| {
            let number = |number: f64| format!("{number:.1e}");
            vec![what, number(distance.mean), number(distance.worst)]
        };
        let rows = [
            ["1 - cosine to `exact`", "mean", "worst"]
                .map(str::to_owned)
                .to_vec(),
            row("all in 8 bits".to_owned(), &self.before),
            row(
                format!(
                    "{} of {} matrices, {:.0} % of the weights, in 16 bits",
                    kept.len(),
                    self.matrices.len(),
                    self.kept_percent
                ),
                &self.after,
            ),
        ];
        let table = columns(&rows, &[Align::Left, Align::Right, Align::Right]);
        let curve = curve_table(&self.curve);
        let names: String = kept.iter().map(|name| format!("  {name}\n")).collect();
        format!("{table}{names}{curve}{}\n", self.path.display())
    }
}

fn curve_table(curve: &[Point]) -> String {
    let rows = curve.iter().map(|point| {
        vec![
            point.percent.to_string(),
            format!("{:.0}", point.tokens_per_s),
            format!("{:.1e}", point.distance.mean),
            format!("{:.1e}", point.distance.worst),
        ]
    });
    let head = ["% in 16 bits", "tokens/s", "mean", "worst"].map(str::to_owned);
    match curve {
        [] => String::new(),
        _ => columns(
            &std::iter::once(head.to_vec())
                .chain(rows)
                .collect::<Vec<_>>(),
            &[Align::Right; 4],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(index: usize, numbers: usize, error: f64) -> Sensitivity {
        Sensitivity {
            matrix: index,
            name: String::new(),
            numbers,
            error,
        }
    }

    #[test]
    fn what_costs_more_than_others_of_its_size_suffers() {
        let measured = [
            matrix(0, 100, 1.0),
            matrix(1, 400, 4.0),
            matrix(2, 100, 5.0),
        ];
        assert_eq!(sufferers(&measured), [2]);
        assert_eq!(sufferers(&measured[..2]), [0_usize; 0]);
    }

    #[test]
    fn a_share_takes_the_dearest_that_fit() {
        let measured = [
            matrix(0, 100, 1.0),
            matrix(1, 400, 8.0),
            matrix(2, 100, 5.0),
        ];
        assert_eq!(share(&measured, 0), [0_usize; 0]);
        assert_eq!(share(&measured, 34), [0, 2]);
        assert_eq!(share(&measured, 100), [0, 1, 2]);
    }
}
