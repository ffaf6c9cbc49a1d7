//! `quintet calibrate`: `fast` fitted to the user's texts, by rounding and by a mix with 16 bits.

mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use quintet_engine::calibration::{RoundedMatrices, round, sensitivities};
use quintet_engine::{Checkpoint, EmbedOptions, Embedder, Input, Precision, RAW, Sensitivity};

use crate::args::{InputArgs, ModelArgs, ThreadArgs};
use crate::failure::UserError;
use crate::input::{InputFormat, Inputs, Item};
use crate::model::{self, Fit, Located};
use crate::output::Output;
use crate::progress;
use crate::sample;
use crate::settings::Settings;

use report::{Distance, Matrix, Point, Report, Rounded};

/// Fit `fast` to your texts: round its weights for them, keep what suffers in 16 bits.
///
/// Of 100 texts or more, four in five teach the rounding: each weight makes up for the errors of those
/// before it on what these texts bring there. Where that brings the vectors of the fifth, which it has
/// not seen, nearer to `exact`, it is kept. Then the model runs over texts once for each of its
/// matrices with that one in 8 bits, and sees how far the vectors move. Matrices that cost more than
/// twice the mean for their size are kept in 16 bits; --keep says instead how much of the model is.
/// The result is the file that `quintet pack --precision fast` makes, so every command at `--precision
/// fast` finds it; when the model changes, calibrate again.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet calibrate --input questions.jsonl      lines as `quintet embed` reads them
  quintet calibrate                              no texts: 16 bits alone
  quintet calibrate --input texts.txt --keep 25
  quintet verify --precision fast                what it came to")]
pub(crate) struct CalibrateArgs {
    /// Model, as --model names it
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,
    /// Texts as yours will be, one a line or a JSON object with a task of its own; some hundreds do,
    /// and the first 1000 are read [default: 12 sentences in 8 languages]
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Keep this share of the weights in 16 bits, the ones that suffer most first
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    keep: Option<u8>,
    /// Show beside it what other shares cost and give; holds the model in memory once for each
    #[arg(long)]
    curve: bool,
    /// Print {"model", "path", "texts", "before", "rounded", "after", "matrices": […]}
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
const CURVE_PASSES: usize = 5;
/// Texts at most; more tell nothing new and take longer.
const MAX_TEXTS: usize = 1000;
/// Fewer texts teach the rounding what is theirs alone.
const MIN_TEXTS_TO_ROUND: usize = 100;
/// One text in so many judges and does not teach; it has no common factor with the number of tasks.
const JUDGES: usize = 5;
/// Judges at most: each matrix takes a pass over them.
const MAX_JUDGES: usize = 50;

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
    let (teachers, judges) = split(&inputs);
    let calibration = Calibration {
        settings,
        arguments: at(Precision::Fast),
        located: &located,
        checkpoint: &checkpoint,
        expected: vectors(&exact, &judges)?,
        exact: &exact,
        judges: &judges,
    };
    let before = calibration.distance(&calibration.load(Fit::default())?)?;
    let (learned, rounded) = calibration.learn(&teachers, before)?;
    let measured = calibration.sensitivities(learned.as_ref())?;
    let kept = match args.keep {
        Some(percent) => share(&measured, percent),
        None => sufferers(&measured),
    };
    let load = |balanced: &[usize]| {
        calibration.load(Fit {
            balanced,
            rounded: learned.as_ref(),
        })
    };
    let calibrated = load(&kept)?;
    let after = calibration.distance(&calibrated)?;
    calibrated.write_packed(&checkpoint, &path)?;
    drop(calibrated);
    let shares = CURVE.iter().filter(|_| args.curve);
    let mixes = shares.map(|percent| Ok((*percent, load(&share(&measured, *percent))?)));
    let mixes = mixes.collect::<anyhow::Result<Vec<_>>>()?;
    let curve = calibration.curve(&mixes)?;
    let matrices = Matrix::all(measured, &kept);
    let report = Report {
        model: &located.name,
        path,
        texts: judges.len(),
        before,
        rounded,
        after,
        kept_percent: Matrix::kept_percent(&matrices),
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

/// The texts that teach the rounding, none where there are few, and those that distances are measured
/// on.
fn split<'a>(inputs: &[Input<'a>]) -> (Vec<Input<'a>>, Vec<Input<'a>>) {
    if inputs.len() < MIN_TEXTS_TO_ROUND {
        return (Vec::new(), inputs.to_vec());
    }
    let is_judge = |number: usize| number.is_multiple_of(JUDGES) && number <= JUDGES * MAX_JUDGES;
    let (judges, teachers): (Vec<_>, Vec<_>) =
        (1..).zip(inputs).partition(|(number, _)| is_judge(*number));
    let inputs = |numbered: Vec<(usize, &Input<'a>)>| {
        let inputs = numbered.into_iter().map(|(_, input)| *input);
        inputs.collect()
    };
    (inputs(teachers), inputs(judges))
}

