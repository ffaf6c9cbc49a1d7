//! What the size and the type of a vector cost in search quality, measured on a collection of one's own.
//!
//! Texts are embedded once, at full size. Every Matryoshka size and output type is made of those vectors
//! by the functions that make them for a caller, and documents are ranked for each query as an index of
//! that type ranks them.
//!
//! - `collection`: documents, queries and what is relevant, from JSONL or CSV; `beir`: from the three files
//!   of a BEIR folder
//! - `metrics`: recall and nDCG of a ranking
//! - `similarity`: how vectors of a type are compared

mod beir;
mod collection;
mod metrics;
mod similarity;

use crate::embedder::Embedder;
use crate::embedding::finish;
use crate::error::EmbedError;
use crate::input::{Content, EmbedOptions, Input, Truncate};
use crate::task::Task;

pub use beir::{BeirCollection, BeirError, BeirFiles};
pub use collection::{Collection, CollectionError, Document, Query, Relevant};
pub use metrics::Ranking;
use similarity::{Encoded, TYPES};

/// A collection to try with: short texts in several languages, questions in their own words.
pub const SAMPLE: &str = include_str!("sample.jsonl");

/// nDCG is taken over so many places, as retrieval benchmarks take it.
pub const NDCG_PLACES: usize = 10;

/// Texts embedded between two reports of progress.
const GROUP: usize = 64;

/// The texts of a collection as mean-pooled rows of full size, not scaled.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// In the order of the collection's documents, each `[hidden]`.
    pub documents: Vec<Vec<f32>>,
    /// In the order of its queries, each `[hidden]`.
    pub queries: Vec<Vec<f32>>,
    /// Tokens of all documents, instruction and specials included.
    pub document_tokens: usize,
    /// Tokens of all queries.
    pub query_tokens: usize,
}

/// Why a collection could not be embedded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QualityError {
    /// A text is longer than the model's context.
    #[error("the {what} in line {line} has {tokens} tokens, expected at most {max}")]
    TooLong {
        /// `document` or `query`.
        what: &'static str,
        /// From 1.
        line: u64,
        /// Found.
        tokens: usize,
        /// Of the model.
        max: usize,
    },
    /// The engine refused or failed.
    #[error(transparent)]
    Embed(#[from] EmbedError),
}

impl QualityError {
    /// Of texts with their lines.
    fn of(error: EmbedError, what: &'static str, texts: &[(u64, &str)]) -> Self {
        if let EmbedError::TooLong { index, tokens, max } = error {
            let line = texts[index].0;
            return Self::TooLong {
                what,
                line,
                tokens,
                max,
            };
        }
        Self::Embed(error)
    }
}

impl Vectors {
    /// Embeds documents as `retrieval.passage` and queries as `retrieval.query`, where the model has these
    /// tasks. `progress` hears how many of how many texts are done.
    ///
    /// # Errors
    /// [`QualityError`] for a text that is too long, unless `truncate` allows to cut it.
    pub fn embed(
        embedder: &Embedder,
        collection: &Collection,
        truncate: Truncate,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self, QualityError> {
        let task = |name| embedder.task(name).unwrap_or(Task::RAW);
        let documents = collection.documents.iter();
        let documents: Vec<_> = documents.map(|it| (it.line, it.text.as_str())).collect();
        let queries = collection.queries.iter();
        let queries: Vec<_> = queries.map(|it| (it.line, it.text.as_str())).collect();
        let texts = documents.len() + queries.len();
        let embed = |what, lines: &[(u64, &str)], task, before: usize| {
            embed(embedder, what, lines, (task, truncate), &|done| {
                progress(before + done, texts);
            })
        };
        let passage = task("retrieval.passage");
        let (documents, document_tokens) = embed("document", &documents, passage, 0)?;
        let query = task("retrieval.query");
        let (queries, query_tokens) = embed("query", &queries, query, documents.len())?;
        Ok(Self {
            documents,
            queries,
            document_tokens,
            query_tokens,
        })
    }
}

/// Rows of texts with their lines, and their tokens.
fn embed(
    embedder: &Embedder,
    what: &'static str,
    lines: &[(u64, &str)],
    (task, truncate): (Task, Truncate),
    progress: &dyn Fn(usize),
) -> Result<(Vec<Vec<f32>>, usize), QualityError> {
    let options = EmbedOptions {
        normalize: false,
        truncate,
        ..EmbedOptions::default()
    };
    let mut rows = Vec::with_capacity(lines.len());
    let mut tokens = 0;
    for group in lines.chunks(GROUP) {
        let inputs: Vec<Input<'_>> = group
            .iter()
            .map(|(_, text)| Input {
                content: Content::Text(text),
                task,
            })
            .collect();
        let embedded = embedder
            .embed(&inputs, &options)
            .map_err(|error| QualityError::of(error, what, group))?;
        tokens += embedded.iter().map(|row| row.tokens).sum::<usize>();
        rows.extend(embedded.into_iter().map(|row| row.embedding));
        progress(rows.len());
    }
    Ok((rows, tokens))
}

/// How well documents are found with vectors of one size and type.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Components that are kept.
    pub dimensions: usize,
    /// The type's name on the wire: `float`, `int8` or `binary`.
    pub embedding_type: &'static str,
    /// Of one vector.
    pub bytes: usize,
    /// nDCG@10 of each query, 0 to 1.
    pub ndcg: Vec<f64>,
    /// Recall of each query, 0 to 1.
    pub recall: Vec<f64>,
}

