//! The exact GELU with NEON.

use std::arch::aarch64::*;
use std::f32::consts::LOG2_E;

use crate::neon::{exp2, load, load_partial, store, store_partial};

/// Applies [`gelu`] to each number.
#[target_feature(enable = "neon")]
pub(super) fn gelu_slice(x: &mut [f32]) {
    let (chunks, rest) = x.as_chunks_mut::<4>();
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
#[target_feature(enable = "neon")]
pub(crate) fn gelu(x: float32x4_t) -> float32x4_t {
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

    let one = vdupq_n_f32(1.0);
    let t = vminq_f32(vabsq_f32(x), vdupq_n_f32(FAR));
    let w = vdivq_f32(one, vfmaq_n_f32(one, t, SLOPE));
    let mut mills = vdupq_n_f32(MILLS[0]);
    for coefficient in &MILLS[1..] {
        mills = vfmaq_f32(vdupq_n_f32(*coefficient), mills, w);
    }
    let exponential = exp2(vmulq_n_f32(vmulq_f32(t, t), -0.5 * LOG2_E));
    let tail = vmulq_f32(vmulq_f32(mills, exponential), t);
    // Minimum and maximum let a NaN in x through.
    vsubq_f32(vmaxq_f32(vdupq_n_f32(0.0), x), tail)
}
