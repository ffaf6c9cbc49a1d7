//! The multiply-add peak of AVX2 and FMA.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::{CHAINS, STEPS};

/// Runs the chains and returns the number of lanes of each.
#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply_add(factor: f32) -> usize {
    let factor = _mm256_set1_ps(factor);
    let mut sums = [factor; CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, factor);
        }
    }
    black_box(sums);
    8
}