/// A mean over queries, and how far chance may have moved it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Of the queries' differences.
    pub mean: f64,
    /// Half of the 95 % interval, 1.96 standard errors; `None` for a single query.
    pub interval: Option<f64>,
}

impl Measurement {
    /// nDCG@10, mean over the queries.
    pub fn mean_ndcg(&self) -> f64 {
        mean(&self.ndcg)
    }

    /// Recall, mean over the queries.
    pub fn mean_recall(&self) -> f64 {
        mean(&self.recall)
    }

    /// nDCG@10 less that of another measurement of the same queries, query by query.
    pub fn difference(&self, reference: &Self) -> Difference {
        let pairs = self.ndcg.iter().zip(&reference.ndcg);
        let differences: Vec<f64> = pairs.map(|(own, other)| own - other).collect();
        let mean = mean(&differences);
        let count = differences.len() as f64;
        let squares: f64 = differences.iter().map(|it| (it - mean).powi(2)).sum();
        Difference {
            mean,
            interval: (count > 1.0).then(|| 1.96 * (squares / (count - 1.0) / count).sqrt()),
        }
    }
}

/// Ranks the documents for every query in each size and type: sizes in the given order, types from
/// float to binary. Recall is taken over `recall_places`.
///
/// # Panics
/// If there are not as many vectors as texts.
pub fn evaluate(
    collection: &Collection,
    vectors: &Vectors,
    dimensions: &[usize],
    recall_places: usize,
) -> Vec<Measurement> {
    assert_eq!(collection.documents.len(), vectors.documents.len());
    assert_eq!(collection.queries.len(), vectors.queries.len());
    let settings = dimensions
        .iter()
        .flat_map(|&size| TYPES.map(|(name, kind)| (size, name, kind)));
    settings
        .map(|(size, name, kind)| {
            let encode =
                |row: &Vec<f32>| Encoded::new(&finish(row[..size].to_vec(), size, true), kind);
            let documents: Vec<Encoded> = vectors.documents.iter().map(encode).collect();
            let queries = collection.queries.iter().zip(&vectors.queries);
            let (ndcg, recall) = queries
                .map(|(query, row)| {
                    let own = encode(row);
                    let scores: Vec<f64> = documents.iter().map(|it| own.similarity(it)).collect();
                    let ranking = Ranking::new(&scores, &query.relevant);
                    (
                        ranking.ndcg_at(NDCG_PLACES),
                        ranking.recall_at(recall_places),
                    )
                })
                .unzip();
            Measurement {
                dimensions: size,
                embedding_type: name,
                bytes: documents.first().map_or(0, Encoded::bytes),
                ndcg,
                recall,
            }
        })
        .collect()
}

