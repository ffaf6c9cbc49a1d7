//! The rows of x in the order in which the tile reads them.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::amx::TiledRows;
use super::integers::{Integers, ROW_HEAD, RowScale, WORDS, k_blocks};
use super::{K_BLOCK, PackedMatrix, Product, Segment};
use crate::Cpu;
#[cfg(target_arch = "x86_64")]
use crate::amx::{TILE_ROWS, Tile};
use crate::isa::per_isa;
#[cfg(target_arch = "x86_64")]
use crate::threads::Chunks;
use crate::tile::ROWS;

/// Rows of `x` in panels of 6, one lane a row: for each panel one line a step of k (the bits of a
/// number, or a word of integers), for integers scale and zero of each block of k, then each side
/// product `x · lora_aᵀ`. Lanes past the last row are not read.
///
/// Where AMX reads the numbers, they are in tiles of 16 rows instead, and the lines have no steps.
#[derive(Default)]
pub(super) struct PackedRows {
    integers: Option<Integers>,
    /// Steps of a panel.
    steps: usize,
    /// Lines of a panel with scales and zeros.
    scales: usize,
    /// Lines of a panel: steps, scales and zeros, and the highest rank of the call.
    depth: usize,
    lines: Vec<[u32; ROWS]>,
    #[cfg(target_arch = "x86_64")]
    tiled: TiledRows,
}

impl PackedRows {
    /// Replaces the content by the rows and side products of a product.
    pub(super) fn pack(&mut self, cpu: &Cpu, product: &Product<'_>) {
        let Product {
            x,
            weights,
            segments,
            ..
        } = product;
        let k = weights.k();
        let integers = weights.integers();
        let loras = segments.iter().flat_map(|segment| segment.lora);
        let ranks = loras.map(|lora| lora.rank()).max().unwrap_or(0);
        self.integers = integers;
        #[cfg(target_arch = "x86_64")]
        let (tiles, packing) = self.tiled.begin(cpu, weights, x).unzip();
        #[cfg(not(target_arch = "x86_64"))]
        let packing: Option<()> = None;
        let is_tiled = packing.is_some();
        (self.steps, self.scales) = match integers {
            _ if is_tiled => (0, 0),
            Some(integers) => (integers.words(k), k.div_ceil(K_BLOCK) * ROW_HEAD),
            None => (k, 0),
        };
        self.depth = self.steps + self.scales + ranks;
        let row_count = x.len() / k;
        self.lines
            .resize(row_count.div_ceil(ROWS) * self.depth, [0; ROWS]);
        let (steps, scales) = (self.steps, self.scales);
        let pack_panel = |panel, lines: &mut [[u32; ROWS]]| {
            let rows = panel * ROWS..row_count.min((panel + 1) * ROWS);
            let (steps, rest) = lines.split_at_mut(steps);
            let (scales, side) = rest.split_at_mut(scales);
            let x = &x[rows.start * k..rows.end * k];
            match integers {
                _ if is_tiled => {}
                Some(integers) => interleave_integers(cpu, integers, weights, x, steps, scales),
                None => interleave(x, k, steps, |number| number.to_bits()),
            }
            side_products(cpu, rows, x, segments, side);
        };
        #[cfg(target_arch = "x86_64")]
        if let (Some(tiles), Some(packing)) = (tiles, packing) {
            let panels = Chunks::new(&mut self.lines, self.depth.max(1));
            let pack_tiles = |chunk, tiles: &mut [Tile]| packing.fill(chunk, tiles);
            return cpu
                .pool()
                .for_each_of_both(tiles, &pack_tiles, panels, &pack_panel);
        }
        cpu.pool()
            .for_each_chunk(&mut self.lines, self.depth.max(1), &pack_panel);
    }

    /// Rows that a task takes together.
    pub(super) fn panel_rows(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.tiled.is_used() {
            // Two tiles, so that a tile of weights is used twice.
            return 2 * TILE_ROWS;
        }
        ROWS
    }

    /// Lines of a panel for some rows of a task: whole tiles, where there are any.
    pub(super) fn tile_rows(&self, rows: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.tiled.is_used() {
            return rows.next_multiple_of(TILE_ROWS);
        }
        rows
    }

    /// The rows in tiles; empty unless AMX reads them.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn tiled(&self) -> &TiledRows {
        &self.tiled
    }

    /// The steps of a panel over one block of k.
    #[inline(always)]
    pub(super) fn steps(&self, panel: usize, k: Range<usize>) -> &[[u32; ROWS]] {
        let steps = match self.integers {
            Some(integers) => integers.words(k.start)..integers.words(k.end),
            None => k,
        };
        &self.lines[panel * self.depth..][steps]
    }

    /// Scale and zero of the integers of a row in one block of k.
    #[inline(always)]
    pub(super) fn scale(&self, row: usize, block: usize) -> (f32, i32) {
        let first = row / ROWS * self.depth + self.steps + block * ROW_HEAD;
        let [scale, zero] = [0, 1].map(|line| self.lines[first + line][row % ROWS]);
        (f32::from_bits(scale), zero.cast_signed())
    }

    /// The side products of a panel, as bits.
    pub(super) fn side(&self, panel: usize) -> &[[u32; ROWS]] {
        &self.lines[panel * self.depth..][self.steps + self.scales..self.depth]
    }
}