/// A model, and the texts that its forms at `fast` are judged on.
struct Calibration<'a> {
    settings: &'a Settings,
    /// Of a model at `fast`.
    arguments: ModelArgs,
    located: &'a Located,
    checkpoint: &'a Checkpoint,
    exact: &'a Embedder,
    judges: &'a [Input<'a>],
    /// What `exact` makes of the judges.
    expected: Vec<Vec<f32>>,
}

impl Calibration<'_> {
    fn load(&self, fit: Fit<'_>) -> anyhow::Result<Embedder> {
        let (arguments, settings) = (&self.arguments, self.settings);
        model::load_unpacked(self.located, self.checkpoint, arguments, fit, settings)
    }

    fn distance(&self, embedder: &Embedder) -> anyhow::Result<Distance> {
        let found = vectors(embedder, self.judges)?;
        Ok(Distance::between(&self.expected, &found))
    }

    /// Rounds the weights for texts, if there are any; the matrices are given back if they are nearer
    /// than `before`.
    fn learn(
        &self,
        teachers: &[Input<'_>],
        before: Distance,
    ) -> anyhow::Result<(Option<RoundedMatrices>, Option<Rounded>)> {
        if teachers.is_empty() {
            return Ok((None, None));
        }
        let bar = progress::rounding(&self.located.name);
        let matrices = round(self.exact, self.checkpoint, teachers, &|done, steps| {
            bar.set_length(steps as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let matrices = matrices?;
        let fitted = self.load(Fit {
            balanced: &[],
            rounded: Some(&matrices),
        })?;
        let distance = self.distance(&fitted)?;
        let rounded = Rounded {
            texts: teachers.len(),
            kept: distance.mean < before.mean,
            distance,
        };
        Ok((rounded.kept.then_some(matrices), Some(rounded)))
    }

    /// What each matrix costs in 8 bits.
    fn sensitivities(&self, rounded: Option<&RoundedMatrices>) -> anyhow::Result<Vec<Sensitivity>> {
        let bar = progress::calibrating(&self.located.name);
        let progress = |done, steps| {
            bar.set_length(steps as u64);
            bar.set_position(done as u64);
        };
        let measured = sensitivities(self.exact, self.checkpoint, rounded, self.judges, &progress);
        bar.finish_and_clear();
        Ok(measured?)
    }

    /// What `exact` and mixes with so many percent in 16 bits cost and give, nothing if there are no
    /// mixes. The models run in turn, so that whatever else the machine does slows them alike.
    fn curve(&self, mixes: &[(u8, Embedder)]) -> anyhow::Result<Vec<Point>> {
        if mixes.is_empty() {
            return Ok(Vec::new());
        }
        let mixes = mixes.iter().map(|(percent, model)| (Some(*percent), model));
        let models: Vec<_> = std::iter::once((None, self.exact)).chain(mixes).collect();
        let points = models.iter().map(|(percent, model)| {
            Ok(Point {
                percent: *percent,
                tokens_per_s: 0.0,
                distance: self.distance(model)?,
            })
        });
        let mut points = points.collect::<anyhow::Result<Vec<_>>>()?;
        for _ in 0..CURVE_PASSES {
            for (point, (_, model)) in points.iter_mut().zip(&models) {
                let speed = tokens_per_s(model, self.judges)?;
                point.tokens_per_s = point.tokens_per_s.max(speed);
            }
        }
        Ok(points)
    }
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
    let start = Instant::now();
    let embedded = embedder.embed(inputs, &EmbedOptions::default())?;
    let tokens: usize = embedded.iter().map(|row| row.tokens).sum();
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use quintet_engine::{Content, Task};

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
    fn texts_that_judge_do_not_teach_and_have_every_task() {
        let ids: Vec<[u32; 1]> = (0..400).map(|id| [id]).collect();
        let inputs: Vec<Input<'_>> = ids
            .iter()
            .map(|ids| Input {
                content: Content::TokenIds(ids),
                task: Task::RAW,
            })
            .collect();
        let numbers = |inputs: &[Input<'_>]| -> Vec<u32> {
            let numbers = inputs.iter().map(|input| match input.content {
                Content::TokenIds(ids) => ids[0],
                Content::Text(_) => panic!("ids were given"),
            });
            numbers.collect()
        };
        let (teachers, judges) = split(&inputs);
        let (teachers, judges) = (numbers(&teachers), numbers(&judges));
        assert_eq!(
            (teachers.len(), judges.len()),
            (400 - MAX_JUDGES, MAX_JUDGES)
        );
        assert!(judges.iter().all(|judge| !teachers.contains(judge)));
        let tasks = 6;
        assert!((0..tasks).all(|task| judges.iter().any(|judge| judge % tasks == task)));

        let (teachers, judges) = split(&inputs[..MIN_TEXTS_TO_ROUND - 1]);
        assert_eq!((teachers.len(), judges.len()), (0, MIN_TEXTS_TO_ROUND - 1));
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
