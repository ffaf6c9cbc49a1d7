//! From a pooled row to what a caller gets: Matryoshka cut, L2 norm, and the output types.

use base64::Engine as _;

/// How the numbers of an embedding are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EmbeddingType {
    /// 32-bit floats.
    #[default]
    Float,
    /// Signed bytes: component times 127, rounded.
    Int8,
    /// Unsigned bytes: the signed byte plus 128.
    Uint8,
    /// One bit a component, most significant first, as signed bytes: the unsigned byte minus 128.
    Binary,
    /// One bit a component, most significant first, as unsigned bytes.
    Ubinary,
    /// Little-endian 32-bit floats in base64.
    Base64,
}

impl EmbeddingType {
    /// All types with their names on the wire.
    pub const ALL: [(&'static str, Self); 6] = [
        ("float", Self::Float),
        ("int8", Self::Int8),
        ("uint8", Self::Uint8),
        ("binary", Self::Binary),
        ("ubinary", Self::Ubinary),
        ("base64", Self::Base64),
    ];
}

/// An embedding in the type that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum EncodedEmbedding {
    /// `[dimensions]`.
    Float(Vec<f32>),
    /// `[dimensions]` for int8, `[ceil(dimensions / 8)]` for binary.
    Signed(Vec<i8>),
    /// `[dimensions]` for uint8, `[ceil(dimensions / 8)]` for ubinary.
    Unsigned(Vec<u8>),
    /// The base64 text.
    Text(String),
}

/// Cuts a mean-pooled row to its first `dimensions` components and, if asked, scales it to length 1.
///
/// The cut comes before the norm, as in the reference's current `encode()` (spec section 1, pooling).
/// The norm is `x / max(‖x‖₂, 1e-12)`, torch's `normalize`; its sum runs in f64 in index order.
pub fn finish(mut pooled: Vec<f32>, dimensions: usize, normalize: bool) -> Vec<f32> {
    pooled.truncate(dimensions);
    if normalize {
        let square_sum: f64 = pooled
            .iter()
            .map(|&value| f64::from(value) * f64::from(value))
            .sum();
        let scale = 1.0 / square_sum.sqrt().max(1e-12);
        for value in &mut pooled {
            *value = (f64::from(*value) * scale) as f32;
        }
    }
    pooled
}

/// Encodes an embedding. The integer types expect a normalised one: their scale is fixed, so that
/// vectors made at different times can be compared, and components beyond ±1 are clamped.
pub fn encode(embedding: &[f32], embedding_type: EmbeddingType) -> EncodedEmbedding {
    let int8 = |&value: &f32| (value * 127.0).round().clamp(-127.0, 127.0) as i8;
    match embedding_type {
        EmbeddingType::Float => EncodedEmbedding::Float(embedding.to_vec()),
        EmbeddingType::Int8 => EncodedEmbedding::Signed(embedding.iter().map(int8).collect()),
        EmbeddingType::Uint8 => EncodedEmbedding::Unsigned(
            embedding
                .iter()
                .map(|value| int8(value).cast_unsigned().wrapping_add(128))
                .collect(),
        ),
        EmbeddingType::Binary => EncodedEmbedding::Signed(
            sign_bits(embedding)
                .map(|byte| byte.wrapping_sub(128).cast_signed())
                .collect(),
        ),
        EmbeddingType::Ubinary => EncodedEmbedding::Unsigned(sign_bits(embedding).collect()),
        EmbeddingType::Base64 => {
            let bytes: Vec<u8> = embedding
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            EncodedEmbedding::Text(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
    }
}

/// One bit per component (value > 0), most significant bit first, the last byte filled with zeros:
/// numpy's `packbits(v > 0)`.
fn sign_bits(embedding: &[f32]) -> impl Iterator<Item = u8> {
    embedding.chunks(8).map(|chunk| {
        let bits = chunk.iter().enumerate();
        bits.fold(0, |byte, (place, &value)| {
            byte | (u8::from(value > 0.0) << (7 - place))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cut_comes_before_the_norm() {
        assert_eq!(finish(vec![3.0, 4.0, 12.0], 2, true), [0.6, 0.8]);
        assert_eq!(finish(vec![3.0, 4.0, 12.0], 2, false), [3.0, 4.0]);
        assert_eq!(finish(vec![0.0, 0.0], 2, true), [0.0, 0.0]);
    }

    #[test]
    fn types_follow_the_contract() {
        let embedding = [0.5, -0.5, 0.0, 1.0, -1.0, 0.25, 0.0, 0.003, 0.1];
        let encoded = |embedding_type| encode(&embedding, embedding_type);
        let bits = [0b1001_0101, 0b1000_0000];
        assert_eq!(
            encoded(EmbeddingType::Ubinary),
            EncodedEmbedding::Unsigned(bits.to_vec())
        );
        assert_eq!(
            encoded(EmbeddingType::Binary),
            EncodedEmbedding::Signed(vec![21, 0])
        );
        let signed = vec![64, -64, 0, 127, -127, 32, 0, 0, 13];
        assert_eq!(
            encoded(EmbeddingType::Int8),
            EncodedEmbedding::Signed(signed)
        );
        let unsigned = vec![192, 64, 128, 255, 1, 160, 128, 128, 141];
        assert_eq!(
            encoded(EmbeddingType::Uint8),
            EncodedEmbedding::Unsigned(unsigned)
        );
        assert_eq!(
            encode(&[1.0], EmbeddingType::Base64),
            EncodedEmbedding::Text("AACAPw==".to_owned())
        );
    }
}
