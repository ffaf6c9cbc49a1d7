//! The multiply-add peak of NEON.

use std::arch::aarch64::*;
use std::hint::black_box;

use super::{CHAINS, STEPS};

/// Runs the chains, two registers each, and returns the number of lanes of each. Twelve registers
/// would leave cores idle that start four multiply-adds a cycle and finish them four cycles later.
#[target_feature(enable = "neon")]
pub(super) fn multiply_add(factor: f32) -> usize {
    let factor = vdupq_n_f32(factor);
    let mut sums = [[factor; 2]; CHAINS];
    for _ in 0..STEPS {
        for sum in sums.as_flattened_mut() {
            // The other way round would take a move for each: the instruction overwrites what it
            // adds to.
            *sum = vfmaq_f32(*sum, factor, factor);
        }
    }
    black_box(sums);
    8
}
