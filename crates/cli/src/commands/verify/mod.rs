//! `quintet verify`: a model's numbers against published anchors or golden ones.

mod anchors;
mod goldens;
mod precision;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use quintet_engine::{EmbedError, Embedder, Precision};
use serde::Serialize;

use crate::args::ModelArgs;
use crate::failure::UserError;
use crate::model::{self, Located};
use crate::output::Output;
use crate::settings::Settings;
use crate::table::{Align, Paint, columns};

/// Compare a model's numbers with published or golden ones.
///
/// The released jina-embeddings-v3 is compared with hidden states that were published for it, for the
/// base model and all five adapters, from a text (which checks the tokenizer too) and from token ids.
/// Another model needs --goldens: a safetensors file as testdata/make_goldens.py writes it, with
/// seq/NAME/input_ids and seq/NAME/TASK/normalized, pooled, last_hidden_state and truncated_N. The
/// exit code is 1 when a number misses.
///
/// With --precision balanced or fast the numbers above are those of `exact`, and the vectors of the
/// other precision are then compared with it, for every task.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet verify
  quintet verify --precision fast
  quintet verify jinaai/jina-embeddings-v3-hf --json
  quintet verify testdata/checkpoints/original --goldens testdata/goldens/sequences.safetensors")]
pub(crate) struct VerifyArgs {
    /// Model, as --model names it
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,
    /// Compare with the reference's answers in this file
    #[arg(long, value_name = "FILE")]
    goldens: Option<PathBuf>,
    /// Print {"passed", "checks": [{"task", "what", "values", "worst", "tolerance", "passed"}, …]}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// One line of the table: numbers of one kind for one task.
#[derive(Debug, Serialize)]
struct Check {
    task: String,
    what: String,
    /// How many numbers were compared.
    values: usize,
    /// Largest difference of a component.
    worst: f32,
    tolerance: f32,
    passed: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    against: &'a str,
    passed: bool,
    checks: &'a [Check],
    notes: &'a [String],
}

/// What was compared, and what could not be.
#[derive(Default)]
struct Findings {
    checks: Vec<Check>,
    notes: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs, settings: &Settings) -> anyhow::Result<()> {
    let name = args.positional.as_deref().or(args.model.model.as_deref());
    let located = model::locate(name, settings)?;
    let goldens = args
        .goldens
        .as_deref()
        .map(goldens::Goldens::read)
        .transpose()?;
    let precision = args.model.precision;
    let exact = ModelArgs {
        precision: Precision::Exact,
        ..args.model.clone()
    };
    let embedder = model::load_located(&located, &exact, settings)?;
    let (mut findings, against) = match &goldens {
        Some(goldens) => (goldens.check(&embedder)?, "goldens"),
        None if precision != Precision::Exact && !is_released_shape(&embedder) => {
            (Findings::default(), "its own `exact`")
        }
        None => (check_anchors(&embedder)?, "published anchors"),
    };
    if precision != Precision::Exact {
        let other = model::load_located(&located, &args.model, settings)?;
        findings.checks.extend(precision::check(&embedder, &other)?);
    }
    let Findings { checks, notes } = findings;
    let missed = checks.iter().filter(|check| !check.passed).count();
    let mut output = Output::stdout();
    if args.json {
        let passed = missed == 0;
        let report = Report {
            model: &located.name,
            against,
            passed,
            checks: &checks,
            notes: &notes,
        };
        output.json(&report)?;
    } else {
        writeln!(output, "{} against {against}", located.name)?;
        write!(
            output,
            "{}",
            table(
                &checks,
                Paint {
                    on: settings.colour
                }
            )
        )?;
        for note in &notes {
            writeln!(output, "note: {note}")?;
        }
    }
    output.finish()?;
    match missed {
        0 => Ok(()),
        _ => Err(
            UserError::new(format!("{missed} of {} checks miss", checks.len()))
                .hint(
                    "the weights differ from the reference's, or this build computes wrongly here: \
                   compare with QUINTET_ISA=portable, and pull the model again",
                )
                .into(),
        ),
    }
}

/// Lets a model that goes into service prove itself: against `goldens` if they are given, against the
/// published numbers if it is the released one. Others have nothing to be compared with.
///
/// # Errors
/// When a number misses, and when the goldens cannot be read.
pub(crate) fn prove(
    embedder: &Embedder,
    located: &Located,
    goldens: Option<&Path>,
) -> anyhow::Result<()> {
    let mut findings = match (goldens, &located.hub_id) {
        (Some(path), _) => goldens::Goldens::read(path)?.check(embedder)?,
        (None, Some(id)) if RELEASED.contains(&id.repo().as_str()) => check_anchors(embedder)?,
        (None, _) => return Ok(()),
    };
    findings.allow(precision::slack(embedder.precision()));
    match findings.checks.iter().find(|check| !check.passed) {
        None => Ok(()),
        Some(missed) => Err(UserError::new(format!(
            "the model's numbers for task `{}` differ by {} from the reference's, expected at most {}",
            missed.task, missed.worst, missed.tolerance
        ))
        .hint("`quintet verify` shows all of them; pull the model again")
        .into()),
    }
}

/// Repositories that hold the weights whose numbers were published.
const RELEASED: [&str; 2] = ["jinaai/jina-embeddings-v3", "jinaai/jina-embeddings-v3-hf"];

impl Check {
    /// Compares numbers one by one. A NaN is a miss.
    fn new(
        task: &str,
        what: &str,
        tolerance: f32,
        pairs: impl Iterator<Item = (f32, f32)>,
    ) -> Self {
        let mut check = Self {
            task: task.to_owned(),
            what: what.to_owned(),
            values: 0,
            worst: 0.0,
            tolerance,
            passed: true,
        };
        for (found, expected) in pairs {
            check.add(found, expected);
        }
        check
    }

