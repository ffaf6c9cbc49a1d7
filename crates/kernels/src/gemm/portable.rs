//! Matrix products in plain Rust: the specification.

use std::ops::Range;

use super::integers::HEAD;
use super::rows::SideRows;
use super::{Block, Finish, K_BLOCK, Lines};
use crate::gelu::gelu_of;
use crate::tile::{Bf16x16, COLUMNS, F32x16, ROWS, Words};

/// Rows whose sums fit the registers of a 64-bit target without extensions.
/// The last row of an odd number goes alone.
const ROWS_AT_ONCE: usize = 2;

/// Adds one block of k to the tile.
pub(super) fn multiply(block: &Block<'_>, tile: &mut [F32x16]) {
    match block.weights {
        Lines::F32(lines) => multiply_lines(block, lines, |line| *line, tile),
        Lines::Bf16(lines) => multiply_lines(block, lines, Bf16x16::widen, tile),
        Lines::Int16(lines) => multiply_integers(block, lines, multiply_16_bits, tile),
        Lines::Int8(lines) => multiply_integers(block, lines, multiply_8_bits, tile),
    }
}

fn multiply_lines<L>(
    block: &Block<'_>,
    lines: &[L],
    widen: impl Fn(&L) -> F32x16,
    tile: &mut [F32x16],
) {
    let mut panel = [F32x16::default(); K_BLOCK];
    let panel = &mut panel[..block.k.len()];
    let panels = lines.chunks_exact(block.k.len());
    for (lines, sums) in panels.zip(tile.chunks_exact_mut(block.rows.len())) {
        for (wide, line) in panel.iter_mut().zip(lines) {
            *wide = widen(line);
        }
        for (index, sums) in sums.chunks_mut(ROWS).enumerate() {
            let x = block.x_steps(index);
            let is_first = block.is_first();
            let (pairs, last) = sums.as_chunks_mut::<ROWS_AT_ONCE>();
            for (pair, sums) in pairs.iter_mut().enumerate() {
                multiply_rows(x, pair * ROWS_AT_ONCE, panel, is_first, sums);
            }
            for sums in last {
                let lane = pairs.len() * ROWS_AT_ONCE;
                multiply_rows(x, lane, panel, is_first, std::array::from_mut(sums));
            }
        }
    }
}

fn multiply_rows<const N: usize>(
    x: &[[u32; ROWS]],
    lane: usize,
    panel: &[F32x16],
    is_first: bool,
    sums: &mut [F32x16; N],
) {
    let mut block_sums = [[0.0; COLUMNS]; N];
    for (x, line) in x.iter().zip(panel) {
        for (row, sums) in block_sums.iter_mut().enumerate() {
            let x = f32::from_bits(x[lane + row]);
            for (sum, weight) in sums.iter_mut().zip(&line.0) {
                *sum += x * weight;
            }
        }
    }
    for (sums, block_sums) in sums.iter_mut().zip(&block_sums) {
        for (sum, block_sum) in sums.0.iter_mut().zip(block_sums) {
            *sum = if is_first {
                *block_sum
            } else {
                *sum + block_sum
            };
        }
    }
}

/// `dot` multiplies a word of a row and a word of weights, number by number, and adds up.
fn multiply_integers(
    block: &Block<'_>,
    lines: &[Words],
    dot: impl Fn(u32, u32) -> i32,
    tile: &mut [F32x16],
) {
    let rows = block.rows.len();
    let panel_len = lines.len() / (tile.len() / rows);
    let panels = lines.chunks_exact(panel_len);
    for (lines, sums) in panels.zip(tile.chunks_exact_mut(rows)) {
        let (head, steps) = lines.split_at(HEAD);
        for (row, sums) in sums.iter_mut().enumerate() {
            let (x_scale, x_zero) = block.x_scale(row);
            let mut integers = head[1].0.map(|sum| -x_zero * sum.cast_signed());
            for (x, line) in block.x_steps(row / ROWS).iter().zip(steps) {
                for (sum, weight) in integers.iter_mut().zip(line.0) {
                    *sum += dot(x[row % ROWS], weight);
                }
            }
            for ((sum, integer), scale) in sums.0.iter_mut().zip(integers).zip(head[0].0) {
                let product = integer as f32 * f32::from_bits(scale) * x_scale;
                *sum = if block.is_first() {
                    product
                } else {
                    *sum + product
                };
            }
        }
    }
}

fn multiply_16_bits(x: u32, weights: u32) -> i32 {
    let half = |word: u32, shift: u32| i32::from((word >> shift) as i16);
    half(x, 0) * half(weights, 0) + half(x, 16) * half(weights, 16)
}

fn multiply_8_bits(x: u32, weights: u32) -> i32 {
    let pairs = x.to_le_bytes().into_iter().zip(weights.to_le_bytes());
    pairs
        .map(|(x, weight)| i32::from(x) * i32::from(weight.cast_signed()))
        .sum()
}

/// Bias, low-rank part, epilogue and output of one panel.
pub(super) fn finish(finish: &Finish<'_>, rows: Range<usize>, panel: usize, sums: &[F32x16]) {
    let bias = finish.bias(panel);
    finish.each_row(rows, panel, sums, |row| {
        let mut sums = *row.sums;
        add(&mut sums.0, &bias.0, 1.0);
        for (side, lora_b) in row.side.iter().zip(row.lora_b) {
            add(&mut sums.0, &lora_b.0, f32::from_bits(side[row.lane]));
        }
        if finish.is_gelu() {
            sums.0.iter_mut().for_each(|x| *x = gelu_of(*x));
        }
        add(&mut sums.0, row.residual, 1.0);
        row.out.copy_from_slice(&sums.0[..row.out.len()]);
    });
}

/// `sums += factor · numbers`.
fn add(sums: &mut [f32], numbers: &[f32], factor: f32) {
    for (sum, number) in sums.iter_mut().zip(numbers) {
        *sum += factor * number;
    }
}

/// `side[j][lane + i] = x[i] · lora_a[j]`.
pub(super) fn side_products(rows: &SideRows<'_>, side: &mut [[u32; ROWS]]) {
    for (lane, x) in (rows.lane..).zip(rows.x.chunks_exact(rows.k)) {
        for (side, lora_a) in side.iter_mut().zip(rows.lora_a.chunks_exact(rows.k)) {
            side[lane] = crate::attention::dot(x, lora_a).to_bits();
        }
    }
}
