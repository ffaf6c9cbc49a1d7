//! In which sizes and types vectors are given out.

use quintet_engine::embedding::{EmbeddingType, encode};
use quintet_engine::{Dimensions, EmbedOptions, Embedder};

use super::rows::Row;
use crate::error::{ApiError, shortened};
use crate::wire::embeddings::{Variant, Vector};

/// In which sizes and types each vector is given out.
#[derive(Debug, Clone)]
pub(crate) struct Outputs {
    /// At least one; `None` is the full width.
    pub(crate) dimensions: Vec<Option<Dimensions>>,
    /// At least one.
    pub(crate) types: Vec<(&'static str, EmbeddingType)>,
    pub(crate) normalize: bool,
}

/// Numbers in one answer at most: 2048 vectors of 1024 in four forms, about 90 MB as decimals.
pub(crate) const MAX_NUMBERS: usize = 2048 * 1024 * 4;

impl Outputs {
    /// The full width as normalised floats, unless the request says other.
    ///
    /// # Errors
    /// [`ApiError`] naming the field that does not fit the model.
    pub(crate) fn read(
        sizes: (&'static str, &[i64]),
        types: (&'static str, &[String]),
        normalize: Option<bool>,
        embedder: &Embedder,
    ) -> Result<Self, ApiError> {
        let (size_field, sizes) = sizes;
        let mut dimensions = Vec::with_capacity(sizes.len().max(1));
        for &size in sizes {
            let checked = usize::try_from(size)
                .ok()
                .and_then(|size| embedder.dimensions(size).ok());
            let Some(checked) = checked else {
                let max = embedder.config().hidden_size;
                return Err(ApiError::invalid_param(
                    size_field,
                    format!("`{size_field}` is {size}, expected 1 to {max}"),
                ));
            };
            dimensions.push(Some(checked));
        }
        if dimensions.is_empty() {
            dimensions.push(None);
        }
        let (type_field, names) = types;
        let find = |name: &String| {
            let known = EmbeddingType::ALL;
            let found = known.into_iter().find(|(known, _)| known == name);
            found.ok_or_else(|| {
                let known: Vec<String> =
                    known.iter().map(|(name, _)| format!("`{name}`")).collect();
                let name = shortened(name);
                let message = format!("`{type_field}` is `{name}`, expected {}", known.join(", "));
                ApiError::invalid_param(type_field, message)
            })
        };
        let mut types: Vec<_> = names.iter().map(find).collect::<Result<_, _>>()?;
        if types.is_empty() {
            types.push(("float", EmbeddingType::Float));
        }
        let normalize = normalize.unwrap_or(true);
        let fixed_scale = types.iter().find(|(_, embedding_type)| {
            matches!(embedding_type, EmbeddingType::Int8 | EmbeddingType::Uint8)
        });
        if let (false, Some((name, _))) = (normalize, fixed_scale) {
            return Err(ApiError::invalid_param(
                "normalized",
                format!(
                    "`{name}` has a fixed scale for vectors of length 1, expected `normalized` true"
                ),
            ));
        }
        Ok(Self {
            dimensions,
            types,
            normalize,
        })
    }

    /// Refuses an answer that would not be read but flood memory.
    ///
    /// # Errors
    /// [`ApiError`] with the number and the limit.
    pub(crate) fn check_numbers(&self, inputs: usize, embedder: &Embedder) -> Result<(), ApiError> {
        let sum: usize = self
            .dimensions
            .iter()
            .map(|&size| width(size, embedder))
            .sum();
        let numbers = inputs.saturating_mul(sum).saturating_mul(self.types.len());
        if numbers > MAX_NUMBERS {
            return Err(ApiError::invalid_param(
                "dimensions",
                format!(
                    "The answer would have {numbers} numbers, expected at most {MAX_NUMBERS}; ask for \
                     fewer sizes, types or inputs"
                ),
            ));
        }
        Ok(())
    }

    /// One row in every size and type, sizes first.
    pub(crate) fn variants(&self, row: &Row, embedder: &Embedder) -> Vec<Variant> {
        let mut variants = Vec::with_capacity(self.dimensions.len() * self.types.len());
        for &dimensions in &self.dimensions {
            let embedding = finished(row, dimensions, self.normalize, embedder);
            for &(name, embedding_type) in &self.types {
                variants.push(Variant {
                    dimensions: embedding.len(),
                    embedding_type: name,
                    embedding: encode(&embedding, embedding_type).into(),
                });
            }
        }
        variants
    }

    /// The first size and type alone, and all if there are several.
    pub(crate) fn vectors(&self, row: &Row, embedder: &Embedder) -> (Vector, Option<Vec<Variant>>) {
        let mut variants = self.variants(row, embedder);
        if variants.len() == 1 {
            (variants.swap_remove(0).embedding, None)
        } else {
            (variants[0].embedding.clone(), Some(variants))
        }
    }
}

/// A row's embedding in one size.
pub(crate) fn finished(
    row: &Row,
    dimensions: Option<Dimensions>,
    normalize: bool,
    embedder: &Embedder,
) -> Vec<f32> {
    let options = EmbedOptions {
        dimensions,
        normalize,
        ..EmbedOptions::default()
    };
    // The mean of an empty text's zeros is zero, whatever it is divided by.
    embedder.finish(row.sum.clone(), row.tokens.max(1), &options)
}

/// Cosine of the angle between two vectors of length 1: their product, summed in order.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    products.sum::<f64>() as f32
}

fn width(dimensions: Option<Dimensions>, embedder: &Embedder) -> usize {
    dimensions.map_or(embedder.config().hidden_size, Dimensions::value)
}
