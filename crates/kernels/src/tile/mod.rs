//! The register tile that `gemm` and `attention` share: 6 rows by 16 columns.
//!
//! Twelve registers of 8 lanes hold the sums, two the columns and one the broadcast row: the
//! largest tile that fits the sixteen registers of AVX2, and 12 multiply-adds for 8 loads. On NEON
//! the sums are twenty-four of its thirty-two registers of 4 lanes, and the columns four.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

/// Rows of a full tile; the last tile of a block has fewer.
pub(crate) const ROWS: usize = 6;

/// Columns of a tile.
pub(crate) const COLUMNS: usize = 16;

/// One row of a tile, or one step of k for 16 columns: a cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct F32x16(pub(crate) [f32; COLUMNS]);

/// One step of k for 16 columns of bf16 weights.
///
/// Word j holds column j in its low half and column j + 8 in its high half, so that one shift and
/// one mask widen them to two registers in the order of the columns.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
pub(crate) struct Bf16x16(pub(crate) [u32; COLUMNS / 2]);

/// One step of k for 16 columns of integer weights: word j holds, lowest first, the next two
/// 16-bit or four 8-bit weights of column j. Also 16 f32 or i32 as bits.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct Words(pub(crate) [u32; COLUMNS]);

impl F32x16 {
    /// Up to 16 numbers, then zeros.
    pub(crate) fn padded(numbers: &[f32]) -> F32x16 {
        let mut lanes = F32x16::default();
        lanes.0[..numbers.len()].copy_from_slice(numbers);
        lanes
    }
}

impl Bf16x16 {
    /// The upper halves of 16 numbers.
    pub(crate) fn narrow(numbers: &[f32; COLUMNS]) -> Bf16x16 {
        let (low, high) = numbers.split_at(COLUMNS / 2);
        Bf16x16(std::array::from_fn(|word| {
            low[word].to_bits() >> 16 | high[word].to_bits() & 0xffff_0000
        }))
    }

    /// The same numbers in f32; exact.
    pub(crate) fn widen(&self) -> F32x16 {
        let mut lanes = F32x16::default();
        let (low, high) = lanes.0.split_at_mut(COLUMNS / 2);
        for ((word, low), high) in self.0.iter().zip(low).zip(high) {
            *low = f32::from_bits(word << 16);
            *high = f32::from_bits(word & 0xffff_0000);
        }
        lanes
    }
}
