//! Rounding of 8-bit weights that makes up for its own errors.
//!
//! Rounding to nearest brings each weight as near as it can be, but what counts is the product. With
//! E the errors of a column of the product (a row of the weights) and M = Σ xᵀx over the rows that it
//! will be multiplied with, the squared error of the product is E · M · Eᵀ. Factored as
//! M = U · D · Uᵀ, U upper triangular with ones on the diagonal, that is
//! Σₖ D[k] · (E[k] + Σ_{j<k} E[j] · U[j][k])². So the weights are rounded in the order of k, and each
//! is first moved by minus what the errors before it come to there: then every bracket is the error
//! of one rounding. This is GPTQ (Frantar et al. 2023) in the form of LDLQ (Chee et al. 2023, QuIP,
//! section 3), which gives the same numbers without an inverse.
//!
//! Scales and bounds are those of `integers.rs`: one scale for each block of k, from the weights as
//! they have been moved when the block begins; a weight that would pass a bound stops there, and the
//! next ones make up for that too.
//!
//! M is summed by the 16-bit integer products, which give the same bits on every instruction set;
//! everything behind it is plain Rust with one order for each sum. So equal rows give equal integers,
//! whatever the machine and the number of threads.

use std::ops::Range;

use super::integers::{
    BYTE_MAX, HEAD, Integers, TWO_WORDS, WEIGHT_FOUR_LIMIT, finite_or_zero, four_of, round,
};
use super::pack::{Format, PackedMatrix, Rows};
use super::{Epilogue, GemmScratch, K_BLOCK, Product, Segment, product};
use crate::Cpu;
use crate::tile::{COLUMNS, F32x16, Words};

/// Rows that are summed at once: one block of the product's k. Its sum is an exact integer times two
/// scales, which has the same bits with a fused multiply-add as without.
const ROWS_AT_ONCE: usize = K_BLOCK;

/// What is added to the diagonal of M, as a share of its mean: directions that no row took still count
/// a little (Frantar et al. 2023, section 3.3, step 3).
const DAMPING: f64 = 0.01;

/// Columns of the factor that are finished together, so that their rows stay in the L2 cache.
const FACTOR_BLOCK: usize = 64;

/// Sums of a dot product that do not wait for each other.
const CHAINS: usize = 8;

/// Σ xᵀx over rows `x` of length k.
pub struct Moments {
    k: usize,
    /// Rows that are still to be summed, fewer than [`ROWS_AT_ONCE`].
    waiting: Vec<f32>,
    /// [k, k]; both triangles are sums of the same products, rounded apart.
    sums: Vec<f32>,
    scratch: GemmScratch,
}

impl Moments {
    /// The sum over no rows of length `k`.
    ///
    /// # Panics
    /// If `k` is 0.
    pub fn new(k: usize) -> Moments {
        assert!(k > 0, "rows without numbers");
        Moments {
            k,
            waiting: Vec::new(),
            sums: vec![0.0; k * k],
            scratch: GemmScratch::default(),
        }
    }

    /// Adds the rows of `x` [m, k]. How rows are spread over calls changes nothing.
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn add(&mut self, cpu: &Cpu, x: &[f32]) {
        assert!(x.len().is_multiple_of(self.k), "rows of {}", self.k);
        let full = ROWS_AT_ONCE * self.k;
        let mut rest = x;
        while self.waiting.len() + rest.len() >= full {
            let (now, later) = rest.split_at(full - self.waiting.len());
            self.waiting.extend_from_slice(now);
            self.sum(cpu);
            rest = later;
        }
        self.waiting.extend_from_slice(rest);
    }

