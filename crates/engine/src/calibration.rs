//! `fast` fitted to given texts: how its weights are rounded, and which matrices suffer from 8 bits.

use quintet_kernels::gemm::PackedMatrix;

use crate::embedder::Embedder;
use crate::error::EmbedError;
use crate::input::{EmbedOptions, Input};
use crate::precision::Precision;
use crate::weights::{
    Checkpoint, CheckpointError, MATRICES_PER_LAYER, compensated_matrix_of, matrix_name, matrix_of,
};

/// What one matrix in 8 bits does to the vectors of a model that is `exact` otherwise.
///
/// The errors of all matrices, added up, come near to that of the whole model: they are small and
/// have no common direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    /// Its place among the packed matrices, as [`LoadOptions::balanced`](crate::LoadOptions::balanced)
    /// counts them.
    pub matrix: usize,
    /// What the checkpoint calls it when it keeps it whole.
    pub name: String,
    /// Its numbers, to which the time of its products is proportional.
    pub numbers: usize,
    /// `1 - cosine` to the vectors without it, mean over the inputs.
    pub error: f64,
}

impl Sensitivity {
    /// Error for each number: what 16 bits would save, for the time that they cost.
    pub fn density(&self) -> f64 {
        self.error / self.numbers as f64
    }
}

/// Why sensitivities could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// An input was refused.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// A weight was refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Tokens that the rounding looks at, at most: their activations are in memory together, 5 · 4 bytes
/// of each for each number of the hidden size, 0.67 GB for jina-embeddings-v3.
const MAX_TOKENS: usize = 32_768;

/// All matrices of a model in 8 bits, rounded for given texts.
pub struct RoundedMatrices(pub(crate) Vec<PackedMatrix>);

/// Rounds the weights of a model so that they make up for each other's errors in the products with
/// what `inputs` bring there (`kernels/src/gemm/compensation.rs`). `embedder` was loaded from
/// `checkpoint`, best as `exact`; it runs once over the inputs, layer by layer, and over no more of
/// them than 32,768 tokens. `progress` hears how many of how many matrices are done.
///
/// It pays when the inputs have several times as many tokens as the widest matrix has columns; of few,
/// the weights learn what other texts do not have.
///
/// # Errors
/// [`CalibrationError`] for what [`Embedder::embed`] or [`Embedder::load`] refuse.
pub fn round(
    embedder: &Embedder,
    checkpoint: &Checkpoint,
    inputs: &[Input<'_>],
    progress: &dyn Fn(usize, usize),
) -> Result<RoundedMatrices, CalibrationError> {
    let count = embedder.config().num_hidden_layers * MATRICES_PER_LAYER;
    let mut matrices = Vec::with_capacity(count);
    progress(0, count);
    for layer in embedder.moments_by_layer(inputs, MAX_TOKENS)? {
        for moments in layer? {
            let index = matrices.len();
            matrices.push(compensated_matrix_of(
                checkpoint,
                index,
                moments,
                embedder.cpu(),
            )?);
            progress(matrices.len(), count);
        }
    }
    Ok(RoundedMatrices(matrices))
}

/// Measures each matrix of a model that was loaded from `checkpoint`, best as `exact`: a pass over
/// `inputs` for each, and one more. Matrices in 8 bits are those `rounded`, or rounded to nearest. `progress` hears how many of how many passes are done.
///
/// # Errors
/// [`CalibrationError`] for what [`Embedder::embed`] or [`Embedder::load`] refuse.
pub fn sensitivities(
    embedder: &Embedder,
    checkpoint: &Checkpoint,
    rounded: Option<&RoundedMatrices>,
    inputs: &[Input<'_>],
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Sensitivity>, CalibrationError> {
    let options = EmbedOptions::default();
    let sizes = embedder.matrix_sizes();
    let vectors = || -> Result<Vec<Vec<f32>>, EmbedError> {
        let embedded = embedder.embed(inputs, &options)?;
        Ok(embedded.into_iter().map(|row| row.embedding).collect())
    };
    let expected = vectors()?;
    let measured = sizes.iter().enumerate().map(|(matrix, numbers)| {
        progress(matrix + 1, sizes.len() + 1);
        let fast = match rounded.and_then(|rounded| rounded.0.get(matrix)) {
            Some(rounded) => rounded.clone(),
            None => matrix_of(checkpoint, matrix, Precision::Fast, embedder.cpu())?,
        };
        embedder.set_trial(Some((matrix, fast)));
        let pairs = expected.iter().zip(vectors()?);
        let error: f64 = pairs.map(|(a, b)| distance(a, &b)).sum();
        Ok(Sensitivity {
            matrix,
            name: matrix_name(matrix),
            numbers: *numbers,
            error: error / inputs.len().max(1) as f64,
        })
    });
    let measured = measured.collect();
    embedder.set_trial(None);
    progress(sizes.len() + 1, sizes.len() + 1);
    measured
}

/// `1 - cosine` of two vectors, in f64: it is a few millionths.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
