//! What a precision costs: its vectors beside those of `exact`, on the user's own weights.

use quintet_engine::calibration::distance;
use quintet_engine::{EmbedOptions, Embedded, Embedder, Precision, RAW};

use super::Check;
use crate::sample;

/// The largest `1 - cosine` to `exact` that a precision may have. ONNX Runtime's int8 with 7-bit
/// weights has 1.35e-2 on random weights of the true shape.
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
    let items = sample::items(exact);
    let what = format!("1 - cosine to `exact`, {} texts", items.len());
    let vectors = |embedder: &Embedder, name: &str| -> anyhow::Result<Vec<Embedded>> {
        let task = embedder.task(name)?;
        let inputs = items.iter().map(|item| item.to_input(embedder, task));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        Ok(embedder.embed(&inputs, &EmbedOptions::default())?)
    };
    let names = std::iter::once(RAW).chain(exact.tasks().filter(|name| *name != RAW));
    names
        .map(|name| {
            let pairs = vectors(exact, name)?.into_iter().zip(vectors(other, name)?);
            let distances = pairs.map(|(a, b)| (distance(&a.embedding, &b.embedding) as f32, 0.0));
            Ok(Check::new(
                name,
                &what,
                budget(other.precision()),
                distances,
            ))
        })
        .collect()
}
