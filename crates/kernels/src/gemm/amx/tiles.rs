//! Rows of x and columns of weights in the tiles that AMX multiplies.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::amx::{TILE_ROWS, Tile};
use crate::avx512::{load_bf16_pair, load_numbers, load_words, store_words, upper_halves};
use crate::gemm::integers::{self, Integers, ROW_HEAD, RowScale};
use crate::gemm::rows::smooth;
use crate::gemm::{Format, K_BLOCK, PackedMatrix, avx512};
use crate::isa::per_isa;
use crate::threads::Chunks;
use crate::tile::{Bf16x16, COLUMNS, Words};
use crate::{Cpu, Isa};

/// Words of a row of a tile.
const WORDS: usize = COLUMNS;

/// How the numbers along k are cut into tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Numbers in a row of a tile.
    numbers: usize,
    /// Tiles that one row of numbers takes.
    pub(super) parts: usize,
}

impl Cut {
    pub(super) const BF16: Cut = Cut {
        numbers: 2 * WORDS,
        parts: 3,
    };
    pub(super) const INT16: Cut = Cut {
        numbers: 4 * WORDS,
        parts: 2,
    };
    pub(super) const INT8: Cut = Cut {
        numbers: 4 * WORDS,
        parts: 1,
    };

    /// That of so many rows of x for weights of a format; `None` if they do not go through the unit,
    /// which takes as long for one row as for 16: a few rows of integers are sooner done by AVX-512,
    /// with the same bits.
    fn of(format: Format, rows: usize) -> Option<Cut> {
        match format {
            Format::F32 => None,
            Format::Bf16 => Some(Cut::BF16),
            Format::Int16 => (rows >= 24).then_some(Cut::INT16),
            Format::Int8 => (rows >= 14).then_some(Cut::INT8),
        }
    }

    /// Tiles that `k` numbers of a row reach through.
    pub(super) fn steps(self, k: usize) -> usize {
        k.div_ceil(self.numbers)
    }

    /// The same with all parts.
    pub(super) fn tiles(self, k: usize) -> usize {
        self.steps(k) * self.parts
    }
}

/// Rows of x in tiles: for each 16 rows and each block of k the tiles of its steps, then, for
/// integers, one more whose first lines are scales and zeros.
#[derive(Default)]
pub(in crate::gemm) struct TiledRows {
    /// `None` if the unit has no use for the rows.
    cut: Option<Cut>,
    /// Blocks of k.
    blocks: usize,
    /// Tiles of a block.
    block_len: usize,
    tiles: Vec<Tile>,
}

impl TiledRows {
    /// Makes room for the rows `x`, if AMX multiplies them with these weights. Each chunk of what it
    /// gives is to be filled by [`TilePacking::fill`].
    pub(in crate::gemm) fn begin<'a>(
        &'a mut self,
        cpu: &Cpu,
        weights: &'a PackedMatrix,
        x: &'a [f32],
    ) -> Option<(Chunks<'a, Tile>, TilePacking<'a>)> {
        let is_amx = cpu.isa() == Isa::Amx;
        let (rows, k) = (x.len() / weights.k(), weights.k());
        self.cut = Cut::of(weights.format(), rows).filter(|_| is_amx);
        let cut = self.cut?;
        let row_tiles = rows.div_ceil(TILE_ROWS);
        self.blocks = k.div_ceil(K_BLOCK);
        self.block_len = cut.tiles(K_BLOCK) + usize::from(weights.integers().is_some());
        let len = row_tiles * self.blocks * self.block_len;
        self.tiles.resize(len, [Words::default(); TILE_ROWS]);
        // Tasks are no smaller than they must be for all threads to have some.
        let at_once = match row_tiles < 2 * cpu.threads() {
            true => 1,
            false => self.blocks,
        };
        let packing = TilePacking {
            weights,
            x,
            cut,
            blocks: self.blocks,
            block_len: self.block_len,
            at_once,
        };
        Some((
            Chunks::new(&mut self.tiles, at_once * self.block_len),
            packing,
        ))
    }

    pub(in crate::gemm) fn is_used(&self) -> bool {
        self.cut.is_some()
    }

    /// The tiles of 16 rows over a block of k.
    #[inline(always)]
    pub(in crate::gemm) fn tiles(&self, index: usize, k: Range<usize>) -> &[Tile] {
        let len = self.cut.map_or(0, |cut| cut.tiles(k.len()));
        &self.block(index, k.start / K_BLOCK)[..len]
    }

    /// Scales and zeros of 16 rows for a block of k.
    #[inline(always)]
    pub(in crate::gemm) fn scales(&self, index: usize, block: usize) -> &[Words] {
        &self.block(index, block)[self.block_len - 1][..ROW_HEAD]
    }

    #[inline(always)]
    fn block(&self, index: usize, block: usize) -> &[Tile] {
        &self.tiles[(index * self.blocks + block) * self.block_len..][..self.block_len]
    }
}

