//! Rotary position embedding, compiled for registers of 8 lanes.

use super::{Positions, RopeTable};

/// See [`super::rotate`]: the same loop, so the same bits.
#[target_feature(enable = "avx2")]
pub(super) fn rotate(
    tokens: &mut [f32],
    width: usize,
    positions: Positions<'_>,
    table: &RopeTable,
) {
    super::rotate(tokens, width, positions, table);
}
