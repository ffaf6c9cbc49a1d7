//! Registers of 8 f32: loads, stores, sums and powers of 2.
#![expect(unsafe_code, reason = "loads and stores take raw pointers")]

use std::arch::x86_64::*;

/// Reads 8 numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn load(chunk: &[f32; 8]) -> __m256 {
    // SAFETY: the array is 32 readable bytes and the load needs no alignment.
    unsafe { _mm256_loadu_ps(chunk.as_ptr()) }
}

/// Writes 8 numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn store(chunk: &mut [f32; 8], lanes: __m256) {
    // SAFETY: the array is 32 writable bytes and the store needs no alignment.
    unsafe { _mm256_storeu_ps(chunk.as_mut_ptr(), lanes) }
}

/// Reads 8 words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn load_words(words: &[u32; 8]) -> __m256i {
    // SAFETY: the array is 32 readable bytes and the load needs no alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// Writes 8 words.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn store_words(words: &mut [u32; 8], lanes: __m256i) {
    // SAFETY: the array is 32 writable bytes and the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), lanes) }
}

/// Reads up to 8 numbers; the other lanes are 0.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn load_partial(part: &[f32]) -> __m256 {
    let mut chunk = [0.0; 8];
    chunk[..part.len()].copy_from_slice(part);
    load(&chunk)
}

/// Writes as many lanes as `part` has room for, 8 at most.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn store_partial(part: &mut [f32], lanes: __m256) {
    let mut chunk = [0.0; 8];
    store(&mut chunk, lanes);
    part.copy_from_slice(&chunk[..part.len()]);
}

/// Asks for the memory of `item` to be brought into the L2 cache.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn prefetch<T>(item: &T) {
    _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(item).cast());
}

/// A mask of the first `count` lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn first_lanes(count: usize) -> __m256 {
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lane))
}

/// The sum of all lanes, in the order ((0+4) + (2+6)) + ((1+5) + (3+7)).
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn sum(lanes: __m256) -> f32 {
    let four = _mm_add_ps(
        _mm256_castps256_ps128(lanes),
        _mm256_extractf128_ps::<1>(lanes),
    );
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// 2^r for |r| <= 1/2 from r^5 down to the constant: the polynomial with the least largest relative
/// error, 9.2e-8.
#[expect(
    clippy::approx_constant,
    reason = "the polynomial's own coefficient, not ln 2"
)]
pub(crate) const EXP2: [f32; 6] = [
    1.326_472_7e-3,
    9.671_513e-3,
    5.550_733_6e-2,
    2.402_224_2e-1,
    6.931_47e-1,
    1.0,
];

/// Below, where results near the subnormal range, [`exp2`] is 0: less than 2^-125 of the largest
/// weight of a softmax.
pub(crate) const EXP2_VANISHES_BELOW: f32 = -125.5;

/// 2 to the power of each lane, for lanes that are not positive.
///
/// x = n + r with n whole and |r| <= 1/2, then [`EXP2`]; within 2.1 units in the last place down to
/// [`EXP2_VANISHES_BELOW`].
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn exp2(x: __m256) -> __m256 {
    let power = _mm256_cvtps_epi32(x);
    let rest = _mm256_sub_ps(x, _mm256_cvtepi32_ps(power));
    let mut series = _mm256_set1_ps(EXP2[0]);
    for coefficient in &EXP2[1..] {
        series = _mm256_fmadd_ps(series, rest, _mm256_set1_ps(*coefficient));
    }
    // `power` is at least -126 where the result is kept, so adding it to the exponent is exact.
    let scaled = _mm256_castsi256_ps(_mm256_add_epi32(
        _mm256_castps_si256(series),
        _mm256_slli_epi32::<23>(power),
    ));
    let vanishes = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(EXP2_VANISHES_BELOW));
    _mm256_andnot_ps(vanishes, scaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[target_feature(enable = "avx2,fma")]
    fn exp2_of(x: f32) -> f32 {
        _mm256_cvtss_f32(exp2(_mm256_set1_ps(x)))
    }

    #[test]
    fn exp2_is_within_its_bound() {
        if !Isa::Avx2.is_available() {
            eprintln!("not run: this processor lacks `avx2`");
            return;
        }
        let mut worst = 0.0_f64;
        for step in 0..=1_255_000 {
            let x = -(step as f32) * 1e-4;
            let expected = f64::from(x).exp2();
            // SAFETY: the check above.
            let found = unsafe { exp2_of(x) };
            let unit = f64::from((expected as f32).next_up()) - f64::from(expected as f32);
            worst = worst.max((f64::from(found) - expected).abs() / unit);
        }
        assert!(worst <= 2.1, "{worst} units in the last place");
    }

    #[test]
    fn exp2_far_below_is_exactly_zero_and_nan_stays() {
        if !Isa::Avx2.is_available() {
            eprintln!("not run: this processor lacks `avx2`");
            return;
        }
        for x in [-126.1, -1e3, -1e30, f32::MIN, f32::NEG_INFINITY] {
            // SAFETY: the check above.
            assert_eq!(unsafe { exp2_of(x) }.to_bits(), 0, "exp2({x})");
        }
        // SAFETY: the check above.
        assert_eq!(unsafe { exp2_of(0.0) }, 1.0);
        // SAFETY: the check above.
        assert!(unsafe { exp2_of(f32::NAN) }.is_nan());
    }
}
