//! Registers of 4 f32: loads, stores, sums and powers of 2.
#![expect(unsafe_code, reason = "loads and stores take raw pointers")]

use std::arch::aarch64::*;
use std::arch::asm;

/// Reads 4 numbers.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load(chunk: &[f32; 4]) -> float32x4_t {
    // SAFETY: the array is 16 readable bytes and the load needs no alignment.
    unsafe { vld1q_f32(chunk.as_ptr()) }
}

/// Writes 4 numbers.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store(chunk: &mut [f32; 4], lanes: float32x4_t) {
    // SAFETY: the array is 16 writable bytes and the store needs no alignment.
    unsafe { vst1q_f32(chunk.as_mut_ptr(), lanes) }
}

/// Reads 4 words.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load_words(words: &[u32; 4]) -> uint32x4_t {
    // SAFETY: the array is 16 readable bytes and the load needs no alignment.
    unsafe { vld1q_u32(words.as_ptr()) }
}

/// Writes 4 words.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store_words(words: &mut [u32; 4], lanes: uint32x4_t) {
    // SAFETY: the array is 16 writable bytes and the store needs no alignment.
    unsafe { vst1q_u32(words.as_mut_ptr(), lanes) }
}

/// Reads up to 4 numbers; the other lanes are 0.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load_partial(part: &[f32]) -> float32x4_t {
    let mut chunk = [0.0; 4];
    chunk[..part.len()].copy_from_slice(part);
    load(&chunk)
}

/// Writes as many lanes as `part` has room for, 4 at most.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store_partial(part: &mut [f32], lanes: float32x4_t) {
    let mut chunk = [0.0; 4];
    store(&mut chunk, lanes);
    part.copy_from_slice(&chunk[..part.len()]);
}

/// Asks for the memory of `item` to be brought into the L2 cache.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn prefetch<T>(item: &T) {
    let address = std::ptr::from_ref(item);
    // SAFETY: a hint, which changes neither registers nor memory and never faults.
    unsafe {
        asm!("prfm pldl2keep, [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
    }
}

/// The first `count` lanes; the others become 0.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn first_lanes(count: usize, lanes: float32x4_t) -> float32x4_t {
    let is_kept = vcltq_u32(load_words(&[0, 1, 2, 3]), vdupq_n_u32(count as u32));
    vreinterpretq_f32_u32(vandq_u32(is_kept, vreinterpretq_u32_f32(lanes)))
}

/// The sum of all lanes, in the order (0+1) + (2+3).
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn sum(lanes: float32x4_t) -> f32 {
    vpadds_f32(vget_low_f32(vpaddq_f32(lanes, lanes)))
}

/// 2 to the power of each lane, for lanes that are not positive.
///
/// x = n + r with n whole and |r| <= 1/2, then a polynomial of degree 5 with the least largest
/// relative error over that range, 9.2e-8; within 2.1 units in the last place on [-125.5, 0].
/// Below, where results near the subnormal range, it is 0: less than 2^-125 of the largest weight of
/// a softmax.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn exp2(x: float32x4_t) -> float32x4_t {
    #[expect(
        clippy::approx_constant,
        reason = "the polynomial's own coefficient, not ln 2"
    )]
    const POLYNOMIAL: [f32; 6] = [
        1.326_472_7e-3,
        9.671_513e-3,
        5.550_733_6e-2,
        2.402_224_2e-1,
        6.931_47e-1,
        1.0,
    ];

    let power = vcvtnq_s32_f32(x);
    let rest = vsubq_f32(x, vcvtq_f32_s32(power));
    let mut series = vdupq_n_f32(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        series = vfmaq_f32(vdupq_n_f32(*coefficient), series, rest);
    }
    // `power` is at least -126 where the result is kept, so adding it to the exponent is exact.
    let scaled = vaddq_s32(vreinterpretq_s32_f32(series), vshlq_n_s32::<23>(power));
    let vanishes = vcltq_f32(x, vdupq_n_f32(-125.5));
    vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(scaled), vanishes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[target_feature(enable = "neon")]
    fn exp2_of(x: f32) -> f32 {
        vgetq_lane_f32::<0>(exp2(vdupq_n_f32(x)))
    }

    #[test]
    fn exp2_is_within_its_bound() {
        let mut worst = 0.0_f64;
        for step in 0..=1_255_000 {
            let x = -(step as f32) * 1e-4;
            let expected = f64::from(x).exp2();
            // SAFETY: every 64-bit Arm has NEON.
            let found = unsafe { exp2_of(x) };
            let unit = f64::from((expected as f32).next_up()) - f64::from(expected as f32);
            worst = worst.max((f64::from(found) - expected).abs() / unit);
        }
        assert!(worst <= 2.1, "{worst} units in the last place");
    }

    #[test]
    fn exp2_far_below_is_exactly_zero_and_nan_stays() {
        for x in [-126.1, -1e3, -1e30, f32::MIN, f32::NEG_INFINITY] {
            // SAFETY: every 64-bit Arm has NEON.
            assert_eq!(unsafe { exp2_of(x) }.to_bits(), 0, "exp2({x})");
        }
        // SAFETY: as above.
        assert_eq!(unsafe { exp2_of(0.0) }, 1.0);
        // SAFETY: as above.
        assert!(unsafe { exp2_of(f32::NAN) }.is_nan());
    }

    #[target_feature(enable = "neon")]
    fn sum_of_first(count: usize, numbers: [f32; 4]) -> f32 {
        sum(first_lanes(count, load(&numbers)))
    }

    #[test]
    fn the_sum_of_the_first_lanes_leaves_out_the_others() {
        let sums = [0.0, 1.0, 3.0, 7.0, 15.0];
        for (count, expected) in sums.into_iter().enumerate() {
            // SAFETY: every 64-bit Arm has NEON.
            let found = unsafe { sum_of_first(count, [1.0, 2.0, 4.0, 8.0]) };
            assert_eq!(found, expected);
        }
    }
}