/// Transposes up to 6 rows of length `len`.
fn interleave<T: Copy>(rows: &[T], len: usize, lines: &mut [[u32; ROWS]], bits: impl Fn(T) -> u32) {
    if rows.len() == ROWS * len {
        let rows: [&[T]; ROWS] = std::array::from_fn(|row| &rows[row * len..][..len]);
        for (step, line) in lines.iter_mut().enumerate() {
            *line = std::array::from_fn(|row| bits(rows[row][step]));
        }
    } else {
        for (lane, row) in rows.chunks_exact(len).enumerate() {
            for (line, number) in lines.iter_mut().zip(row) {
                line[lane] = bits(*number);
            }
        }
    }
}

/// The same for the integers of the rows, block by block, with their scales.
fn interleave_integers(
    cpu: &Cpu,
    integers: Integers,
    weights: &PackedMatrix,
    x: &[f32],
    steps: &mut [[u32; ROWS]],
    scales: &mut [[u32; ROWS]],
) {
    let k = weights.k();
    let mut words = [0; ROWS * WORDS];
    let mut smoothed = [0.0; K_BLOCK];
    for (k_block, scales) in k_blocks(k).zip(scales.chunks_exact_mut(ROW_HEAD)) {
        let len = integers.words(k_block.len());
        let rows = x.chunks_exact(k).zip(words.chunks_exact_mut(len));
        for (lane, (x, words)) in rows.enumerate() {
            let numbers = smooth(weights, x, k_block.clone(), &mut smoothed);
            let RowScale { scale, zero, .. } = per_isa!(
                cpu.isa(),
                portable => integers.pack_row(numbers, words),
                avx2 => super::avx2::pack_row(integers, numbers, words),
                avx512 => super::avx512::pack_row(integers, numbers, words),
                neon => super::neon::pack_row(integers, numbers, words),
            );
            scales[0][lane] = scale.to_bits();
            scales[1][lane] = zero.cast_unsigned();
        }
        let first = integers.words(k_block.start);
        let words = &words[..x.len() / k * len];
        let flipped = integers.flipped_bits(cpu.isa());
        interleave(words, len, &mut steps[first..first + len], |word| {
            word ^ flipped
        });
    }
}

/// The numbers of a row in a block of k, smoothed if their weights are.
#[inline(always)]
pub(super) fn smooth<'a>(
    weights: &PackedMatrix,
    row: &'a [f32],
    k: Range<usize>,
    smoothed: &'a mut [f32; K_BLOCK],
) -> &'a [f32] {
    let numbers = &row[k.clone()];
    let Some(factors) = weights.inverse_smoothing() else {
        return numbers;
    };
    let smoothed = &mut smoothed[..numbers.len()];
    for ((smoothed, number), factor) in smoothed.iter_mut().zip(numbers).zip(&factors[k]) {
        *smoothed = number * factor;
    }
    smoothed
}

/// Rows of a panel that meet one adapter.
pub(super) struct SideRows<'a> {
    /// [rows, k].
    pub(super) x: &'a [f32],
    pub(super) k: usize,
    /// [rank, k].
    pub(super) lora_a: &'a [f32],
    /// That of the first row.
    pub(super) lane: usize,
}

impl SideRows<'_> {
    /// `side[j][lane + i] = x[i] · lora_a[j]`: `R` rows by four of `lora_a` at once, which hides the
    /// latency, what is left over one by one. A product has one order of its own either way.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    pub(super) fn multiply<const R: usize>(
        &self,
        side: &mut [[u32; ROWS]],
        by_four: impl Fn(&[f32], &[f32]) -> [[f32; 4]; R],
        one: impl Fn(&[f32], &[f32]) -> f32,
    ) {
        let k = self.k;
        for (lane, x) in (self.lane..).step_by(R).zip(self.x.chunks(R * k)) {
            for (side, lora_a) in side.chunks_mut(4).zip(self.lora_a.chunks(4 * k)) {
                if x.len() == R * k && lora_a.len() == 4 * k {
                    for (lane, products) in (lane..).zip(by_four(x, lora_a)) {
                        for (side, product) in side.iter_mut().zip(products) {
                            side[lane] = product.to_bits();
                        }
                    }
                } else {
                    for (lane, x) in (lane..).zip(x.chunks_exact(k)) {
                        for (side, lora_a) in side.iter_mut().zip(lora_a.chunks_exact(k)) {
                            side[lane] = one(x, lora_a).to_bits();
                        }
                    }
                }
            }
        }
    }
}

/// The side products of the rows of a panel, each with the adapter of its segment.
fn side_products(
    cpu: &Cpu,
    rows: Range<usize>,
    x: &[f32],
    segments: &[Segment<'_>],
    side: &mut [[u32; ROWS]],
) {
    let k = x.len() / rows.len();
    let first = segments.partition_point(|segment| segment.rows.end <= rows.start);
    for segment in &segments[first..] {
        if segment.rows.start >= rows.end {
            break;
        }
        let lanes = segment.rows.start.max(rows.start) - rows.start
            ..segment.rows.end.min(rows.end) - rows.start;
        let Some(lora) = segment.lora else {
            continue;
        };
        let rows = SideRows {
            x: &x[lanes.start * k..lanes.end * k],
            k,
            lora_a: lora.lora_a(),
            lane: lanes.start,
        };
        per_isa!(
            cpu.isa(),
            portable => super::portable::side_products(&rows, side),
            avx2 => super::avx2::side_products(&rows, side),
            avx512 => super::avx512::side_products(&rows, side),
            neon => super::neon::side_products(&rows, side),
        );
    }
}
