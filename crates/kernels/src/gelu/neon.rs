//! The exact GELU with NEON.

use std::arch::aarch64::*;
use std::f32::consts::LOG2_E;

use super::mills::{FAR, RATIO, SLOPE};
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

/// [`gelu_of`](super::gelu_of) of each lane.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn gelu(x: float32x4_t) -> float32x4_t {
    let one = vdupq_n_f32(1.0);
    let t = vminq_f32(vabsq_f32(x), vdupq_n_f32(FAR));
    let w = vdivq_f32(one, vfmaq_n_f32(one, t, SLOPE));
    let mut mills = vdupq_n_f32(RATIO[0]);
    for coefficient in &RATIO[1..] {
        mills = vfmaq_f32(vdupq_n_f32(*coefficient), mills, w);
    }
    let exponential = exp2(vmulq_n_f32(vmulq_f32(t, t), -0.5 * LOG2_E));
    let tail = vmulq_f32(vmulq_f32(mills, exponential), t);
    // Minimum and maximum let a NaN in x through.
    vsubq_f32(vmaxq_f32(vdupq_n_f32(0.0), x), tail)
}