/// Rows on their way into tiles.
pub(in crate::gemm) struct TilePacking<'a> {
    weights: &'a PackedMatrix,
    x: &'a [f32],
    cut: Cut,
    blocks: usize,
    block_len: usize,
    /// Blocks of k in a chunk.
    at_once: usize,
}

impl TilePacking<'_> {
    /// Fills the chunk of that index.
    pub(in crate::gemm) fn fill(&self, index: usize, chunk: &mut [Tile]) {
        per_isa!(@call pack_rows (self, index * self.at_once, chunk));
    }
}

/// Memory for weights of a task that are brought into tiles.
#[derive(Default)]
pub(in crate::gemm) struct Columns(Vec<Tile>);

impl Columns {
    /// Replaces the content by the weights of some panels, which `fill` brings into `len` tiles of
    /// each.
    #[inline(always)]
    pub(super) fn fill<L>(
        &mut self,
        lines: &[L],
        panels: usize,
        len: usize,
        fill: impl Fn(&[L], &mut [Tile]),
    ) -> ColumnTiles<'_> {
        self.0.resize(panels * len, [Words::default(); TILE_ROWS]);
        let lines = lines.chunks_exact(lines.len() / panels);
        for (lines, tiles) in lines.zip(self.0.chunks_exact_mut(len)) {
            fill(lines, tiles);
        }
        ColumnTiles {
            lines: self.0.as_flattened(),
            panel_len: len * TILE_ROWS,
            head: 0,
        }
    }
}

/// The weights of a task for one block of k, in tiles: [panels, head and rows of tiles].
#[derive(Clone, Copy)]
pub(super) struct ColumnTiles<'a> {
    lines: &'a [Words],
    panel_len: usize,
    head: usize,
}

impl<'a> ColumnTiles<'a> {
    /// 8-bit weights as they lie, if each panel is whole tiles after its head.
    pub(super) fn of_lines(lines: &'a [Words], panels: usize, head: usize) -> Option<Self> {
        let panel_len = lines.len() / panels;
        let is_whole = (panel_len - head).is_multiple_of(TILE_ROWS);
        is_whole.then_some(ColumnTiles {
            lines,
            panel_len,
            head,
        })
    }

    /// The tiles of a panel.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &'a [Tile] {
        let lines = &self.lines[panel * self.panel_len..][..self.panel_len];
        lines[self.head..].as_chunks().0
    }
}

/// A word of a tile is two steps of k for one column.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pair_lines(lines: &[Bf16x16], tiles: &mut [Tile]) {
    let rows = tiles.as_flattened_mut();
    let (pairs, last) = lines.as_chunks::<2>();
    for (row, pair) in rows.iter_mut().zip(pairs) {
        store_words(row, load_bf16_pair(pair));
    }
    let rest = &mut rows[pairs.len()..];
    rest.fill(Words::default());
    if let ([line], [row, ..]) = (last, rest) {
        store_words(row, load_bf16_pair(&[*line, Bf16x16::default()]));
    }
}

/// The high bytes of 16-bit weights make one tile, the low ones the next.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn split_lines(lines: &[Words], tiles: &mut [Tile]) {
    let steps = lines.chunks(2 * TILE_ROWS);
    for (lines, parts) in steps.zip(tiles.as_chunks_mut::<2>().0) {
        *parts = [[Words::default(); TILE_ROWS]; 2];
        let [high, low] = parts;
        for (row, pair) in lines.chunks(2).enumerate() {
            let first = load_words(&pair[0]);
            let second = pair
                .get(1)
                .map_or(_mm512_setzero_si512(), |line| load_words(line));
            let bytes = |places| _mm512_permutex2var_epi8(first, load_words(places), second);
            store_words(&mut high[row], bytes(const { &column_bytes(1) }));
            store_words(&mut low[row], bytes(const { &column_bytes(0) }));
        }
    }
}

/// Where byte `byte` of both halves of a word, and of the word below it, come from.
const fn column_bytes(byte: u8) -> Words {
    let mut words = [0; COLUMNS];
    let mut column = 0;
    while column < COLUMNS {
        let place = 4 * column as u8 + byte;
        words[column] = u32::from_le_bytes([place, place + 2, place + 64, place + 66]);
        column += 1;
    }
    Words(words)
}

