//! The multiply-add peak of AVX-512.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::{CHAINS, STEPS};

/// Runs the chains and returns the number of lanes of each.
#[target_feature(enable = "avx512f")]
pub(super) fn multiply_add(factor: f32) -> usize {
    let factor = _mm512_set1_ps(factor);
    let mut sums = [factor; CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, factor);
        }
    }
    black_box(sums);
    16
}
