//! Operands in the order in which the tile reads them.

use std::ops::Range;

use super::{K_BLOCK, Product};
use crate::Cpu;
use crate::isa::per_isa;
use crate::tile::{Bf16x16, COLUMNS, F32x16, ROWS};

/// Rows of a weight matrix as a file holds them: row-major [n, k], little-endian, any alignment.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// IEEE single precision.
    F32(&'a [u8]),
    /// The upper half of `F32`.
    Bf16(&'a [u8]),
    /// IEEE half precision.
    F16(&'a [u8]),
}

impl<'a> Rows<'a> {
    /// The bytes and how many of them make a number.
    fn parts(&self) -> (&'a [u8], usize) {
        match *self {
            Rows::F32(bytes) => (bytes, 4),
            Rows::Bf16(bytes) | Rows::F16(bytes) => (bytes, 2),
        }
    }

    /// Each row alone.
    fn split(self, k: usize) -> impl Iterator<Item = Rows<'a>> {
        let (bytes, size) = self.parts();
        assert!(
            bytes.len().is_multiple_of(k * size),
            "{} bytes in rows of {k} numbers of {size}",
            bytes.len()
        );
        bytes.chunks_exact(k * size).map(move |row| match self {
            Rows::F32(_) => Rows::F32(row),
            Rows::Bf16(_) => Rows::Bf16(row),
            Rows::F16(_) => Rows::F16(row),
        })
    }

    /// Calls `put(index, number)` for each number of `range`.
    #[inline(always)]
    fn each(&self, range: Range<usize>, mut put: impl FnMut(usize, f32)) {
        let (bytes, size) = self.parts();
        let bytes = &bytes[range.start * size..range.end * size];
        let halves = || {
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|half| u16::from_le_bytes(*half))
        };
        match self {
            Rows::F32(_) => {
                let words = bytes.as_chunks().0.iter();
                words
                    .enumerate()
                    .for_each(|(i, word)| put(i, f32::from_le_bytes(*word)));
            }
            Rows::Bf16(_) => halves()
                .enumerate()
                .for_each(|(i, half)| put(i, f32::from_bits(u32::from(half) << 16))),
            Rows::F16(_) => halves()
                .enumerate()
                .for_each(|(i, half)| put(i, widen_f16(half))),
        }
    }
}

/// Half precision to single precision; exact.
fn widen_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    let widened = match magnitude >> 10 {
        // Subnormal: the mantissa counts units of 2^-24.
        0 => (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits(),
        // Infinity and NaN.
        0x1f => 0x7f80_0000 | (magnitude & 0x3ff) << 13,
        // The exponent bias goes from 15 to 127.
        _ => (magnitude << 13) + (112 << 23),
    };
    f32::from_bits(sign | widened)
}

/// Weights [n, k], packed: for each block of k, for each panel of 16 rows of the matrix (columns
/// of the product), one line of 16 numbers a step of k. The last panel is filled with zeros.
pub struct PackedMatrix {
    n: usize,
    k: usize,
    lines: PackedLines,
}

enum PackedLines {
    F32(Vec<F32x16>),
    Bf16(Vec<Bf16x16>),
}

/// Lines of consecutive panels for one block of k: [panels, steps].
#[derive(Clone, Copy)]
pub(super) enum Lines<'a> {
    F32(&'a [F32x16]),
    Bf16(&'a [Bf16x16]),
}

impl PackedMatrix {
    /// Packs blocks of rows of length `k`, stacked. bf16 stays bf16 if all blocks have it;
    /// otherwise the numbers are widened to f32, which is exact.
    ///
    /// # Panics
    /// If `k` is 0 or a block is no whole number of rows.
    pub fn pack(cpu: &Cpu, blocks: &[Rows<'_>], k: usize) -> PackedMatrix {
        assert!(k > 0, "weights without columns");
        let rows: Vec<Rows<'_>> = blocks.iter().flat_map(|block| block.split(k)).collect();
        let lines = if rows.iter().all(|row| matches!(row, Rows::Bf16(_))) {
            PackedLines::Bf16(pack_lines(
                cpu,
                &rows,
                k,
                |line: &mut Bf16x16, lane, number| {
                    let shift = if lane < COLUMNS / 2 { 16 } else { 0 };
                    line.0[lane % (COLUMNS / 2)] |= number.to_bits() >> shift;
                },
            ))
        } else {
            PackedLines::F32(pack_lines(
                cpu,
                &rows,
                k,
                |line: &mut F32x16, lane, number| {
                    line.0[lane] = number;
                },
            ))
        };
        PackedMatrix {
            n: rows.len(),
            k,
            lines,
        }
    }

    /// Rows of the matrix, columns of the product.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of the matrix, the length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        match &self.lines {
            PackedLines::F32(lines) => size_of_val(&lines[..]),
            PackedLines::Bf16(lines) => size_of_val(&lines[..]),
        }
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(COLUMNS)
    }

    /// The columns of the product that a panel makes.
    pub(super) fn columns(&self, panel: usize) -> Range<usize> {
        panel * COLUMNS..self.n.min((panel + 1) * COLUMNS)
    }

    /// The blocks of k, in order.
    pub(super) fn k_blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let k = self.k;
        (0..k)
            .step_by(K_BLOCK)
            .map(move |start| start..k.min(start + K_BLOCK))
    }

    /// The lines of some panels for one of `k_blocks`.
    pub(super) fn lines(&self, k: Range<usize>, panels: Range<usize>) -> Lines<'_> {
        let start = k.start * self.panels();
        let range = start + panels.start * k.len()..start + panels.end * k.len();
        match &self.lines {
            PackedLines::F32(lines) => Lines::F32(&lines[range]),
            PackedLines::Bf16(lines) => Lines::Bf16(&lines[range]),
        }
    }
}