/// Lines of 8-bit weights are rows of tiles.
pub(super) fn copy_lines(lines: &[Words], tiles: &mut [Tile]) {
    let (copied, rest) = tiles.as_flattened_mut().split_at_mut(lines.len());
    copied.copy_from_slice(lines);
    rest.fill(Words::default());
}

/// Writes up to 16 rows over blocks of k into their tiles, from the `first` of all blocks on.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn pack_rows(packing: &TilePacking<'_>, first: usize, tiles: &mut [Tile]) {
    let TilePacking { weights, cut, .. } = packing;
    let width = weights.k();
    let rows = packing.x.chunks_exact(width);
    let rows = rows
        .skip(first / packing.blocks * TILE_ROWS)
        .take(TILE_ROWS);
    let mut words = [0; integers::WORDS];
    let mut smoothed = [0.0; K_BLOCK];
    for (row, x) in rows.enumerate() {
        let blocks = first % packing.blocks..;
        for (block, tiles) in blocks.zip(tiles.chunks_exact_mut(packing.block_len)) {
            let k = block * K_BLOCK..width.min((block + 1) * K_BLOCK);
            let (tiles, head) = tiles.split_at_mut(cut.tiles(K_BLOCK));
            let tiles = &mut tiles[..cut.tiles(k.len())];
            let Some(integers) = weights.integers() else {
                split_numbers(&x[k], row, tiles);
                continue;
            };
            let words = &mut words[..integers.words(k.len())];
            let numbers = smooth(weights, x, k, &mut smoothed);
            let RowScale { scale, zero, .. } = avx512::pack_row(integers, numbers, words);
            head[0][0].0[row] = scale.to_bits();
            head[0][1].0[row] = zero.cast_unsigned();
            place_words(integers, words, row, tiles);
        }
    }
}

/// Writes numbers of a row into row `row` of their tiles: for each 32 of them the three parts.
#[target_feature(enable = "avx512f,avx512bw")]
fn split_numbers(numbers: &[f32], row: usize, tiles: &mut [Tile]) {
    let steps = numbers.chunks(Cut::BF16.numbers);
    for (numbers, [low, middle, high]) in steps.zip(tiles.as_chunks_mut::<3>().0) {
        let mut halves = load_numbers(numbers);
        for part in [high, middle, low] {
            store_words(&mut part[row], take_upper_halves(&mut halves));
        }
    }
}

/// The upper halves of 32 numbers, which lose them: what is left is exact.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn take_upper_halves(numbers: &mut [__m512; 2]) -> __m512i {
    let bits = numbers.map(|lanes| _mm512_castps_si512(lanes));
    for (lanes, bits) in numbers.iter_mut().zip(bits) {
        let upper = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
        *lanes = _mm512_sub_ps(*lanes, _mm512_castsi512_ps(upper));
    }
    upper_halves(bits)
}

/// Writes the words of a row for one block of k into row `row` of its tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn place_words(integers: Integers, words: &[u32], row: usize, tiles: &mut [Tile]) {
    match integers {
        Integers::Bits8 => {
            for (words, tile) in words.chunks(WORDS).zip(tiles) {
                tile[row] = padded(words);
            }
        }
        Integers::Bits16 => {
            let steps = words.chunks(2 * WORDS);
            for (words, [high, low]) in steps.zip(tiles.as_chunks_mut::<2>().0) {
                let (first, second) = words.split_at(words.len().min(WORDS));
                let (first, second) = (load_words(&padded(first)), load_words(&padded(second)));
                let bytes = |places| _mm512_permutex2var_epi8(first, load_words(places), second);
                store_words(&mut high[row], bytes(const { &row_bytes(1) }));
                store_words(&mut low[row], bytes(const { &row_bytes(0) }));
            }
        }
    }
}

/// The places of every second byte among those of two registers.
const fn row_bytes(byte: u8) -> Words {
    let mut words = [0; COLUMNS];
    let mut word = 0;
    while word < COLUMNS {
        let place = 8 * word as u8 + byte;
        words[word] = u32::from_le_bytes([place, place + 2, place + 4, place + 6]);
        word += 1;
    }
    Words(words)
}

/// Up to 16 words, then zeros.
#[inline(always)]
fn padded(words: &[u32]) -> Words {
    match words.try_into() {
        Ok(words) => Words(words),
        Err(_) => {
            let mut line = Words::default();
            line.0[..words.len()].copy_from_slice(words);
            line
        }
    }
}
