//! The exact GELU.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
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
            neon => neon::gelu_slice(x),
        );
    });
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
