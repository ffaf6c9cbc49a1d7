//! `quintet bench`: tokens per second, beside what the processor can do.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use cpu_time::ProcessTime;
use quintet_engine::{Content, EmbedError, EmbedOptions, Embedder, Input, ModelConfig, Task};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::args::ModelArgs;
use crate::failure::UserError;
use crate::model;
use crate::output::Output;
use crate::settings::Settings;
use crate::table::{Align, Paint, columns, size};

/// Measure speed against what the processor can do.
///
/// Runs each workload once to warm up, then --repeat times, the workloads taking turns, and prints
/// medians: wall and CPU seconds, tokens per second, and the share of the processor's f32 peak (as
/// measured here, times threads) that the weight products reach. Attention and the rest of the work
/// are in the time but not in the share.
#[derive(Args, Debug)]
#[command(after_help = "\
FILE is JSON: {\"workloads\": {\"name\": [[0, 17, …, 2], …], …}}, a list of token-id sequences for each \
name. Without it, sequences of arbitrary ids are used: 1x16 (one of 16 tokens), 1x128, 8x128, 1x512.

Examples:
  quintet bench --threads 1
  quintet bench --model DIR --workload workloads.json --repeat 5 --json")]
pub(crate) struct BenchArgs {
    /// Token ids to run
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Runs of each workload
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Adapter to run with
    #[arg(long, short, value_name = "TASK", default_value = quintet_engine::RAW)]
    task: String,
    /// Print {"workloads": […], "peak_gflops", "max_rss_bytes", …}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// Named lists of sequences, in the order of the file.
struct Workloads(Vec<(String, Vec<Vec<u32>>)>);

/// The built-in workloads: sequences and tokens of each.
const BUILT_IN: [(usize, usize); 4] = [(1, 16), (1, 128), (8, 128), (1, 512)];

#[derive(Serialize)]
struct Report {
    model: String,
    task: String,
    isa: String,
    threads: usize,
    repeat: u16,
    load_s: f64,
    /// Of one core.
    peak_gflops: f64,
    max_rss_bytes: Option<u64>,
    workloads: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    name: String,
    tokens: usize,
    sequences: usize,
    wall_s: f64,
    cpu_s: f64,
    tokens_per_s: f64,
    peak_share: f64,
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs, settings: &Settings) -> anyhow::Result<()> {
    let from_file = args.workload.as_deref().map(Workloads::read).transpose()?;
    let located = model::locate(args.model.model.as_deref(), settings)?;
    let start = Instant::now();
    let embedder = model::load_located(&located, &args.model, settings)?;
    let load_s = start.elapsed().as_secs_f64();
    let task = embedder.task(&args.task)?;
    let workloads = from_file.unwrap_or_else(|| Workloads::built_in(embedder.config()));
    let cpu = embedder.cpu();
    let (isa, threads) = (cpu.isa().to_string(), cpu.threads());
    // Two measurements around the work: a processor that was busy elsewhere shows its best in one.
    let peak_before = cpu.measure_peak_gflops();
    let times = measure(&workloads, &embedder, task, args.repeat)?;
    let peak_gflops = peak_before.max(cpu.measure_peak_gflops());
    let flops_per_token = flops_per_token(embedder.config());
    let peak = peak_gflops * 1e9 * threads as f64;
    let workloads = workloads
        .0
        .into_iter()
        .zip(times)
        .map(|((name, sequences), times)| {
            let tokens: usize = sequences.iter().map(Vec::len).sum();
            let wall_s = median(times.iter().map(|time| time.wall_s).collect());
            Measured {
                name,
                tokens,
                sequences: sequences.len(),
                wall_s,
                cpu_s: median(times.iter().map(|time| time.cpu_s).collect()),
                tokens_per_s: tokens as f64 / wall_s,
                peak_share: tokens as f64 * flops_per_token / (wall_s * peak),
            }
        });
    let report = Report {
        workloads: workloads.collect(),
        model: located.name,
        task: args.task.clone(),
        isa,
        threads,
        repeat: args.repeat,
        load_s,
        peak_gflops,
        max_rss_bytes: max_rss_bytes(),
    };
    let mut output = Output::stdout();
    if args.json {
        output.json(&report)?;
    } else {
        let paint = Paint {
            on: settings.colour,
        };
        write!(output, "{}", report.drawn(paint))?;
    }
    Ok(output.finish()?)
}

struct Time {
    wall_s: f64,
    cpu_s: f64,
}

/// Times of each workload, one per repeat.
fn measure(
    workloads: &Workloads,
    embedder: &Embedder,
    task: Task,
    repeat: u16,
) -> anyhow::Result<Vec<Vec<Time>>> {
    let options = EmbedOptions::default();
    let mut times: Vec<Vec<Time>> = workloads.0.iter().map(|_| Vec::new()).collect();
    for round in 0..=repeat {
        for ((name, sequences), times) in workloads.0.iter().zip(&mut times) {
            let inputs: Vec<Input<'_>> = sequences
                .iter()
                .map(|token_ids| Input {
                    content: Content::TokenIds(token_ids),
                    task,
                })
                .collect();
            let (wall, cpu) = (Instant::now(), ProcessTime::now());
            embedder
                .embed(&inputs, &options)
                .map_err(|error: EmbedError| {
                    anyhow::Error::from(error).context(format!("workload `{name}` is refused"))
                })?;
            // The first round warms up.
            if round > 0 {
                times.push(Time {
                    wall_s: wall.elapsed().as_secs_f64(),
                    cpu_s: cpu.elapsed().as_secs_f64(),
                });
            }
        }
    }
    Ok(times)
}

impl Workloads {
    fn read(path: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct File {
            workloads: Workloads,
        }
        let text = std::fs::read(path).map_err(|error| {
            anyhow::Error::from(error).context(format!("cannot read `{}`", path.display()))
        })?;
        let File { workloads } = serde_json::from_slice(&text).map_err(|error| {
            anyhow::Error::from(error).context(
                UserError::new(format!("`{}` holds no workloads", path.display()))
                    .hint("write it as {\"workloads\": {\"name\": [[0, 17, 2], …]}}"),
            )
        })?;
        let is_empty = |(_, sequences): &(String, Vec<Vec<u32>>)| sequences.is_empty();
        if workloads.0.is_empty() || workloads.0.iter().any(is_empty) {
            return Err(
                UserError::new(format!("`{}` has an empty workload", path.display()))
                    .hint("a workload is a list of one or more sequences of token ids")
                    .into(),
            );
        }
        Ok(workloads)
    }

    /// Arbitrary ids between `<s>` and `</s>`, the same in every run.
    fn built_in(config: &ModelConfig) -> Self {
        let mut state = 1u64;
        let vocab_size = config.vocab_size as u64;
        let mut next_id = move || {
            // Knuth's MMIX generator; its high bits are good enough for ids.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            4 + ((state >> 33) % vocab_size.saturating_sub(5).max(1)) as u32
        };
        let mut sequence = |tokens: usize| {
            let mut token_ids: Vec<u32> = (0..tokens).map(|_| next_id()).collect();
            token_ids[0] = 0;
            token_ids[tokens - 1] = 2;
            token_ids
        };
        let fitting = BUILT_IN
            .into_iter()
            .filter(|(_, tokens)| *tokens <= config.max_tokens);
        Self(
            fitting
                .map(|(count, tokens)| {
                    let sequences = (0..count).map(|_| sequence(tokens)).collect();
                    (format!("{count}x{tokens}"), sequences)
                })
                .collect(),
        )
    }
}

impl<'de> Deserialize<'de> for Workloads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Workloads;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of lists of token-id sequences")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Workloads, A::Error> {
                let mut workloads = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    workloads.push(entry);
                }
                Ok(Workloads(workloads))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Multiplications and additions with weights: 2 · layers · (4H² + 2HF).
fn flops_per_token(config: &ModelConfig) -> f64 {
    let (hidden, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
    2.0 * config.num_hidden_layers as f64 * (4.0 * hidden * hidden + 2.0 * hidden * inner)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// The process's largest resident size, where the system tells.
fn max_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

impl Report {
    fn drawn(&self, paint: Paint) -> String {
        let right = Align::Right;
        let head = [
            "workload",
            "sequences",
            "tokens",
            "wall s",
            "CPU s",
            "tokens/s",
            "of peak",
        ];
        let rows = self.workloads.iter().map(|workload| {
            vec![
                workload.name.clone(),
                workload.sequences.to_string(),
                workload.tokens.to_string(),
                format!("{:.4}", workload.wall_s),
                format!("{:.4}", workload.cpu_s),
                format!("{:.0}", workload.tokens_per_s),
                format!("{:.1} %", workload.peak_share * 100.0),
            ]
        });
        let head = head.map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let table = columns(
            &rows,
            &[Align::Left, right, right, right, right, right, right],
        );
        let (head, body) = table.split_once('\n').unwrap_or((&table, ""));
        let rss = self.max_rss_bytes.map_or(String::new(), |bytes| {
            format!(", {} resident at most", size(bytes))
        });
        let threads = if self.threads == 1 {
            "thread"
        } else {
            "threads"
        };
        format!(
            "{}, task {}, {} {threads}, {}, medians of {}\n\n{}\n{body}\n\
             loaded in {:.2} s{rss}; peak of a core {:.1} GFLOP/s f32\n",
            self.model,
            self.task,
            self.threads,
            self.isa,
            self.repeat,
            paint.with("2", head),
            self.load_s,
            self.peak_gflops,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_keep_the_order_of_the_file() {
        let workloads: Workloads = serde_json::from_str(r#"{"b": [[0, 2]], "a": [[1]]}"#).unwrap();
        let names: Vec<&str> = workloads.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
