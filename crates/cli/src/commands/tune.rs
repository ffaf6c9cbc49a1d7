//! `quintet tune`: which vectors are small enough and good enough, measured on the user's own queries.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use quintet_engine::quality::{
    BeirCollection, BeirFiles, Collection, Difference, Measurement, QualityError, SAMPLE, Vectors,
    evaluate, recommended,
};
use quintet_engine::{Precision, Truncate};
use serde::Serialize;

use crate::args::{AdapterArg, ModelArgs, ThreadArgs, precision};
use crate::failure::{UserError, note};
use crate::input::InputError;
use crate::model::{self, Located};
use crate::output::Output;
use crate::progress;
use crate::settings::Settings;
use crate::table::{Align, columns, grouped, size};

/// Measure what smaller vectors cost, on your own documents and queries.
///
/// Embeds a collection once for each precision, ranks its documents for each query with vectors of
/// every Matryoshka size, as float, int8 and binary, and shows nDCG@10 and recall beside the bytes
/// that they take. Recommended are the smallest vectors that keep the wanted share of the nDCG@10
/// of full-size floats in `exact`, and the fastest precision that keeps it with them.
///
/// A collection is CSV or JSONL. The simplest is CSV whose first line is `query,document`, and a
/// query with a document that it should find in each line. `id` and `relevant` name further
/// documents: in CSV with spaces between, in JSONL as a list, or as an object with grades.
///
/// A folder as BEIR lays it out is a collection too: `corpus.jsonl`, `queries.jsonl` and
/// `qrels/test.tsv`, or another file of `qrels` that --split names.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet tune                              a small sample
  quintet tune questions.csv                query,document
  quintet tune collection.jsonl --keep 95 --precision exact
  quintet tune scifact --split train        a folder as BEIR lays it out