    /// Adds the rows that wait.
    fn sum(&mut self, cpu: &Cpu) {
        let k = self.k;
        let rows = self.waiting.len() / k;
        if rows == 0 {
            return;
        }
        let mut columns = vec![0.0; k * rows];
        let waiting = &self.waiting;
        cpu.pool()
            .for_each_chunk(&mut columns, rows, &|column, numbers| {
                let of_rows = waiting[column..].iter().step_by(k);
                numbers.iter_mut().zip(of_rows).for_each(|(to, x)| *to = *x);
            });
        self.waiting.clear();
        let bytes: Vec<u8> = columns.iter().flat_map(|x| x.to_le_bytes()).collect();
        let weights = PackedMatrix::pack(cpu, &[Rows::F32(&bytes)], rows, Format::Int16);
        drop(bytes);
        let mut sums = vec![0.0; k * k];
        let operands = Product {
            x: &columns,
            weights: &weights,
            bias: &vec![0.0; k],
            segments: &[Segment {
                rows: 0..k,
                lora: None,
            }],
            epilogue: Epilogue::BiasResidual(&self.sums),
        };
        product(cpu, &mut self.scratch, &operands, &mut sums);
        self.sums = sums;
    }

    /// What the rounding of weights needs whose columns are smoothed by these factors, as
    /// [`PackedMatrix::pack_smoothed`] has them.
    ///
    /// # Panics
    /// If there are not `k` factors.
    pub fn compensation(mut self, cpu: &Cpu, smoothing: &[f32]) -> Compensation {
        assert_eq!(smoothing.len(), self.k, "a factor for each column");
        self.sum(cpu);
        let Moments { k, sums, .. } = self;
        let factor = |index: usize| f64::from(smoothing[index]).recip();
        let moment = |row: usize, column: usize| {
            let both = f64::from(sums[row * k + column]) + f64::from(sums[column * k + row]);
            0.5 * both * factor(row) * factor(column)
        };
        let trace: f64 = (0..k).map(|index| moment(index, index)).sum();
        // Without rows everything is 0, and so is what is carried on.
        let damping = (DAMPING * trace / k as f64).max(f64::MIN_POSITIVE);
        // U·D·Uᵀ is a Cholesky factor with rows and columns in the opposite order.
        let last = k - 1;
        let mut matrix = vec![0.0; k * k];
        cpu.pool().for_each_chunk(&mut matrix, k, &|row, numbers| {
            for (column, number) in numbers[..=row].iter_mut().enumerate() {
                *number = moment(last - row, last - column);
            }
            numbers[row] += damping;
        });
        drop(sums);
        factorise(cpu, &mut matrix, k, damping);
        let carried = (0..k).flat_map(|column| {
            let matrix = &matrix;
            let at = move |row: usize| matrix[(last - row) * k + (last - column)];
            (0..column).map(move |row| finite_or_zero((at(row) / at(column)) as f32))
        });
        Compensation {
            k,
            carried: carried.collect(),
        }
    }
}

/// Overwrites the lower triangle of a positive definite matrix [k, k] by its Cholesky factor. No pivot
/// of the exact matrix is below `least`; what rounding takes away is given back.
fn factorise(cpu: &Cpu, matrix: &mut [f64], k: usize, least: f64) {
    for start in (0..k).step_by(FACTOR_BLOCK) {
        let end = k.min(start + FACTOR_BLOCK);
        for row in start..end {
            let (above, below) = matrix.split_at_mut(row * k);
            let numbers = &mut below[..k];
            eliminate(numbers, &above[start * k..], start..row);
            let (before, pivot) = numbers.split_at_mut(row);
            pivot[0] = (pivot[0] - dot(before, before)).max(least).sqrt();
        }
        let (above, below) = matrix.split_at_mut(end * k);
        let block = &above[start * k..];
        cpu.pool().for_each_chunk(below, k, &|_, numbers| {
            eliminate(numbers, block, start..end);
        });
    }
}

