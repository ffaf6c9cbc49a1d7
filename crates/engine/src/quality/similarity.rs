//! How an index compares vectors of a type: floats and bytes by their product, bits by those that agree.

use crate::embedding::{EmbeddingType, EncodedEmbedding, encode};

/// What is measured, with the names on the wire. uint8 and base64 hold the same numbers as int8 and
/// float.
pub(super) const TYPES: [(&str, EmbeddingType); 3] = [
    ("float", EmbeddingType::Float),
    ("int8", EmbeddingType::Int8),
    ("binary", EmbeddingType::Binary),
];

/// A vector as it is kept.
#[derive(Debug)]
pub(super) enum Encoded {
    Floats(Vec<f32>),
    Bytes(Vec<i8>),
    Bits(Vec<i8>),
}

impl Encoded {
    /// A vector of length 1 in one of [`TYPES`].
    pub(super) fn new(embedding: &[f32], embedding_type: EmbeddingType) -> Self {
        match encode(embedding, embedding_type) {
            EncodedEmbedding::Signed(bits) if embedding_type == EmbeddingType::Binary => {
                Self::Bits(bits)
            }
            EncodedEmbedding::Signed(bytes) => Self::Bytes(bytes),
            EncodedEmbedding::Float(_)
            | EncodedEmbedding::Unsigned(_)
            | EncodedEmbedding::Text(_) => Self::Floats(embedding.to_vec()),
        }
    }

    /// What it takes to keep it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Floats(values) => 4 * values.len(),
            Self::Bytes(values) | Self::Bits(values) => values.len(),
        }
    }

    /// Higher is nearer; vectors of two types are not compared.
    pub(super) fn similarity(&self, other: &Self) -> f64 {
        match (self, other) {
            (Self::Floats(a), Self::Floats(b)) => f64::from(product(a, b)),
            (Self::Bytes(a), Self::Bytes(b)) => {
                let products = a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b));
                f64::from(products.sum::<i32>())
            }
            (Self::Bits(a), Self::Bits(b)) => {
                let differing = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones());
                -f64::from(differing.sum::<u32>())
            }
            _ => f64::NAN,
        }
    }
}

/// Sums side by side, which the compiler makes vector instructions of.
const LANES: usize = 16;

fn product(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_compared_as_an_index_compares_them() {
        let a: Vec<f32> = (0..35)
            .map(|index| (index as f32 * 0.7).sin() / 4.2)
            .collect();
        let b: Vec<f32> = (0..35)
            .map(|index| (index as f32 * 1.1).cos() / 4.2)
            .collect();
        let similarity = |kind| Encoded::new(&a, kind).similarity(&Encoded::new(&b, kind));
        let exact: f64 = a
            .iter()
            .zip(&b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        assert!((similarity(EmbeddingType::Float) - exact).abs() < 1e-6);
        assert!((similarity(EmbeddingType::Int8) / (127.0 * 127.0) - exact).abs() < 0.02);
        let differing = a
            .iter()
            .zip(&b)
            .filter(|(a, b)| (**a > 0.0) != (**b > 0.0))
            .count();
        assert_eq!(similarity(EmbeddingType::Binary), -(differing as f64));
        let bytes = TYPES.map(|(_, kind)| Encoded::new(&a, kind).bytes());
        assert_eq!(bytes, [140, 35, 5]);
    }
}