/// The place of the smallest vector whose nDCG@10 is at least `keep` (0 to 1) of the reference's; the better of two
/// that are equally small. `None` where the reference finds nothing, for then nothing can be kept.
pub fn recommended(
    measurements: &[Measurement],
    reference: &Measurement,
    keep: f64,
) -> Option<usize> {
    let full = reference.mean_ndcg();
    let kept = measurements.iter().enumerate();
    let kept = kept.filter(|(_, it)| full > 0.0 && it.mean_ndcg() >= keep * full);
    let best = kept.min_by(|(_, a), (_, b)| {
        let better = || b.mean_ndcg().total_cmp(&a.mean_ndcg());
        a.bytes.cmp(&b.bytes).then_with(better)
    });
    best.map(|(index, _)| index)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(bytes: usize, ndcg: &[f64]) -> Measurement {
        Measurement {
            dimensions: bytes,
            embedding_type: "int8",
            bytes,
            ndcg: ndcg.to_vec(),
            recall: ndcg.to_vec(),
        }
    }

    /// Angles in the plane of the first two components; the rest tells nothing.
    fn row(degrees: f32) -> Vec<f32> {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let mut row = vec![3.0 * cos, 3.0 * sin];
        row.resize(16, 0.0);
        row
    }

    fn turned() -> (Collection, Vectors) {
        let text = "id,document,query,relevant\na,A,,\nb,B,,\nc,C,,\n,,near a,a\n,,near b,b\n";
        let vectors = Vectors {
            documents: [10.0, 50.0, 170.0].map(row).to_vec(),
            queries: [20.0, 40.0].map(row).to_vec(),
            document_tokens: 0,
            query_tokens: 0,
        };
        (Collection::read(text).unwrap(), vectors)
    }

    #[test]
    fn every_size_and_type_ranks_as_its_vectors_are() {
        let (collection, vectors) = turned();
        let found = evaluate(&collection, &vectors, &[1, 16], 1);
        let settings: Vec<_> = found
            .iter()
            .map(|it| (it.dimensions, it.embedding_type, it.bytes))
            .collect();
        let expected = [
            (1, "float", 4),
            (1, "int8", 1),
            (1, "binary", 1),
            (16, "float", 64),
            (16, "int8", 16),
            (16, "binary", 2),
        ];
        assert_eq!(settings, expected);
        // Two components tell a from b. Signs do not, nor does one component: a and b share places 1 and 2.
        let shared = f64::midpoint(1.0, 1.0 / 3_f64.log2());
        let worth = |it: &Measurement| (it.ndcg.clone(), it.recall.clone());
        for (index, (ndcg, recall)) in [
            (shared, 0.5),
            (shared, 0.5),
            (shared, 0.5),
            (1.0, 1.0),
            (1.0, 1.0),
            (shared, 0.5),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(
                worth(&found[index]),
                (vec![ndcg; 2], vec![recall; 2]),
                "{index}"
            );
        }
    }

    #[test]
    fn differences_are_taken_query_by_query() {
        // numpy: d = [-.1, 0, -.3, .2]; d.mean(), 1.96 * d.std(ddof=1) / 2
        let found = measurement(1, &[0.4, 0.5, 0.2, 1.0])
            .difference(&measurement(1, &[0.5, 0.5, 0.5, 0.8]));
        assert!((found.mean - -0.05).abs() < 1e-12, "{found:?}");
        assert!(
            (found.interval.unwrap() - 0.204_003_268).abs() < 1e-8,
            "{found:?}"
        );
        assert_eq!(
            measurement(1, &[0.5])
                .difference(&measurement(1, &[0.5]))
                .interval,
            None
        );
    }

    #[test]
    fn the_smallest_that_keeps_enough_is_recommended() {
        let all = [
            measurement(64, &[0.80]),
            measurement(16, &[0.79]),
            measurement(8, &[0.70]),
            measurement(8, &[0.76]),
            measurement(2, &[0.30]),
        ];
        let of = |keep| recommended(&all, &all[0], keep);
        assert_eq!(of(1.0), Some(0));
        assert_eq!(of(0.98), Some(1));
        assert_eq!(of(0.85), Some(3));
        assert_eq!(of(0.0), Some(4));
        assert_eq!(recommended(&all, &measurement(64, &[0.0]), 0.9), None);
    }

    #[test]
    fn the_sample_is_a_collection() {
        let sample = Collection::read(SAMPLE).unwrap();
        assert!(sample.documents.len() >= 40 && sample.queries.len() >= 30);
    }
}