Lines of JSONL:
  {\"query\": \"How do I get a new password?\", \"document\": \"Click on Forgotten below the form.\"}
  {\"id\": \"d2\", \"document\": \"Parcels take two days.\"}
  {\"query\": \"When does my parcel come?\", \"relevant\": [\"d2\"]}")]
pub(crate) struct TuneArgs {
    /// Documents and queries as CSV or JSONL, `-` for stdin, or a BEIR folder
    /// [default: a built-in sample]
    #[arg(value_name = "COLLECTION")]
    collection: Option<PathBuf>,
    /// Which relevances of a BEIR folder: the file `qrels/NAME.tsv` [default: test, or the only one]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Share of nDCG@10 that the recommended vectors shall keep
    #[arg(long, value_name = "PERCENT", default_value = "98", value_parser = percent)]
    keep: f64,
    /// Places that recall is taken over
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    recall_at: u16,
    /// Documents that storage is computed for
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    documents: u64,
    /// Price of embedding, in dollars per million tokens
    #[arg(long, value_name = "USD", value_parser = dollars)]
    price: Option<f64>,
    /// Price of keeping vectors, in dollars per GB and month
    #[arg(long, value_name = "USD", value_parser = dollars)]
    storage_price: Option<f64>,
    /// Cut texts that are longer than the model's context instead of refusing them
    #[arg(long)]
    truncate: bool,
    /// Print {"model", "documents", "queries", "measurements": […], "recommended", …}
    #[arg(long)]
    json: bool,

    /// Model: a hub id that was pulled, a directory, or a .safetensors or .gguf file
    /// [env: QUINTET_MODEL] [default: jinaai/jina-embeddings-v3 if it was pulled, else the built-in mini]
    #[arg(long, short, value_name = "ID|PATH", help_heading = "Model")]
    model: Option<String>,
    /// Add an adapter of your own, as `quintet embed` does
    #[arg(long = "adapter", value_name = "NAME=PATH", help_heading = "Model")]
    adapters: Vec<AdapterArg>,
    /// Measure this precision only; may be repeated [default: all three]
    #[arg(long = "precision", value_name = "PRECISION", help_heading = "Model", value_parser = precision())]
    precisions: Vec<Precision>,
    #[command(flatten)]
    threads: ThreadArgs,
}

impl TuneArgs {
    /// The collection, where it is a folder.
    fn beir_folder(&self) -> Option<&Path> {
        self.collection.as_deref().filter(|path| path.is_dir())
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    let is_one = (0.0..=100.0).contains(&percent);
    is_one
        .then_some(percent)
        .ok_or_else(|| "expected 0 to 100".to_owned())
}

fn dollars(text: &str) -> Result<f64, String> {
    let dollars: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    let is_price = dollars.is_finite() && dollars >= 0.0;
    is_price
        .then_some(dollars)
        .ok_or_else(|| "expected 0 or more".to_owned())
}

/// One precision's pass over the collection.
struct Pass {
    precision: Precision,
    tokens_per_s: f64,
    measurements: Vec<Measurement>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    documents: Texts,
    queries: Texts,
    recall_at: usize,
    precisions: Vec<Speed>,
    measurements: Vec<Measured>,
    /// 0 to 1.
    keep: f64,
    /// A place in `measurements`.
    recommended: Option<usize>,
    projection: Projection,
}

#[derive(Serialize)]
struct Texts {
    count: usize,
    tokens: usize,
}

#[derive(Serialize)]
struct Speed {
    precision: &'static str,
    tokens_per_s: f64,
}

#[derive(Serialize)]
struct Measured {
    precision: &'static str,
    dimensions: usize,
    embedding_type: &'static str,
    bytes: usize,
    ndcg: f64,
    recall: f64,
    /// nDCG less that of full-size floats in the first precision, and half of its 95 % interval.
    difference: f64,
    interval: Option<f64>,
}

/// What the user's own number of documents comes to.
#[derive(Serialize)]
struct Projection {
    documents: u64,
    /// As many as the collection's have on average.
    tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding_usd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_usd_per_gb_month: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(args: &TuneArgs, settings: &Settings) -> anyhow::Result<()> {
    let collection = read(args)?;
    let located = model::locate(args.model.as_deref(), settings)?;
    let mut precisions = Precision::ALL.to_vec();
    precisions.retain(|it| args.precisions.is_empty() || args.precisions.contains(it));
    let mut passes = Vec::new();
    let mut tokens = (0, 0);
    for precision in precisions {
        let (pass, vectors) = pass(precision, &collection, &located, args, settings)?;
        tokens = (vectors.document_tokens, vectors.query_tokens);
        passes.push(pass);
    }
    let (documents, queries) = (collection.documents.len(), collection.queries.len());
    let projected = args.documents as f64 * tokens.0 as f64 / documents as f64;
    let keep = args.keep / 100.0;
    let report = Report {
        model: &located.name,
        documents: Texts {
            count: documents,
            tokens: tokens.0,
        },
        queries: Texts {
            count: queries,
            tokens: tokens.1,
        },
        recall_at: args.recall_at.into(),
        measurements: measured(&passes),
        keep,
        recommended: recommendation(&passes, keep),
        projection: Projection {
            documents: args.documents,
            tokens: projected as u64,
            embedding_usd: args.price.map(|price| price * projected / 1e6),
            storage_usd_per_gb_month: args.storage_price,
        },
        precisions: passes
            .iter()
            .map(|pass| Speed {
                precision: pass.precision.name(),
                tokens_per_s: pass.tokens_per_s,
            })
            .collect(),
    };
    let mut output = Output::stdout();
    match args.json {
        true => output.json(&report)?,
        false => write!(output, "{}", report.drawn())?,
    }
    Ok(output.finish()?)
}

fn read(args: &TuneArgs) -> anyhow::Result<Collection> {
    let folder = args.beir_folder();
    if let (None, Some(_)) = (folder, &args.split) {
        return Err(
            UserError::new("--split is given, and the collection is no BEIR folder")
                .hint("name a folder with corpus.jsonl, queries.jsonl and qrels")
                .into(),
        );
    }
    match (folder, &args.collection) {
        (Some(folder), _) => read_folder(folder, args.split.as_deref()),
        (None, Some(path)) => Ok(Collection::read(&text(path)?)?),
        (None, None) => {
            note("no collection is named: measuring on a small built-in sample");
            Ok(Collection::read(SAMPLE)?)
        }
    }
}

/// A folder as BEIR lays it out.
fn read_folder(folder: &Path, split: Option<&str>) -> anyhow::Result<Collection> {
    let missing = [BeirFiles::CORPUS, BeirFiles::QUERIES]
        .into_iter()
        .find(|name| !folder.join(name).exists());
    if let Some(name) = missing {
        let words = format!("the folder `{}` has no `{name}`", folder.display());
        return Err(UserError::new(words)
            .hint("a folder as BEIR lays it out has corpus.jsonl, queries.jsonl and qrels/test.tsv")
            .into());
    }
    let split = chosen_split(&folder.join("qrels"), split)?;
    let qrels_name = format!("qrels/{split}.tsv");
    let read = BeirCollection::read(&BeirFiles {
        corpus: &text(&folder.join(BeirFiles::CORPUS))?,
        queries: &text(&folder.join(BeirFiles::QUERIES))?,
        qrels: &text(&folder.join(&qrels_name))?,
        qrels_name: &qrels_name,
    })?;
    if read.empty_documents > 0 {
        let (count, file) = (read.empty_documents, BeirFiles::CORPUS);
        note(&format!(
            "documents without a text are left out: {count} of {file}"
        ));
    }
    Ok(read.collection)
}

/// Which of the relevances: those that are asked for, those of the test, or the only ones.
fn chosen_split(folder: &Path, asked: Option<&str>) -> anyhow::Result<String> {
    let entries = std::fs::read_dir(folder).map_err(|source| InputError::Open {
        path: folder.to_owned(),
        source,
    })?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let splits = names.filter_map(|name| Some(name.strip_suffix(".tsv")?.to_owned()));
    let mut splits: Vec<String> = splits.collect();
    splits.sort();
    let wanted = asked.unwrap_or("test");
    if splits.iter().any(|split| split == wanted) {
        return Ok(wanted.to_owned());
    }
    if let (None, [only]) = (asked, &splits[..]) {
        return Ok(only.clone());
    }
    let files: Vec<String> = splits.iter().map(|it| format!("`{it}.tsv`")).collect();
    let hint = match files.is_empty() {
        true => {
            "its lines are a query's id, a document's id and a score with tabs between".to_owned()
        }
        false => format!("name one with --split; it has {}", files.join(", ")),
    };
    let words = format!("`{}` has no `{wanted}.tsv`", folder.display());
    Err(UserError::new(words).hint(hint).into())
}

fn text(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|source| InputError::Open {
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        UserError::new(format!("line {line} of `{}` is not UTF-8", path.display()))
            .hint("save the collection as UTF-8")
    })?;
    Ok(text)
}

/// The model in one precision over all texts.
fn pass(
    precision: Precision,
    collection: &Collection,
    located: &Located,
    args: &TuneArgs,
    settings: &Settings,
) -> anyhow::Result<(Pass, Vectors)> {
    let model = ModelArgs {
        model: args.model.clone(),
        adapters: args.adapters.clone(),
        precision,
        threads: args.threads.clone(),
    };
    let embedder = model::load_located(located, &model, settings)?;
    let truncate = match args.truncate {
        true => Truncate::End,
        false => Truncate::Error,
    };
    let bar = progress::measuring(precision.name());
    let started = Instant::now();
    let vectors = Vectors::embed(&embedder, collection, truncate, &|done, texts| {
        bar.set_length(texts as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let vectors = vectors.map_err(|error| refused(error, args.beir_folder()))?;
    let tokens = vectors.document_tokens + vectors.query_tokens;
    let tokens_per_s = tokens as f64 / started.elapsed().as_secs_f64();
    let sizes = &embedder.config().matryoshka_dimensions;
    let pass = Pass {
        precision,
        tokens_per_s,
        measurements: evaluate(collection, &vectors, sizes, args.recall_at.into()),
    };
    Ok((pass, vectors))
}

fn refused(error: QualityError, beir_folder: Option<&Path>) -> anyhow::Error {
    let mut words = error.to_string();
    match (error, beir_folder) {
        (QualityError::Embed(error), _) => return error.into(),
        (QualityError::TooLong { what, .. }, Some(folder)) => {
            let file = match what {
                "query" => BeirFiles::QUERIES,
                _ => BeirFiles::CORPUS,
            };
            words = format!("in `{}`, {words}", folder.join(file).display());
        }
        _ => {}
    }
    UserError::new(words)
        .hint("--truncate cuts what is too long")
        .into()
}

/// Floats at full size in the most exact precision.
fn reference(passes: &[Pass]) -> Option<&Measurement> {
    let measurements = passes.first()?.measurements.iter();
    let floats = measurements.filter(|it| it.embedding_type == "float");
    floats.max_by_key(|it| it.dimensions)
}

fn measured(passes: &[Pass]) -> Vec<Measured> {
    let Some(reference) = reference(passes) else {
        return Vec::new();
    };
    let measurements = passes.iter().flat_map(|pass| {
        let measurements = pass.measurements.iter();
        measurements.map(|it| (pass.precision, it))
    });
    measurements
        .map(|(precision, it)| {
            let Difference { mean, interval } = it.difference(reference);
            Measured {
                precision: precision.name(),
                dimensions: it.dimensions,
                embedding_type: it.embedding_type,
                bytes: it.bytes,
                ndcg: it.mean_ndcg(),
                recall: it.mean_recall(),
                difference: mean,
                interval,
            }
        })
        .collect()
}

/// The place, among those of all passes, of the smallest vectors that keep enough in the first pass, in
/// the fastest precision that keeps enough with them.
fn recommendation(passes: &[Pass], keep: f64) -> Option<usize> {
    let reference = reference(passes)?;
    let place = recommended(&passes.first()?.measurements, reference, keep)?;
    let bound = keep * reference.mean_ndcg();
    let keeps = |pass: &Pass| pass.measurements[place].mean_ndcg() >= bound;
    let fitting = passes.iter().enumerate().filter(|(_, pass)| keeps(pass));
    let (fastest, pass) =
        fitting.max_by(|(_, a), (_, b)| a.tokens_per_s.total_cmp(&b.tokens_per_s))?;
    Some(fastest * pass.measurements.len() + place)
}

const TYPES: [&str; 3] = ["float", "int8", "binary"];

impl Report<'_> {
    fn drawn(&self) -> String {
        let recall = format!("recall@{}, %", self.recall_at);
        let mut rows = self.rows("nDCG@10, %", |it| format!("{:.1}", 100.0 * it.ndcg));
        rows.push(Vec::new());
        rows.extend(self.rows(&recall, |it| format!("{:.1}", 100.0 * it.recall)));
        rows.push(Vec::new());
        rows.extend(self.storage());
        let mut align = vec![Align::Left, Align::Left];
        align.resize(2 + self.sizes().len(), Align::Right);
        format!(
            "{}: {} documents, {} queries\n\n{}\n{}\n{}",
            self.model,
            grouped(self.documents.count),
            grouped(self.queries.count),
            columns(&rows, &align),
            self.embedding(),
            self.advice(),
        )
    }

    fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.measurements.iter().map(|it| it.dimensions).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn head(&self, title: &str) -> Vec<String> {
        let mut head = vec![title.to_owned(), String::new()];
        head.extend(self.sizes().iter().map(usize::to_string));
        head
    }

    fn of<'a>(&'a self, precision: &'a str, kind: &'a str) -> impl Iterator<Item = &'a Measured> {
        let all = self.measurements.iter();
        all.filter(move |it| it.precision == precision && it.embedding_type == kind)
    }

    /// A line for each precision and type, a column for each size.
    fn rows(&self, title: &str, cell: impl Fn(&Measured) -> String) -> Vec<Vec<String>> {
        let mut rows = vec![self.head(title)];
        for speed in &self.precisions {
            for kind in TYPES {
                let mut row = vec![speed.precision.to_owned(), kind.to_owned()];
                row.extend(self.of(speed.precision, kind).map(&cell));
                rows.push(row);
            }
        }
        rows
    }

    /// What a type and a size take, which is the same in each precision.
    fn storage(&self) -> Vec<Vec<String>> {
        let documents = self.projection.documents;
        let first = self.precisions.first().map_or("", |it| it.precision);
        let mut rows = vec![self.head(&format!("{} documents", grouped(documents as usize)))];
        let mut push = |what: &str, kind: &str, cell: &dyn Fn(f64) -> String| {
            let mut row = vec![what.to_owned(), kind.to_owned()];
            row.extend(
                self.of(first, kind)
                    .map(|it| cell(it.bytes as f64 * documents as f64)),
            );
            rows.push(row);
        };
        for kind in TYPES {
            push("storage", kind, &|bytes| size(bytes as u64));
        }
        if let Some(price) = self.projection.storage_usd_per_gb_month {
            for kind in TYPES {
                push("a month", kind, &|bytes| {
                    format!("${:.2}", price * bytes / 1e9)
                });
            }
        }
        rows
    }

    /// What embedding them all takes.
    fn embedding(&self) -> String {
        let projection = &self.projection;
        let price = projection.embedding_usd;
        let price = price.map_or(String::new(), |usd| format!(", ${usd:.2}"));
        let rows = self.precisions.iter().map(|speed| {
            let hours = projection.tokens as f64 / speed.tokens_per_s / 3600.0;
            vec![
                speed.precision.to_owned(),
                format!("{:.0} tokens/s here", speed.tokens_per_s),
                format!("{hours:.1} hours"),
            ]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        format!(
            "{} tokens to embed{price}\n{}",
            grouped(projection.tokens as usize),
            columns(&rows, &[Align::Left, Align::Right, Align::Right]),
        )
    }

    fn advice(&self) -> String {
        let recommended = self
            .recommended
            .and_then(|place| self.measurements.get(place));
        let Some(it) = recommended else {
            return "no vectors find what they should: look at the collection\n".to_owned();
        };
        let stored = |bytes: usize| size(bytes as u64 * self.projection.documents);
        let full = self.measurements.iter().map(|it| it.bytes).max();
        let interval = it.interval.map_or(String::new(), |interval| {
            format!(" ± {:.1}", 100.0 * interval)
        });
        format!(
            "recommended: --precision {} --dimensions {} --type {}\n{} in place of full-size floats' {}, \
             nDCG@10 {:.1} ({:+.1}{interval} at 95 %)\n",
            it.precision,
            it.dimensions,
            it.embedding_type,
            stored(it.bytes),
            stored(full.unwrap_or_default()),
            100.0 * it.ndcg,
            100.0 * it.difference,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(precision: Precision, tokens_per_s: f64, ndcg: [f64; 2]) -> Pass {
        let of = |dimensions, ndcg| Measurement {
            dimensions,
            embedding_type: "float",
            bytes: 4 * dimensions,
            ndcg: vec![ndcg],
            recall: vec![ndcg],
        };
        Pass {
            precision,
            tokens_per_s,
            measurements: vec![of(32, ndcg[0]), of(64, ndcg[1])],
        }
    }

    #[test]
    fn the_fastest_precision_that_keeps_enough_is_recommended() {
        let passes = [
            pass(Precision::Exact, 1.0, [0.90, 1.0]),
            pass(Precision::Balanced, 2.0, [0.89, 1.0]),
            pass(Precision::Fast, 3.0, [0.80, 0.97]),
        ];
        assert_eq!(recommendation(&passes, 0.99), Some(3));
        assert_eq!(recommendation(&passes, 0.95), Some(5));
        assert_eq!(recommendation(&passes, 0.90), Some(0));
        assert_eq!(recommendation(&passes, 0.85), Some(2));
        assert_eq!(recommendation(&passes[2..], 1.0), Some(1));
    }
}
