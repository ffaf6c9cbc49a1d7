//! The precision ladder: how the weight products are computed, chosen by the user.

use std::fmt;
use std::str::FromStr;

use quintet_kernels::gemm::{Format, PackedMatrix, Rows};

/// Arithmetic of the weight products. Adapters, norms and sums are f32 in each, and so is attention,
/// but where a processor multiplies narrower factors faster (AMX): there its factors have as many bits
/// as those of the weight products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// f32 arithmetic on the checkpoint's own weights: the reference to 1e-5 per component.
    #[default]
    Exact,
    /// 16-bit integers, of which weights use about 13 bits and activations 14: nearer to `Exact`
    /// than arithmetic in bf16 is. Ranges: `kernels/src/gemm/integers.rs`.
    Balanced,
    /// 8-bit integers, in half the memory.
    Fast,
}

impl Precision {
    /// Every precision, most exact first.
    pub const ALL: &[Precision] = &[Precision::Exact, Precision::Balanced, Precision::Fast];

    /// How the weights of a layer are kept.
    pub(crate) fn format(self, blocks: &[Rows<'_>]) -> Format {
        match self {
            Self::Exact => Format::lossless(blocks),
            Self::Balanced => Format::Int16,
            Self::Fast => Format::Int8,
        }
    }

    /// As `Display` writes it and `FromStr` reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Balanced => "balanced",
            Self::Fast => "fast",
        }
    }
}

/// The precision of each matrix of a model.
pub(crate) struct Precisions<'a> {
    pub(crate) most: Precision,
    /// Those that are `Balanced` instead, by their place among the packed matrices.
    pub(crate) balanced: &'a [usize],
    /// Those to take where `Fast` is wanted, by their place; empty: each is rounded to nearest.
    pub(crate) rounded: &'a [PackedMatrix],
}

impl Precisions<'_> {
    /// The same for every matrix.
    pub(crate) fn all(precision: Precision) -> Self {
        Self {
            most: precision,
            balanced: &[],
            rounded: &[],
        }
    }

    pub(crate) fn of(&self, matrix: usize) -> Precision {
        match self.balanced.contains(&matrix) {
            true => Precision::Balanced,
            false => self.most,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |precision: &&Self| precision.name() == text;
        let found = Self::ALL.iter().find(named).copied();
        found.ok_or_else(|| UnknownPrecision { found: text.into() })
    }
}

/// A text that names no precision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("precision `{found}`, expected `exact`, `balanced` or `fast`")]
pub struct UnknownPrecision {
    found: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(*precision));
        }
        let error = "f16".parse::<Precision>().unwrap_err();
        assert!(error.to_string().contains("`f16`"), "{error}");
    }
}
