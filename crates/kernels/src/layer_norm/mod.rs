//! Layer normalisation in place.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::Cpu;
use crate::isa::per_isa;

/// Rows are handed to the threads in groups of about this many numbers: some microseconds of work.
const NUMBERS_PER_TASK: usize = 16 * 1024;

/// Normalises each row of `x` [rows, hidden] in place, where `hidden` is the length of `weight`
/// and of `bias` (Ba et al. 2016, eq. 4; `torch.nn.LayerNorm`):
/// `(x - mean) / sqrt(variance + eps) * weight + bias`, with the biased variance, computed in a
/// second pass over the differences from the mean.
///
/// # Panics
/// If `bias` is not as long as `weight`, or `x` is no whole number of rows.
pub fn layer_norm(cpu: &Cpu, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let hidden = weight.len();
    assert_eq!(bias.len(), hidden, "bias for {hidden} columns");
    if x.is_empty() {
        return;
    }
    assert!(
        hidden > 0 && x.len().is_multiple_of(hidden),
        "{} numbers in rows of {hidden}",
        x.len()
    );
    let rows_per_task = (NUMBERS_PER_TASK / hidden).max(1);
    cpu.pool()
        .for_each_chunk(x, rows_per_task * hidden, &|_, rows| {
            per_isa!(
                cpu.isa(),
                portable => normalise(rows, weight, bias, eps),
                avx2 => avx2::normalise(rows, weight, bias, eps),
                neon => neon::normalise(rows, weight, bias, eps),
            );
        });
}

/// The specification. Sums in f64, so that other versions are compared with the true value.
fn normalise(rows: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let hidden = weight.len() as f64;
    for row in rows.chunks_exact_mut(weight.len()) {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / hidden;
        let variance = row
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>()
            / hidden;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        for ((x, &weight), &bias) in row.iter_mut().zip(weight).zip(bias) {
            *x = ((f64::from(*x) - mean) * scale) as f32 * weight + bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{bits, cpus, uniform};

    /// The sums of the fast versions are f32, in at least 8 parts; their rounding and that of the
    /// scale stay within a few units in the last place of a value of size 1 to 4.
    const TOLERANCE: f32 = 4e-6;

    fn inputs(seed: u64, rows: usize, hidden: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let x = uniform(seed, rows * hidden)
            .iter()
            .map(|x| x * 3.0 + 0.5)
            .collect();
        (x, uniform(seed + 1, hidden), uniform(seed + 2, hidden))
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(rows in 0_usize..6, hidden in 1_usize..80, seed: u64) {
            let (x, weight, bias) = inputs(seed >> 1, rows, hidden);
            let mut expected = x.clone();
            normalise(&mut expected, &weight, &bias, 1e-5);
            for cpu in cpus(1) {
                let mut found = x.clone();
                layer_norm(&cpu, &mut found, &weight, &bias, 1e-5);
                for (found, expected) in found.iter().zip(&expected) {
                    // A row of one or two numbers may have almost no variance; then the error of
                    // the mean is divided by sqrt(eps).
                    let tolerance = if hidden < 8 { 2e-4 } else { TOLERANCE };
                    prop_assert!((found - expected).abs() <= tolerance, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch() {
        let hidden = 1024;
        let (x, weight, bias) = inputs(7, 70, hidden);
        for threads in [1, 2, 3] {
            for (cpu, alone) in cpus(threads).iter().zip(cpus(1)) {
                let mut batch = x.clone();
                layer_norm(cpu, &mut batch, &weight, &bias, 1e-5);
                for (row, batch) in x.chunks_exact(hidden).zip(batch.chunks_exact(hidden)) {
                    let mut row = row.to_vec();
                    layer_norm(&alone, &mut row, &weight, &bias, 1e-5);
                    assert_eq!(bits(&row), bits(batch));
                }
            }
        }
    }

    /// `F.layer_norm(torch.arange(10.) ** 2 / 8 - 3, (10,), torch.linspace(.5, 1.4, 10),
    /// torch.linspace(-1, 1, 10), 1e-5)`, torch 2.15.
    #[test]
    fn equals_torch() {
        let mut x: Vec<f32> = (0..10).map(|i| (i * i) as f32 / 8.0 - 3.0).collect();
        let weight: Vec<f32> = (0..10).map(|i| 0.5 + 0.1 * i as f32).collect();
        let bias: Vec<f32> = (0..10).map(|i| i as f32 / 4.5 - 1.0).collect();
        let x_before = x.clone();
        for cpu in cpus(1) {
            x.copy_from_slice(&x_before);
            layer_norm(&cpu, &mut x, &weight, &bias, 1e-5);
            for (found, expected) in x.iter().zip(TORCH) {
                assert!((found - expected).abs() <= TOLERANCE, "{found} {expected}");
            }
        }
    }

    const TORCH: [f32; 10] = [
        -1.530_679_1,
        -1.392_248_4,
        -1.194_232_6,
        -0.914_287_27,
        -0.530_068_3,
        -0.019_231_11,
        0.640_568_6,
        1.471_675_4,
        2.496_433_3,
        3.737_187,
    ];
}
