//! What a precision costs: its vectors beside those of `exact`, on the user's own weights.

use quintet_engine::{Content, EmbedOptions, Embedded, Embedder, Input, Precision, RAW};

use super::Check;

/// Sentences of many scripts and lengths; what they say does not matter.
const TEXTS: [&str; 12] = [
    "Where do storks spend the winter?",
    "White storks fly to Africa south of the Sahara, many of them by way of the Bosporus.",
    "Störche ziehen im Herbst in großen Gruppen nach Süden.",
    "Las cigüeñas construyen sus nidos en torres y tejados.",
    "鹳鸟冬天飞往非洲。",
    "コウノトリは冬をアフリカで過ごします。",
    "Аисты зимуют в Африке и возвращаются весной.",
    "تقضي طيور اللقلق الشتاء في أفريقيا.",
    "सारस सर्दियों में अफ्रीका चले जाते हैं।",
    "The bank raised interest rates by half a percentage point on Thursday.",
    "fn main() { println!(\"{}\", 40 + 2); }",
    "Refund request: the parcel of 12 May (no. 4711) never arrived, please send the money back.",
];

/// Ids for a model without a tokenizer: this many texts of this many tokens.
const ID_TEXTS: u32 = 12;
const ID_TOKENS: u32 = 48;

/// The largest `1 - cosine` to `exact` that a precision may have.
fn budget(precision: Precision) -> f32 {
    if precision == Precision::Balanced {
        1e-5
    } else {
        1e-2
    }
}

/// How many times as far as those of `exact` the numbers of a precision may be from the reference's.
pub(super) fn slack(precision: Precision) -> f32 {
    if precision == Precision::Exact {
        1.0
    } else if precision == Precision::Balanced {
        100.0
    } else {
        5000.0
    }
}

/// One check for each task and `raw`: the texts under both, and the worst `1 - cosine`.
pub(super) fn check(exact: &Embedder, other: &Embedder) -> anyhow::Result<Vec<Check>> {
    let vocabulary = exact.config().vocab_size as u32;
    let id = |text: u32, position: u32| {
        (text * ID_TOKENS + position).wrapping_mul(0x9e37_79b9) % vocabulary
    };
    let ids: Vec<Vec<u32>> = (0..ID_TEXTS)
        .map(|text| (0..ID_TOKENS).map(|position| id(text, position)).collect())
        .collect();
    let contents: Vec<Content<'_>> = match exact.tokenizer() {
        Some(_) => TEXTS.into_iter().map(Content::Text).collect(),
        None => ids.iter().map(|ids| Content::TokenIds(ids)).collect(),
    };
    let what = format!("1 - cosine to `exact`, {} texts", contents.len());
    let vectors = |embedder: &Embedder, name: &str| -> anyhow::Result<Vec<Embedded>> {
        let task = embedder.task(name)?;
        let inputs: Vec<_> = contents
            .iter()
            .map(|&content| Input { content, task })
            .collect();
        Ok(embedder.embed(&inputs, &EmbedOptions::default())?)
    };
    let names = std::iter::once(RAW).chain(exact.tasks().filter(|name| *name != RAW));
    names
        .map(|name| {
            let pairs = vectors(exact, name)?.into_iter().zip(vectors(other, name)?);
            let distances = pairs.map(|(a, b)| (distance(&a.embedding, &b.embedding), 0.0));
            Ok(Check::new(
                name,
                &what,
                budget(other.precision()),
                distances,
            ))
        })
        .collect()
}

/// `1 - cosine`, in f64: it is a few millionths.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    (1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}
