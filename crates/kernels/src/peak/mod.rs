//! The most f32 operations that one core does in a second, measured.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use crate::Isa;
use crate::isa::per_isa;

/// Independent sums: enough to keep every multiply-add unit busy through its latency.
const CHAINS: usize = 12;

/// Multiply-adds of one lane of one chain in a run: about a millisecond.
const STEPS: usize = 300_000;

/// Runs; the fastest one counts, since a shared machine only ever makes a run slower.
const RUNS: usize = 60;

/// 10⁹ operations a second on one core; a multiply-add counts as two.
pub(crate) fn measure_gflops(isa: Isa) -> f64 {
    best_of(isa, RUNS)
}

/// Whether registers of 16 lanes do more multiply-adds a second than those of 8. They do where the
/// units are that wide; where an instruction goes through them twice, AVX2 is as fast and smaller
/// tiles lose less. Measured once, in a few milliseconds.
pub(crate) fn is_wide(isa: Isa) -> bool {
    static IS_WIDE: OnceLock<bool> = OnceLock::new();
    let measure = || best_of(Isa::Avx512, 3) > 1.25 * best_of(Isa::Avx2, 3);
    matches!(isa, Isa::Avx512 | Isa::Amx) && *IS_WIDE.get_or_init(measure)
}

fn best_of(isa: Isa, runs: usize) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..runs {
        let start = Instant::now();
        let lanes = per_isa!(
            isa,
            portable => multiply_add(black_box(0.5)),
            avx2 => avx2::multiply_add(black_box(0.5)),
            avx512 => avx512::multiply_add(black_box(0.5)),
            neon => neon::multiply_add(black_box(0.5)),
        );
        let operations = (2 * CHAINS * lanes * STEPS) as f64;
        best = best.max(operations / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// Four lanes a chain: the register that every 64-bit target has.
fn multiply_add(factor: f32) -> usize {
    const LANES: usize = 4;
    let mut sums = [[factor; LANES]; CHAINS];
    for _ in 0..STEPS {
        for chain in &mut sums {
            for lane in chain {
                *lane = *lane * factor + factor;
            }
        }
    }
    black_box(sums);
    LANES
}
