//! The exact GELU with AVX2 and FMA.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use super::mills::{FAR, RATIO, SLOPE};
use crate::avx2::{exp2, load, load_partial, store, store_partial};

/// Applies [`gelu`] to each number.
#[target_feature(enable = "avx2,fma")]
pub(super) fn gelu_slice(x: &mut [f32]) {
    let (chunks, rest) = x.as_chunks_mut::<8>();
    for chunk in chunks {
        store(chunk, gelu(load(chunk)));
    }
    if !rest.is_empty() {
        let lanes = gelu(load_partial(rest));
        store_partial(rest, lanes);
    }
}

/// [`gelu_of`](super::gelu_of) of each lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn gelu(x: __m256) -> __m256 {
    let one = _mm256_set1_ps(1.0);
    let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
    let t = _mm256_min_ps(magnitude, _mm256_set1_ps(FAR));
    let w = _mm256_div_ps(one, _mm256_fmadd_ps(t, _mm256_set1_ps(SLOPE), one));
    let mut mills = _mm256_set1_ps(RATIO[0]);
    for coefficient in &RATIO[1..] {
        mills = _mm256_fmadd_ps(mills, w, _mm256_set1_ps(*coefficient));
    }
    let exponent = _mm256_mul_ps(_mm256_mul_ps(t, t), _mm256_set1_ps(-0.5 * LOG2_E));
    let exponential = exp2(exponent);
    let tail = _mm256_mul_ps(_mm256_mul_ps(mills, exponential), t);
    // In this order a NaN in x comes through.
    _mm256_sub_ps(_mm256_max_ps(_mm256_setzero_ps(), x), tail)
}
