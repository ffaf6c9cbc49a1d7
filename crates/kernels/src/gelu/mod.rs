//! The exact GELU.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

use crate::Cpu;
use crate::isa::per_isa;

/// How many numbers one task gets: some microseconds of work.
const NUMBERS_PER_TASK: usize = 16 * 1024;

/// Applies `x · Φ(x) = x / 2 · (1 + erf(x / √2))` to each number in place (Hendrycks and Gimpel
/// 2016; `torch.nn.functional.gelu(approximate="none")`).
pub fn gelu(cpu: &Cpu, x: &mut [f32]) {
    cpu.pool().for_each_chunk(x, NUMBERS_PER_TASK, &|_, x| {
        per_isa!(
            cpu.isa(),
            portable => x.iter_mut().for_each(|x| *x = gelu_of(*x)),
            avx2 => avx2::gelu_slice(x),
            avx512 => avx512::gelu_slice(x),
            neon => neon::gelu_slice(x),
        );
    });
}

/// What the fast versions compute: `x · Φ(x)` as `max(x, 0) - t · Φ(-t)` with `t = |x|`.
///
/// `Φ(-t) = exp(-t² / 2) · M(t)`, where M, Mills' ratio over √(2π), is smooth: a polynomial of
/// degree 6 in `w = 1 / (1 + 0.4 t)`, fitted by weighted least squares towards the least largest
/// error of `t · Φ(-t)` over [0, 6], which is 1.4e-8. With the roundings `t · Φ(-t)` is within
/// 7e-8, and the last subtraction rounds once more. (The form is Hastings' for the error function,
/// Abramowitz and Stegun 7.1.26.)
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod mills {
    /// That of `w`.
    pub(super) const SLOPE: f32 = 0.4;
    /// From w⁶ down to the constant.
    pub(super) const RATIO: [f32; 7] = [
        5.363_063e-2,
        -2.420_601_4e-1,
        3.158_725_5e-1,
        3.686_528_7e-2,
        1.756_506_2e-1,
        1.604_923_2e-1,
        -4.511_753e-4,
    ];
    /// Where `t · Φ(-t)` is far below the smallest f32; keeps infinities out of the product.
    pub(super) const FAR: f32 = 15.0;
}

/// The specification.
pub(crate) fn gelu_of(x: f32) -> f32 {
    exact(f64::from(x)) as f32
}

/// In f64; `erfc` keeps the small results at negative `x` exact.
fn exact(x: f64) -> f64 {
    0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Isa;
    use crate::testing::{bits, cpus, uniform};

    /// The fast versions approximate within 7e-8 and round a result below 8 by up to 2.4e-7.
    const TOLERANCE: f64 = 3.1e-7;

    fn error(x: f32, found: f32) -> f64 {
        (f64::from(found) - exact(f64::from(x))).abs()
    }

    fn scaled(seed: u64, len: usize) -> Vec<f32> {
        uniform(seed, len).iter().map(|x| x * 6.0).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(len in 0_usize..40, seed: u64) {
            let x = scaled(seed, len);
            for cpu in cpus(1) {
                let mut found = x.clone();
                gelu(&cpu, &mut found);
                for (&x, found) in x.iter().zip(found) {
                    prop_assert!(error(x, found) <= TOLERANCE, "gelu({x}) = {found}");
                }
            }
        }
    }

    #[test]
    fn agrees_on_a_fine_grid_and_at_the_ends() {
        for cpu in cpus(2) {
            let x: Vec<f32> = (-600_000..=600_000).map(|i| i as f32 * 1e-5).collect();
            let mut found = x.clone();
            gelu(&cpu, &mut found);
            for (&x, found) in x.iter().zip(found) {
                assert!(error(x, found) <= TOLERANCE, "gelu({x}) = {found}");
            }
            let mut ends = [
                -1e30,
                -40.0,
                -14.0,
                14.0,
                40.0,
                1e30,
                f32::INFINITY,
                f32::NAN,
            ];
            gelu(&cpu, &mut ends);
            assert!(ends[..3].iter().all(|x| x.abs() < 1e-30), "{ends:?}");
            assert_eq!(ends[3..7], [14.0, 40.0, 1e30, f32::INFINITY]);
            assert!(ends[7].is_nan());
        }
    }

    #[test]
    fn a_number_has_the_same_bits_anywhere() {
        let x = scaled(5, 40_011);
        for (cpu, alone) in cpus(3).iter().zip(cpus(1)) {
            let mut all = x.clone();
            gelu(cpu, &mut all);
            for place in (0..x.len()).step_by(17) {
                let mut one = [x[place]];
                gelu(&alone, &mut one);
                assert_eq!(bits(&one), bits(&all[place..=place]));
            }
        }
    }

    #[test]
    fn avx2_and_avx512_give_the_same_bits() {
        let cpus = cpus(1);
        let of = |isa| cpus.iter().find(|cpu| cpu.isa() == isa);
        let (Some(avx2), Some(avx512)) = (of(Isa::Avx2), of(Isa::Avx512)) else {
            eprintln!("not run: this processor lacks `avx512`");
            return;
        };
        let mut x: Vec<f32> = (-90_000..=90_000).map(|i| i as f32 * 1e-4).collect();
        x.extend([-1e30, 1e30, f32::INFINITY, f32::NAN]);
        let results = [avx2, avx512].map(|cpu| {
            let mut found = x.clone();
            gelu(cpu, &mut found);
            bits(&found)
        });
        assert_eq!(results[0], results[1]);
    }

    /// `F.gelu(torch.tensor([-10, -3, -1, -.5, -.1, 0, .1, .5, 1, 3, 5, 10.]))`, torch 2.15,
    /// which is itself 5e-7 off at -3.
    #[test]
    fn equals_torch() {
        let x = [
            -10.0, -3.0, -1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0,
        ];
        let expected = [
            -0.0,
            -0.004_050_225,
            -0.158_655_26,
            -0.154_268_77,
            -0.046_017_22,
            0.0,
            0.053_982_783,
            0.345_731_23,
            0.841_344_7,
            2.995_949_7,
            4.999_999,
            10.0,
        ];
        for cpu in cpus(1) {
            let mut found = x;
            gelu(&cpu, &mut found);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 6e-7, "{found} {expected}");
            }
        }
    }
}