/// Finishes some columns of a row of the factor; `rows` are the rows of those numbers.
fn eliminate(numbers: &mut [f64], rows: &[f64], columns: Range<usize>) {
    for (column, other) in columns.zip(rows.chunks_exact(numbers.len())) {
        let (before, rest) = numbers.split_at_mut(column);
        rest[0] = (rest[0] - dot(before, &other[..column])) / other[column];
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_chunks, a_rest) = a.as_chunks::<CHAINS>();
    let (b_chunks, b_rest) = b.as_chunks::<CHAINS>();
    let mut sums = [0.0; CHAINS];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// What the errors of weights come to at the ones behind them: U of the head of this file.
pub struct Compensation {
    k: usize,
    /// For each k the numbers U[j][k] of all j < k.
    carried: Vec<f32>,
}

impl Compensation {
    /// The length of the rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// What the errors of some j before `step` come to there, one lane a column of the product.
    fn carried(&self, step: usize, range: Range<usize>, errors: &[F32x16]) -> F32x16 {
        let row = &self.carried[step * step.saturating_sub(1) / 2..][..step];
        let mut sums = F32x16::default();
        for (factor, error) in row[range.clone()].iter().zip(&errors[range]) {
            for (sum, error) in sums.0.iter_mut().zip(error.0) {
                *sum += factor * error;
            }
        }
        sums
    }

    /// Fills the lines of one panel and block of k from the numbers of its columns. `errors` [k] are
    /// those of the blocks before, and get those of this one.
    pub(super) fn pack_panel(
        &self,
        k: Range<usize>,
        columns: &[[f32; K_BLOCK]; COLUMNS],
        errors: &mut [F32x16],
        lines: &mut [Words],
    ) {
        let (head, steps) = lines.split_at_mut(HEAD);
        let mut moved = *columns;
        for (index, step) in k.clone().enumerate() {
            let carried = self.carried(step, 0..k.start, errors);
            for (column, carried) in moved.iter_mut().zip(carried.0) {
                column[index] -= carried;
            }
        }
        let integers = Integers::Bits8;
        let inverses = moved.each_ref().map(|column| {
            let inverse = integers.weight_inverse(&column[..k.len()]);
            finite_or_zero(inverse)
        });
        let scales = inverses.map(|inverse| finite_or_zero(1.0 / inverse));
        // What is left of the bound of each four.
        let mut rooms = [[0.0; 2]; COLUMNS];
        let mut sums = [0; COLUMNS];
        for (index, step) in k.clone().enumerate() {
            if index % TWO_WORDS == 0 {
                rooms = [[WEIGHT_FOUR_LIMIT; 2]; COLUMNS];
            }
            let carried = self.carried(step, k.start..step, errors);
            for lane in 0..COLUMNS {
                let wanted = (moved[lane][index] - carried.0[lane]) * inverses[lane];
                let room = &mut rooms[lane][four_of(index)];
                let limit = room.min(BYTE_MAX);
                let integer = round(finite_or_zero(wanted).clamp(-limit, limit));
                let rounded = integer as f32;
                *room -= rounded.abs();
                sums[lane] += integer;
                steps[index / integers.per_word()].0[lane] |= integers.place(integer, index);
                errors[step].0[lane] = rounded * scales[lane] - columns[lane][index];
            }
        }
        head[0].0 = scales.map(f32::to_bits);
        head[1].0 = sums.map(i32::cast_unsigned);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::Isa;
    use crate::testing::{bits, cpus, uniform};

    fn best() -> Cpu {
        Cpu::new(Isa::best(), NonZeroUsize::MIN)
    }

    /// Rows of which each number leans on its neighbours and some are large.
    fn rows(seed: u64, count: usize, k: usize) -> Vec<f32> {
        let mut rows = uniform(seed, count * k);
        for row in rows.chunks_exact_mut(k) {
            for index in 1..k {
                row[index] += 0.9 * row[index - 1];
            }
            row[k / 3] *= 8.0;
            row[k / 2] += 2.0;
        }
        rows
    }

    fn moments(cpu: &Cpu, rows: &[f32], k: usize) -> Moments {
        let mut moments = Moments::new(k);
        moments.add(cpu, rows);
        moments
    }

    fn bytes(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// The numbers of a matrix, row by row: its products with rows of a single 191, which are exact.
    fn numbers(cpu: &Cpu, weights: &PackedMatrix) -> Vec<f32> {
        let (n, k) = (weights.n(), weights.k());
        let mut x = vec![0.0; k * k];
        (0..k).for_each(|index| x[index * k + index] = 191.0);
        let mut out = vec![0.0; k * n];
        let operands = Product {
            x: &x,
            weights,
            bias: &vec![0.0; n],
            segments: &[Segment {
                rows: 0..k,
                lora: None,
            }],
            epilogue: Epilogue::Bias,
        };
        product(cpu, &mut GemmScratch::default(), &operands, &mut out);
        let of_row = |row: usize| (0..k).map(move |column| (row, column));
        let places = (0..n).flat_map(of_row);
        places
            .map(|(row, column)| out[column * n + row] / 191.0)
            .collect()
    }

    #[test]
    fn the_factor_is_that_of_the_moments() {
        for cpu in cpus(1) {
            for k in [1, 2, 9, 70, 150] {
                let rows = rows(3, 400, k);
                let smoothing: Vec<f32> = (0..k).map(|i| [1.0, 4.0][i % 2]).collect();
                let exact = |i: usize, j: usize| -> f64 {
                    let products = rows.chunks_exact(k).map(|x| f64::from(x[i] * x[j]));
                    products.sum::<f64>() / f64::from(smoothing[i] * smoothing[j])
                };
                let compensation = moments(&cpu, &rows, k).compensation(&cpu, &smoothing);
                let u = |row: usize, column: usize| {
                    f64::from(compensation.carried[column * (column - 1) / 2 + row])
                };
                let mean = (0..k).map(|i| exact(i, i)).sum::<f64>() / k as f64;
                // M = U·D·Uᵀ, taken apart from its last column on.
                let mut rest: Vec<Vec<f64>> = (0..k)
                    .map(|i| (0..k).map(|j| exact(i, j)).collect())
                    .collect();
                (0..k).for_each(|i| rest[i][i] += DAMPING * mean);
                for column in (0..k).rev() {
                    let numbers: Vec<f64> = rest.iter().map(|row| row[column]).collect();
                    let pivot = numbers[column];
                    for i in 0..column {
                        let (found, expected) = (u(i, column), numbers[i] / pivot);
                        let error = (found - expected).abs();
                        assert!(error < 1e-2, "{k} {i} {column}: {found} {expected}");
                        for j in 0..column {
                            rest[i][j] -= expected * numbers[j];
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn products_with_rows_of_the_same_kind_are_nearer() {
        let (n, k) = (40, 600);
        let weights = uniform(1, n * k);
        let bytes = bytes(&weights);
        let blocks = [Rows::F32(&bytes)];
        let smoothing = vec![1.0; k];
        let (known, new) = (rows(2, 3000, k), rows(4, 100, k));
        for cpu in cpus(1) {
            let compensation = moments(&cpu, &known, k).compensation(&cpu, &smoothing);
            let compensated =
                PackedMatrix::pack_compensated(&cpu, &blocks, &smoothing, &compensation);
            let nearest = PackedMatrix::pack(&cpu, &blocks, k, Format::Int8);
            let error = |matrix: &PackedMatrix| -> f64 {
                let rounded = numbers(&cpu, matrix);
                let pairs = rounded.chunks_exact(k).zip(weights.chunks_exact(k));
                pairs
                    .flat_map(|pair| new.chunks_exact(k).map(move |x| (pair, x)))
                    .map(|((rounded, weights), x)| {
                        let terms = rounded.iter().zip(weights).zip(x);
                        let sum: f64 = terms.map(|((a, b), x)| f64::from((a - b) * x)).sum();
                        sum * sum
                    })
                    .sum()
            };
            let (before, after) = (error(&nearest), error(&compensated));
            assert!(after < 0.5 * before, "{}: {before} {after}", cpu.isa());
        }
    }

    #[test]
    fn equal_rows_give_equal_bytes_on_every_instruction_set_and_number_of_threads() {
        let (n, k) = (20, 300);
        let bytes = bytes(&uniform(5, n * k));
        let smoothing: Vec<f32> = (0..k).map(|i| [1.0, 2.0, 8.0][i % 3]).collect();
        let rows = rows(6, ROWS_AT_ONCE + 70, k);
        let packed = |cpu: &Cpu, cut: usize| {
            let mut moments = Moments::new(k);
            moments.add(cpu, &rows[..cut * k]);
            moments.add(cpu, &rows[cut * k..]);
            let compensation = moments.compensation(cpu, &smoothing);
            let blocks = [Rows::F32(&bytes)];
            PackedMatrix::pack_compensated(cpu, &blocks, &smoothing, &compensation)
                .bytes()
                .to_vec()
        };
        let expected = packed(&best(), 0);
        for cpu in cpus(3) {
            assert!(packed(&cpu, 300) == expected, "{}", cpu.isa());
        }
    }

    #[test]
    fn without_rows_weights_are_rounded_to_nearest() {
        let cpu = best();
        let (n, k) = (17, 270);
        let bytes = bytes(&uniform(7, n * k));
        let blocks = [Rows::F32(&bytes)];
        let smoothing = vec![1.0; k];
        let compensation = Moments::new(k).compensation(&cpu, &smoothing);
        let found = PackedMatrix::pack_compensated(&cpu, &blocks, &smoothing, &compensation);
        let nearest = PackedMatrix::pack(&cpu, &blocks, k, Format::Int8);
        assert!(found.bytes() == nearest.bytes());
    }

    #[test]
    fn no_bound_is_passed_whatever_the_rows_are() {
        let cpu = best();
        let (n, k) = (16, 520);
        let mut weights = uniform(8, n * k);
        // Blocks of all sizes next to each other, so that what is carried on is out of scale.
        for (index, weight) in weights.iter_mut().enumerate() {
            *weight *= [1e-3, 1.0, 1e4][index % k / 200];
        }
        let bytes = bytes(&weights);
        let smoothing = vec![1.0; k];
        let constant = vec![1.0; 50 * k];
        let mut infinite = rows(9, 50, k);
        infinite[70] = f32::INFINITY;
        for rows in [rows(9, 50, k), constant, infinite] {
            let compensation = moments(&cpu, &rows, k).compensation(&cpu, &smoothing);
            let blocks = [Rows::F32(&bytes)];
            let matrix = PackedMatrix::pack_compensated(&cpu, &blocks, &smoothing, &compensation);
            for k_block in matrix.k_blocks() {
                let super::super::Lines::Int8(lines) = matrix.lines(k_block, 0..1) else {
                    panic!("8 bits were asked for");
                };
                let (head, steps) = lines.split_at(HEAD);
                for lane in 0..COLUMNS {
                    let integers: Vec<i32> = steps
                        .iter()
                        .flat_map(|line| line.0[lane].to_le_bytes())
                        .map(|byte| i32::from(byte.cast_signed()))
                        .collect();
                    assert!(integers.iter().all(|integer| integer.abs() <= 127));
                    assert_eq!(integers.iter().sum::<i32>(), head[1].0[lane].cast_signed());
                    assert!(f32::from_bits(head[0].0[lane]).is_finite());
                    for eight in integers.chunks(TWO_WORDS) {
                        for four in 0..2 {
                            let of = eight.iter().enumerate();
                            let of = of.filter(|(index, _)| four_of(*index) == four);
                            let sum: i32 = of.map(|(_, integer)| integer.abs()).sum();
                            assert!(sum <= 170, "{sum}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rows_are_summed_the_same_however_they_come() {
        let cpu = best();
        let k = 5;
        let rows = rows(10, 2 * ROWS_AT_ONCE + 3, k);
        let whole = moments(&cpu, &rows, k);
        let mut parts = Moments::new(k);
        for part in rows.chunks(700 * k) {
            parts.add(&cpu, part);
        }
        assert_eq!(bits(&parts.sums), bits(&whole.sums));
        assert_eq!(parts.waiting.len(), 3 * k);
    }
}
