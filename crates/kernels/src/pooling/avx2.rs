//! Sums of rows, compiled for registers of 8 lanes.

use std::ops::Range;

/// See [`super::sum_rows`]: the same loop, so the same bits.
#[target_feature(enable = "avx2")]
pub(super) fn sum_rows(rows: &[f32], hidden: usize, columns: Range<usize>, sums: &mut [f32]) {
    super::sum_rows(rows, hidden, columns, sums);
}
