//! The exact GELU with AVX-512, with the bits of AVX2.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use super::mills::{FAR, RATIO, SLOPE};
use crate::avx512::{exp2, load_partial, store_partial};

/// Applies [`gelu`] to each number.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn gelu_slice(x: &mut [f32]) {
    for chunk in x.chunks_mut(16) {
        let lanes = gelu(load_partial(chunk));
        store_partial(chunk, lanes);
    }
}

/// [`gelu_of`](super::gelu_of) of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn gelu(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    let t = _mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(FAR));
    let w = _mm512_div_ps(one, _mm512_fmadd_ps(t, _mm512_set1_ps(SLOPE), one));
    let mut mills = _mm512_set1_ps(RATIO[0]);
    for coefficient in &RATIO[1..] {
        mills = _mm512_fmadd_ps(mills, w, _mm512_set1_ps(*coefficient));
    }
    let exponent = _mm512_mul_ps(_mm512_mul_ps(t, t), _mm512_set1_ps(-0.5 * LOG2_E));
    let tail = _mm512_mul_ps(_mm512_mul_ps(mills, exp2(exponent)), t);
    // In this order a NaN in x comes through.
    _mm512_sub_ps(_mm512_max_ps(_mm512_setzero_ps(), x), tail)
}