    fn add(&mut self, found: f32, expected: f32) {
        let difference = (found - expected).abs();
        self.values += 1;
        if difference.is_nan() || difference > self.worst {
            self.worst = difference;
        }
        self.passed &= difference <= self.tolerance;
    }
}

/// Vocabulary, layers and hidden size.
fn shape(embedder: &Embedder) -> (usize, usize, usize) {
    let config = embedder.config();
    (
        config.vocab_size,
        config.num_hidden_layers,
        config.hidden_size,
    )
}

fn is_released_shape(embedder: &Embedder) -> bool {
    shape(embedder)
        == (
            anchors::VOCAB_SIZE,
            anchors::NUM_HIDDEN_LAYERS,
            anchors::HIDDEN_SIZE,
        )
}

fn check_anchors(embedder: &Embedder) -> anyhow::Result<Findings> {
    if !is_released_shape(embedder) {
        let (vocab, layers, hidden) = shape(embedder);
        return Err(UserError::new(format!(
            "there is nothing to compare with: this model has {layers} layers, hidden size {hidden} and {vocab} \
             ids, published numbers are for 24, 1024 and 250002"
        ))
        .hint("give the reference's answers for this model by --goldens FILE")
        .into());
    }
    let mut findings = Findings::default();
    match embedder.tokenizer() {
        None => findings
            .notes
            .push("the model has no tokenizer: the text form was left out".to_owned()),
        Some(tokenizer) => {
            let ids = tokenizer.encode(anchors::TEXT)?;
            let count = (ids.len() as f32, anchors::TEXT_TOKENS as f32);
            let what = format!("tokens of the text ({})", anchors::TEXT_TOKENS);
            let check = Check::new("any", &what, 0.0, std::iter::once(count));
            let is_right = check.passed;
            findings.checks.push(check);
            if is_right {
                let origin = (anchors::TEXT_ROW, anchors::TEXT_COLUMN);
                findings.compare("text", embedder, &ids, origin, &anchors::TEXT_ANCHORS)?;
            }
        }
    }
    let origin = (anchors::IDS_ROW, anchors::IDS_COLUMN);
    findings.compare(
        "token ids",
        embedder,
        &anchors::TOKEN_IDS,
        origin,
        &anchors::IDS_ANCHORS,
    )?;
    Ok(findings)
}

impl Findings {
    /// Lets every number differ by `slack` times as much.
    fn allow(&mut self, slack: f32) {
        for check in &mut self.checks {
            check.tolerance *= slack;
            check.passed = check.worst <= check.tolerance;
        }
    }

    /// Compares a window of the hidden states, its first row and column at `origin`, task by task.
    fn compare<const COLUMNS: usize>(
        &mut self,
        form: &str,
        embedder: &Embedder,
        token_ids: &[u32],
        origin: (usize, usize),
        anchors: &[(&str, [[f32; COLUMNS]; 3])],
    ) -> Result<(), EmbedError> {
        for (name, expected) in anchors {
            let Ok(task) = embedder.task(name) else {
                self.notes.push(format!(
                    "the model has no adapter `{name}`: left out ({form})"
                ));
                continue;
            };
            let hidden = embedder.hidden_states(token_ids, task)?;
            let found = hidden
                .iter()
                .skip(origin.0)
                .flat_map(|row| row[origin.1..].iter().take(COLUMNS));
            let pairs = found.copied().zip(expected.as_flattened().iter().copied());
            let what = format!("hidden states, {form}");
            self.checks
                .push(Check::new(name, &what, anchors::TOLERANCE, pairs));
        }
        Ok(())
    }
}

fn table(checks: &[Check], paint: Paint) -> String {
    let head = ["task", "compared", "values", "worst", "allowed", ""]
        .map(str::to_owned)
        .to_vec();
    let rows = checks.iter().map(|check| {
        vec![
            check.task.clone(),
            check.what.clone(),
            check.values.to_string(),
            format!("{:.1e}", check.worst),
            format!("{:.0e}", check.tolerance),
            if check.passed { "pass" } else { "MISS" }.to_owned(),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let right = Align::Right;
    let text = columns(
        &rows,
        &[Align::Left, Align::Left, right, right, right, Align::Left],
    );
    if !paint.on {
        return text;
    }
    let line = |line: &str| match line.strip_suffix("MISS") {
        Some(start) => format!("{start}{}\n", paint.with("1;31", "MISS")),
        None => match line.strip_suffix("pass") {
            Some(start) => format!("{start}{}\n", paint.with("32", "pass")),
            None => format!("{}\n", paint.with("2", line)),
        },
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_a_miss() {
        let check = Check::new("raw", "x", 1.0, [(f32::NAN, 0.0), (0.0, 0.0)].into_iter());
        assert!(!check.passed);
        assert!(check.worst.is_nan());
    }

    #[test]
    fn the_difference_allowed_is_still_a_pass() {
        let check = Check::new("raw", "x", 0.5, [(1.0, 0.5), (0.25, 0.5)].into_iter());
        assert!(check.passed);
        assert_eq!((check.values, check.worst), (2, 0.5));
    }
}