/// The lines of a whole matrix; `put(line, lane, number)` sets one number of a line of zeros.
fn pack_lines<L: Copy + Default + Send>(
    cpu: &Cpu,
    rows: &[Rows<'_>],
    k: usize,
    put: impl Fn(&mut L, usize, f32) + Sync,
) -> Vec<L> {
    let mut lines = vec![L::default(); rows.len().div_ceil(COLUMNS) * k];
    let block_len = rows.len().div_ceil(COLUMNS) * K_BLOCK;
    for (index, block) in lines.chunks_mut(block_len.max(1)).enumerate() {
        let k = index * K_BLOCK..k.min((index + 1) * K_BLOCK);
        cpu.pool().for_each_chunk(block, k.len(), &|panel, lines| {
            let rows = rows.iter().skip(panel * COLUMNS).take(COLUMNS);
            for (lane, row) in rows.enumerate() {
                row.each(k.clone(), |step, number| {
                    put(&mut lines[step], lane, number)
                });
            }
        });
    }
    lines
}

/// A low-rank addition to a weight matrix [n, k], `scale · lora_b · lora_a`, kept as its factors.
pub struct PackedLora {
    n: usize,
    k: usize,
    rank: usize,
    /// [rank, k].
    lora_a: Vec<f32>,
    /// [panels, rank] lines of 16 rows of `scale · lora_b`.
    lora_b: Vec<F32x16>,
}

impl PackedLora {
    /// Packs `lora_a` [rank, k] and `lora_b` [n, rank] and folds `scale` into `lora_b`.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn new(
        lora_a: &[f32],
        lora_b: &[f32],
        n: usize,
        k: usize,
        rank: usize,
        scale: f32,
    ) -> PackedLora {
        assert_eq!(lora_a.len(), rank * k, "lora_a of rank {rank} by {k}");
        assert_eq!(lora_b.len(), n * rank, "lora_b of {n} by rank {rank}");
        let mut panels = vec![F32x16::default(); n.div_ceil(COLUMNS) * rank];
        for (row, numbers) in lora_b.chunks_exact(rank.max(1)).enumerate() {
            let lines = &mut panels[row / COLUMNS * rank..][..rank];
            for (line, number) in lines.iter_mut().zip(numbers) {
                line.0[row % COLUMNS] = scale * number;
            }
        }
        PackedLora {
            n,
            k,
            rank,
            lora_a: lora_a.to_vec(),
            lora_b: panels,
        }
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lora_a[..]) + size_of_val(&self.lora_b[..])
    }

    pub(super) fn n(&self) -> usize {
        self.n
    }

    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// The lines of `scale · lora_b` for one panel, one a rank.
    pub(super) fn panel(&self, panel: usize) -> &[F32x16] {
        &self.lora_b[panel * self.rank..][..self.rank]
    }
}

/// Rows of `x` in panels of 6: for each panel one line a step of k, then one line for each side
/// product `x · lora_aᵀ`. Lanes past the last row are not read.
#[derive(Default)]
pub(super) struct PackedRows {
    /// Lines of a panel: k and the highest rank of the call.
    depth: usize,
    lines: Vec<[f32; ROWS]>,
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
        let ranks = segments
            .iter()
            .flat_map(|segment| segment.lora)
            .map(|lora| lora.rank);
        let depth = k + ranks.max().unwrap_or(0);
        let row_count = x.len() / k;
        self.depth = depth;
        self.lines
            .resize(row_count.div_ceil(ROWS) * depth, [0.0; ROWS]);
        cpu.pool()
            .for_each_chunk(&mut self.lines, depth, &|panel, lines| {
                let (steps, side) = lines.split_at_mut(k);
                let rows = panel * ROWS..row_count.min((panel + 1) * ROWS);
                interleave(&x[rows.start * k..rows.end * k], steps);
                for (lane, row) in rows.enumerate() {
                    let segment = segments.partition_point(|segment| segment.rows.end <= row);
                    if let Some(lora) = segments[segment].lora {
                        let x = &x[row * k..(row + 1) * k];
                        per_isa!(
                            cpu.isa(),
                            portable => super::portable::side_products(x, &lora.lora_a, lane, side),
                            avx2 => super::avx2::side_products(x, &lora.lora_a, lane, side),
                        );
                    }
                }
            });
    }

    /// The lines of a panel: k steps, then the side products.
    pub(super) fn panel(&self, panel: usize) -> &[[f32; ROWS]] {
        &self.lines[panel * self.depth..][..self.depth]
    }
}

/// Transposes up to 6 rows, each as long as `lines`.
fn interleave(rows: &[f32], lines: &mut [[f32; ROWS]]) {
    let k = lines.len();
    if rows.len() == ROWS * k {
        let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &rows[row * k..][..k]);
        for (step, line) in lines.iter_mut().enumerate() {
            *line = std::array::from_fn(|row| rows[row][step]);
        }
    } else {
        for (lane, row) in rows.chunks_exact(k).enumerate() {
            for (line, number) in lines.iter_mut().zip(row) {
                line[lane] = *number;
            }
        }
    }
}
