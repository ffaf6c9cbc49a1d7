//! The exact GELU with AVX2 and FMA.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

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

/// `x · Φ(x)` of each lane, as `max(x, 0) - t · Φ(-t)` with `t = |x|`.
///
/// `Φ(-t) = exp(-t² / 2) · M(t)`, where M, Mills' ratio over √(2π), is smooth: a polynomial of
/// degree 6 in `w = 1 / (1 + 0.4 t)`, fitted by weighted least squares towards the least largest
/// error of `t · Φ(-t)` over [0, 6], which is 1.4e-8. With the roundings `t · Φ(-t)` is within
/// 7e-8, and the last subtraction rounds once more. (The form is Hastings' for the error function,
/// Abramowitz and Stegun 7.1.26.)
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn gelu(x: __m256) -> __m256 {
    const SLOPE: f32 = 0.4;
    /// From w⁶ down to the constant.
    const MILLS: [f32; 7] = [
        5.363_063e-2,
        -2.420_601_4e-1,
        3.158_725_5e-1,
        3.686_528_7e-2,
        1.756_506_2e-1,
        1.604_923_2e-1,
        -4.511_753e-4,
    ];
    /// Where `t · Φ(-t)` is far below the smallest f32; keeps infinities out of the product.
    const FAR: f32 = 15.0;

    let one = _mm256_set1_ps(1.0);
    let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
    let t = _mm256_min_ps(magnitude, _mm256_set1_ps(FAR));
    let w = _mm256_div_ps(one, _mm256_fmadd_ps(t, _mm256_set1_ps(SLOPE), one));
    let mut mills = _mm256_set1_ps(MILLS[0]);
    for coefficient in &MILLS[1..] {
        mills = _mm256_fmadd_ps(mills, w, _mm256_set1_ps(*coefficient));
    }
    let exponent = _mm256_mul_ps(_mm256_mul_ps(t, t), _mm256_set1_ps(-0.5 * LOG2_E));
    let exponential = exp2(exponent);
    let tail = _mm256_mul_ps(_mm256_mul_ps(mills, exponential), t);
    // In this order a NaN in x comes through.
    _mm256_sub_ps(_mm256_max_ps(_mm256_setzero_ps(), x), tail)
}
