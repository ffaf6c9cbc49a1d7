//! Weights and adapters in the order in which the tile reads them.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::K_BLOCK;
use super::compensation::Compensation;
use super::integers::{HEAD, Integers, k_blocks};
use super::storage::{SharedBytes, Storage};
use crate::Cpu;
use crate::tile::{Bf16x16, COLUMNS, F32x16, Words};

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

/// How packed weights are kept, which decides the arithmetic of their products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// f32; products in f32.
    F32,
    /// bf16; products in f32.
    Bf16,
    /// 16-bit integers, of which normally distributed weights use 13 bits and rows 14.
    Int16,
    /// 8-bit integers.
    Int8,
}

impl Format {
    /// The smallest that keeps every number: bf16 if all blocks have it, else f32.
    pub fn lossless(blocks: &[Rows<'_>]) -> Format {
        match blocks.iter().all(|block| matches!(block, Rows::Bf16(_))) {
            true => Format::Bf16,
            false => Format::F32,
        }
    }

    /// The integers of the weights and rows, if they are integers.
    fn integers(self) -> Option<Integers> {
        match self {
            Format::F32 | Format::Bf16 => None,
            Format::Int16 => Some(Integers::Bits16),
            Format::Int8 => Some(Integers::Bits8),
        }
    }

    /// Lines of a panel for a block of `k` numbers.
    fn panel_len(self, k: usize) -> usize {
        self.integers()
            .map_or(k, |integers| HEAD + integers.words(k))
    }

    /// Lines of a matrix [n, k].
    fn len(self, n: usize, k: usize) -> usize {
        let panels = n.div_ceil(COLUMNS);
        k_blocks(k).map(|k| panels * self.panel_len(k.len())).sum()
    }
}

/// Weights [n, k], packed: for each block of k, for each panel of 16 rows of the matrix (columns
/// of the product), one line for each number of k in f32, two of 16 bits or four of 8.
/// Integer panels have a head before their steps. What is left over is filled with zeros.
///
/// A clone shares the numbers.
#[derive(Clone)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    lines: PackedLines,
    /// What the numbers of a row are multiplied with before they become integers, if anything.
    inverse_smoothing: Option<Vec<f32>>,
}

#[derive(Clone)]
enum PackedLines {
    F32(Storage<F32x16>),
    Bf16(Storage<Bf16x16>),
    Int16(Storage<Words>),
    Int8(Storage<Words>),
}

