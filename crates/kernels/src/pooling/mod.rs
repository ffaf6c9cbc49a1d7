//! Sums of rows over spans of tokens.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

use crate::Cpu;
use crate::isa::per_isa;
use crate::threads::DisjointSlice;

/// Columns per task, so that one long span is shared by the threads too.
const COLUMNS_PER_TASK: usize = 128;

/// Rows whose sum is taken before it is added to the total. The error of a sum of n rows then grows
/// with `64 + n / 64` roundings instead of `n`: 192 for 8192 rows.
const ROWS_PER_BLOCK: usize = 64;

/// Sums rows of `hidden_states` [tokens, hidden] over each span of tokens, into `out`
/// [spans, hidden]. Spans may overlap; the sum over an empty one is 0. The order of each sum is
/// fixed relative to the start of its span.
///
/// # Panics
/// If the lengths do not agree, or a span reaches past the last token.
pub fn span_sums(
    cpu: &Cpu,
    hidden_states: &[f32],
    hidden: usize,
    spans: &[Range<usize>],
    out: &mut [f32],
) {
    assert!(
        hidden > 0 && hidden_states.len().is_multiple_of(hidden),
        "{} numbers in rows of {hidden}",
        hidden_states.len()
    );
    assert_eq!(out.len(), spans.len() * hidden, "room for the sums");
    let tokens = hidden_states.len() / hidden;
    for span in spans {
        assert!(
            span.start <= span.end && span.end <= tokens,
            "span {span:?} of {tokens} tokens"
        );
    }
    let parts = hidden.div_ceil(COLUMNS_PER_TASK);
    let out = DisjointSlice::new(out);
    cpu.pool().run(spans.len() * parts, &|task, _| {
        let (span, part) = (task / parts, task % parts);
        let first = part * COLUMNS_PER_TASK;
        let columns = first..hidden.min(first + COLUMNS_PER_TASK);
        let rows = &hidden_states[spans[span].start * hidden..spans[span].end * hidden];
        let out_columns = span * hidden + columns.start..span * hidden + columns.end;
        #[expect(unsafe_code, reason = "tasks write disjoint parts of the output")]
        // SAFETY: no other task has this span and these columns.
        let sums = unsafe { out.range(out_columns) };
        per_isa!(
            cpu.isa(),
            portable => sum_rows(rows, hidden, columns, sums),
            avx2 => avx2::sum_rows(rows, hidden, columns, sums),
        );
    });
}

/// The specification; also compiled for wider registers, with the same bits. `rows` is
/// [any, hidden]; the sums over its columns `columns` go to `sums`.
#[inline(always)]
fn sum_rows(rows: &[f32], hidden: usize, columns: Range<usize>, sums: &mut [f32]) {
    sums.fill(0.0);
    for block in rows.chunks(ROWS_PER_BLOCK * hidden) {
        let mut block_sums = [0.0; COLUMNS_PER_TASK];
        let block_sums = &mut block_sums[..columns.len()];
        for row in block.chunks_exact(hidden) {
            add(block_sums, &row[columns.clone()]);
        }
        add(sums, block_sums);
    }
}

#[inline(always)]
fn add(sums: &mut [f32], row: &[f32]) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += x;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{bits, cpus, uniform};

    fn sums(cpu: &Cpu, states: &[f32], hidden: usize, spans: &[Range<usize>]) -> Vec<f32> {
        let mut out = vec![f32::NAN; spans.len() * hidden];
        span_sums(cpu, states, hidden, spans, &mut out);
        out
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            hidden in 1_usize..300,
            ends in prop::collection::vec((0_usize..=90, 0_usize..=90), 0..5),
            threads in 1_usize..=3,
            seed: u64,
        ) {
            let states = uniform(seed, 90 * hidden);
            let spans: Vec<_> = ends.iter().map(|&(a, b)| a.min(b)..a.max(b)).collect();
            for cpu in cpus(threads) {
                let found = sums(&cpu, &states, hidden, &spans);
                for (span, found) in spans.iter().zip(found.chunks_exact(hidden)) {
                    for (column, found) in found.iter().enumerate() {
                        let rows = span.clone().map(|row| f64::from(states[row * hidden + column]));
                        // At most 91 roundings of a sum that stays below 90.
                        prop_assert!((f64::from(*found) - rows.sum::<f64>()).abs() <= 1e-4);
                    }
                }
            }
        }
    }

    #[test]
    fn a_span_has_the_same_bits_wherever_it_starts() {
        let hidden = 200;
        let states = uniform(4, 500 * hidden);
        for (cpu, alone) in cpus(3).iter().zip(cpus(1)) {
            let spans = [0..500, 17..417, 17..18, 499..500];
            let found = sums(cpu, &states, hidden, &spans);
            for (span, found) in spans.iter().zip(found.chunks_exact(hidden)) {
                let rows = &states[span.start * hidden..span.end * hidden];
                let whole = 0..span.len();
                let one = sums(&alone, rows, hidden, std::slice::from_ref(&whole));
                assert_eq!(bits(&one), bits(found));
            }
        }
    }

    #[test]
    fn the_sum_of_8192_rows_is_accurate() {
        // Positive numbers, where a plain chain of additions would lose 3e-5 of the sum.
        let states: Vec<f32> = uniform(6, 8192 * 3).iter().map(|x| x + 1.0).collect();
        for cpu in cpus(2) {
            let found = sums(&cpu, &states, 3, std::slice::from_ref(&(0..8192)));
            for (column, found) in found.iter().enumerate() {
                let expected: f64 = states
                    .chunks_exact(3)
                    .map(|row| f64::from(row[column]))
                    .sum();
                assert!((f64::from(*found) / expected - 1.0).abs() <= 1e-6);
            }
        }
    }

    /// `torch.arange(12.).reshape(4, 3)[1:4].sum(0)` and `[0:2].sum(0)`, torch 2.15.
    #[test]
    fn equals_torch() {
        let states: Vec<f32> = (0..12).map(|i| i as f32).collect();
        for cpu in cpus(1) {
            let found = sums(&cpu, &states, 3, &[1..4, 0..2, 2..2]);
            assert_eq!(found, [18.0, 21.0, 24.0, 3.0, 5.0, 7.0, 0.0, 0.0, 0.0]);
        }
    }
}