/// Lines of consecutive panels for one block of k: [panels, head + steps].
#[derive(Clone, Copy)]
pub(super) enum Lines<'a> {
    F32(&'a [F32x16]),
    Bf16(&'a [Bf16x16]),
    Int16(&'a [Words]),
    Int8(&'a [Words]),
}

impl PackedMatrix {
    /// Packs blocks of rows of length `k`, stacked.
    ///
    /// # Panics
    /// If `k` is 0, a block is no whole number of rows, or one is not bf16 that is to stay it.
    pub fn pack(cpu: &Cpu, blocks: &[Rows<'_>], k: usize, format: Format) -> PackedMatrix {
        PackedMatrix::pack_by(cpu, blocks, k, format, &vec![1.0; k])
    }

    /// The same with the step from large numbers of `x` to small ones taken by the weights (Xiao et
    /// al. 2023, SmoothQuant, eq. 3): before they become integers, column j of the weights is
    /// multiplied with `smoothing[j]` and number j of a row divided by it. Nothing is, and need be,
    /// where products are in f32.
    ///
    /// # Panics
    /// Also if `smoothing` is not `k` powers of 2.
    pub fn pack_smoothed(
        cpu: &Cpu,
        blocks: &[Rows<'_>],
        k: usize,
        format: Format,
        smoothing: &[f32],
    ) -> PackedMatrix {
        match format.integers() {
            Some(_) => {
                PackedMatrix::pack_by(cpu, blocks, k, format, smoothing).with_smoothing(smoothing)
            }
            None => PackedMatrix::pack(cpu, blocks, k, format),
        }
    }

    /// The same in [`Format::Int8`], the weights rounded so that they make up for each other's errors
    /// on the rows that the compensation was made from, which was for the same smoothing.
    ///
    /// # Panics
    /// As [`PackedMatrix::pack_smoothed`], k being that of the compensation.
    pub fn pack_compensated(
        cpu: &Cpu,
        blocks: &[Rows<'_>],
        smoothing: &[f32],
        compensation: &Compensation,
    ) -> PackedMatrix {
        let k = compensation.k();
        assert_eq!(smoothing.len(), k, "a factor for each column");
        let rows: Vec<Rows<'_>> = blocks.iter().flat_map(|block| block.split(k)).collect();
        // Of each panel; blocks of k follow each other, and no two tasks share a panel.
        let errors: Vec<Mutex<Vec<F32x16>>> = (0..rows.len().div_ceil(COLUMNS))
            .map(|_| Mutex::new(vec![F32x16::default(); k]))
            .collect();
        let format = Format::Int8;
        let lines = pack_lines(cpu, &rows, smoothing, format, |panel, k, columns, lines| {
            let errors = &errors[panel];
            let errors = &mut *errors.lock().unwrap_or_else(PoisonError::into_inner);
            compensation.pack_panel(k, columns, errors, lines);
        });
        let matrix = PackedMatrix {
            n: rows.len(),
            k,
            lines: PackedLines::Int8(lines),
            inverse_smoothing: None,
        };
        matrix.with_smoothing(smoothing)
    }

    /// The same matrix when its bytes are those of one that was packed with this smoothing.
    ///
    /// # Panics
    /// If `smoothing` is not as many powers of 2 as the matrix has columns.
    pub fn with_smoothing(mut self, smoothing: &[f32]) -> PackedMatrix {
        assert_eq!(smoothing.len(), self.k, "smoothing of the columns");
        let is_power = |number: &f32| number.is_normal() && number.to_bits() << 9 == 0;
        assert!(smoothing.iter().all(is_power), "smoothing by powers of 2");
        let is_needed = self.integers().is_some() && smoothing.iter().any(|number| *number != 1.0);
        let inverse = || smoothing.iter().map(|number| number.recip()).collect();
        self.inverse_smoothing = is_needed.then(inverse);
        self
    }

    fn pack_by(
        cpu: &Cpu,
        blocks: &[Rows<'_>],
        k: usize,
        format: Format,
        factors: &[f32],
    ) -> PackedMatrix {
        assert!(k > 0, "weights without columns");
        assert_eq!(factors.len(), k, "a factor for each column");
        if format == Format::Bf16 {
            assert_eq!(Format::lossless(blocks), format, "blocks of bf16");
        }
        let rows: Vec<Rows<'_>> = blocks.iter().flat_map(|block| block.split(k)).collect();
        let integers = |integers: Integers| {
            pack_lines(cpu, &rows, factors, format, |_, _, columns, lines| {
                integers.pack_panel(columns, lines);
            })
        };
        let lines = match format {
            Format::F32 => PackedLines::F32(pack_lines(
                cpu,
                &rows,
                factors,
                format,
                |_, _, columns, lines| {
                    for (step, line) in lines.iter_mut().enumerate() {
                        *line = F32x16(columns.map(|column| column[step]));
                    }
                },
            )),
            Format::Bf16 => PackedLines::Bf16(pack_lines(
                cpu,
                &rows,
                factors,
                format,
                |_, _, columns, lines| {
                    for (step, line) in lines.iter_mut().enumerate() {
                        *line = Bf16x16::narrow(&columns.map(|column| column[step]));
                    }
                },
            )),
            Format::Int16 => PackedLines::Int16(integers(Integers::Bits16)),
            Format::Int8 => PackedLines::Int8(integers(Integers::Bits8)),
        };
        PackedMatrix {
            n: rows.len(),
            k,
            lines,
            inverse_smoothing: None,
        }
    }

    /// A matrix [n, k] that [`PackedMatrix::bytes`] gave, at `range` of bytes that stay where they
    /// are. `None` unless whole, aligned lines of this number lie there. What the numbers are is
    /// the caller's to check.
    pub fn from_bytes(
        owner: &SharedBytes,
        range: Range<usize>,
        n: usize,
        k: usize,
        format: Format,
    ) -> Option<PackedMatrix> {
        let len = format.len(n, k);
        let lines = match format {
            Format::F32 => PackedLines::F32(Storage::shared(owner, range, len)?),
            Format::Bf16 => PackedLines::Bf16(Storage::shared(owner, range, len)?),
            Format::Int16 => PackedLines::Int16(Storage::shared(owner, range, len)?),
            Format::Int8 => PackedLines::Int8(Storage::shared(owner, range, len)?),
        };
        Some(PackedMatrix {
            n,
            k,
            lines,
            inverse_smoothing: None,
        })
    }

    /// Rows of the matrix, columns of the product.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of the matrix, the length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How the weights are kept.
    pub fn format(&self) -> Format {
        match self.lines {
            PackedLines::F32(_) => Format::F32,
            PackedLines::Bf16(_) => Format::Bf16,
            PackedLines::Int16(_) => Format::Int16,
            PackedLines::Int8(_) => Format::Int8,
        }
    }

    /// The packed weights as bytes, the same on every little-endian processor.
    pub fn bytes(&self) -> &[u8] {
        match &self.lines {
            PackedLines::F32(lines) => lines.bytes(),
            PackedLines::Bf16(lines) => lines.bytes(),
            PackedLines::Int16(lines) | PackedLines::Int8(lines) => lines.bytes(),
        }
    }

    pub(super) fn inverse_smoothing(&self) -> Option<&[f32]> {
        self.inverse_smoothing.as_deref()
    }

    pub(super) fn integers(&self) -> Option<Integers> {
        self.format().integers()
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
        k_blocks(self.k)
    }

    /// The lines of some panels for one of `k_blocks`.
    pub(super) fn lines(&self, k: Range<usize>, panels: Range<usize>) -> Lines<'_> {
        let range = self.line_range(&k, &panels);
        match &self.lines {
            PackedLines::F32(lines) => Lines::F32(&lines[range]),
            PackedLines::Bf16(lines) => Lines::Bf16(&lines[range]),
            PackedLines::Int16(lines) => Lines::Int16(&lines[range]),
            PackedLines::Int8(lines) => Lines::Int8(&lines[range]),
        }
    }

    /// The bytes of those lines.
    pub(super) fn line_bytes(&self, k: &Range<usize>, panels: &Range<usize>) -> &[u8] {
        let line_len = match &self.lines {
            PackedLines::F32(_) => size_of::<F32x16>(),
            PackedLines::Bf16(_) => size_of::<Bf16x16>(),
            PackedLines::Int16(_) | PackedLines::Int8(_) => size_of::<Words>(),
        };
        let range = self.line_range(k, panels);
        &self.bytes()[range.start * line_len..range.end * line_len]
    }

    fn line_range(&self, k: &Range<usize>, panels: &Range<usize>) -> Range<usize> {
        let format = self.format();
        let full_blocks = k.start / K_BLOCK * self.panels() * format.panel_len(K_BLOCK);
        let panel_len = format.panel_len(k.len());
        full_blocks + panels.start * panel_len..full_blocks + panels.end * panel_len
    }
}

/// The lines of a whole matrix; `fill` sets those of one panel and block of k, whose numbers it is
/// told, from the numbers of its columns times `factors`, which are zeros past the last one. The blocks
/// of k come in order.
fn pack_lines<L: Copy + Default + Send>(
    cpu: &Cpu,
    rows: &[Rows<'_>],
    factors: &[f32],
    format: Format,
    fill: impl Fn(usize, Range<usize>, &[[f32; K_BLOCK]; COLUMNS], &mut [L]) + Sync,
) -> Storage<L> {
    let k = factors.len();
    let mut lines = vec![L::default(); format.len(rows.len(), k)];
    let mut rest = &mut lines[..];
    for k in k_blocks(k) {
        let panel_len = format.panel_len(k.len());
        let (block, next) = rest.split_at_mut(rows.len().div_ceil(COLUMNS) * panel_len);
        rest = next;
        cpu.pool()
            .for_each_chunk(block, panel_len, &|panel, lines| {
                let mut columns = [[0.0; K_BLOCK]; COLUMNS];
                let rows = rows.iter().skip(panel * COLUMNS);
                for (row, column) in rows.zip(&mut columns) {
                    let factors = &factors[k.clone()];
                    row.each(k.clone(), |step, number| {
                        column[step] = number * factors[step]
                    });
                }
                fill(panel, k.clone(), &columns, lines);
            });
    }
    Storage::Owned(Arc::new(lines))
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

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    /// [rank, k].
    pub(super) fn lora_a(&self) -> &[f32] {
        &self.lora_a
    }

    /// The lines of `scale · lora_b` for one panel, one a rank.
    pub(super) fn panel(&self, panel: usize) -> &[F32x16] {
        &self.lora_b[panel * self.rank..][..self.rank]
    }
}
