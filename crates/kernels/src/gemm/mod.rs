//! Matrix products with packed weights, the adapter of each row and a fused epilogue.
//!
//! `out = epilogue(x · Wᵀ + bias + scale · (x · Aᵀ) · Bᵀ)`, where the low-rank part is that of the
//! segment which the row is in.
//!
//! # Blocking
//! `x` is packed once a call, in panels of 6 rows (for AMX in tiles of 16); the side products `x · Aᵀ` are a few more
//! columns of it. A task is a block of rows by a group of 16-column panels; it goes through k in
//! blocks of 256, sums into a tile of its own that stays in the L2 cache, and at the end adds
//! bias and low-rank part, applies the epilogue and writes its part of `out`. Weights come from
//! memory once a call; each panel is prefetched while the one before is in use.
//!
//! # Integers
//! Weights may be packed as 16-bit or 8-bit integers ([`Format`]); then the rows of `x` become
//! integers as they are packed, and products are summed as integers within a block of k and in f32
//! over the blocks. Columns of `x` that are known to be large may be smoothed first
//! ([`PackedMatrix::pack_smoothed`]), and 8-bit weights rounded for the rows that they will meet
//! ([`PackedMatrix::pack_compensated`], `compensation.rs`). Ranges, scales, rounding and why nothing overflows: `integers.rs`. Adapters,
//! bias and epilogue stay in f32.
//!
//! # Order of sums
//! Each output is, whatever tile computes it: within a block of 256 steps of k one chain of
//! (fused) multiply-adds in the order of k, or an exact sum of integers times the scales; the blocks added in order; then the bias; then one
//! multiply-add for each rank of the adapter; then GELU or the residual. So its bits do not depend
//! on where its row stands. AMX adds bf16 products in an order of its own, as fixed (`amx/`).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod compensation;
mod integers;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod portable;
mod rows;
mod storage;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod walk;

use std::ops::Range;

use crate::Cpu;
use crate::isa::per_isa;
use crate::threads::{DisjointSlice, PerWorker};
use crate::tile::{F32x16, ROWS};

pub use compensation::{Compensation, Moments};
use pack::Lines;
pub use pack::{Format, PackedLora, PackedMatrix, Rows};
use rows::PackedRows;
pub use storage::SharedBytes;

/// Steps of k that one chain of multiply-adds covers. A block of 32 row panels is then 192 KiB and
/// a panel of bf16 weights 8 KiB: half of L2, a quarter of L1. Changing it changes the results.
const K_BLOCK: usize = 256;

/// Rows of `x` that a task takes at most. No bits depend on it.
pub const ROWS_PER_TASK: usize = 192;

/// Panels of weights of a task, at most; they share the row block that is in L2.
const PANELS_PER_TASK: usize = 16;

/// Panels of weights that a tile covers at most; tasks get whole groups of them.
const PANELS_AT_ONCE: usize = 4;

/// Tasks that each thread should find, so that none waits long for the others at the end.
const TASKS_PER_THREAD: usize = 6;

/// Rows that are finished before the next columns of the others: rows of `out` lie a multiple of
/// 4 KiB apart, so the lines of many more would fall into the same few sets of a cache.
const FINISHED_ROWS: usize = 4 * ROWS;

/// What is done with each number of the product before it is written.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// The bias is added.
    Bias,
    /// The bias is added, then [`gelu`](crate::gelu::gelu) applied.
    BiasGelu,
    /// The bias and the number at the same place of this [m, n] are added.
    BiasResidual(&'a [f32]),
}

/// The rows that one adapter applies to.
pub struct Segment<'a> {
    /// Rows of `x`.
    pub rows: Range<usize>,
    /// Their adapter; `None`: base weights only.
    pub lora: Option<&'a PackedLora>,
}

/// The operands of a [`product`].
pub struct Product<'a> {
    /// [m, k].
    pub x: &'a [f32],
    /// [n, k].
    pub weights: &'a PackedMatrix,
    /// n numbers, one a column of the output.
    pub bias: &'a [f32],
    /// In order, disjoint, covering all m rows.
    pub segments: &'a [Segment<'a>],
    /// The last step.
    pub epilogue: Epilogue<'a>,
}

/// Memory of [`product`], kept between calls; grows to the largest product seen.
#[derive(Default)]
pub struct GemmScratch {
    rows: PackedRows,
    tasks: PerWorker<TaskScratch>,
}

/// Memory of one task.
#[derive(Default)]
struct TaskScratch {
    /// Its sums: [panels, rows].
    tile: Vec<F32x16>,
    #[cfg(target_arch = "x86_64")]
    columns: amx::Columns,
}

/// Writes `epilogue(x · weightsᵀ + bias + low-rank part)` to `out` [m, n].
///
/// # Panics
/// If lengths do not agree, or the segments do not cover the rows in order.
pub fn product(cpu: &Cpu, scratch: &mut GemmScratch, product: &Product<'_>, out: &mut [f32]) {
    let row_count = product.checked_rows(out.len());
    scratch.rows.pack(cpu, product);
    scratch.tasks.prepare(cpu.threads());
    let panel_rows = scratch.rows.panel_rows();
    let plan = Plan::new(
        row_count,
        panel_rows,
        product.weights.panels(),
        cpu.threads(),
    );
    let finish = Finish {
        product,
        rows: &scratch.rows,
        out: DisjointSlice::new(out),
    };
    let tasks = &scratch.tasks;
    let first_block = product.weights.k_blocks().next().unwrap_or_default();
    cpu.pool().run(plan.tasks(), &|task, worker| {
        let (rows, panels) = plan.task(task);
        let scratch = &mut *tasks.of(worker);
        let tile = &mut scratch.tile;
        let tile_rows = finish.rows.tile_rows(rows.len());
        tile.resize(tile_rows * panels.len(), F32x16::default());
        let mut blocks = product.weights.k_blocks().peekable();
        while let Some(k) = blocks.next() {
            let block = Block {
                x: finish.rows,
                rows: rows.clone(),
                weights: product.weights.lines(k.clone(), panels.clone()),
                next_weights: match blocks.peek() {
                    Some(k) => product.weights.line_bytes(k, &panels),
                    // Threads take tasks in turn.
                    None if task + cpu.threads() < plan.tasks() => {
                        let (_, panels) = plan.task(task + cpu.threads());
                        product.weights.line_bytes(&first_block, &panels)
                    }
                    None => &[],
                },
                k,
            };
            per_isa!(
                cpu.isa(),
                portable => portable::multiply(&block, tile),
                avx2 => avx2::multiply(&block, tile),
                avx512 => avx512::multiply(&block, cpu.is_wide(), tile),
                amx => amx::multiply(&block, cpu.is_wide(), &mut scratch.columns, tile),
                neon => neon::multiply(&block, tile),
            );
        }
        for start in rows.clone().step_by(FINISHED_ROWS) {
            let part = start..rows.end.min(start + FINISHED_ROWS);
            let lines = part.start - rows.start..part.end - rows.start;
            for (panel, sums) in panels.clone().zip(tile.chunks_exact(tile_rows)) {
                let (part, sums) = (part.clone(), &sums[lines.clone()]);
                per_isa!(
                    cpu.isa(),
                    portable => portable::finish(&finish, part, panel, sums),
                    avx2 => avx2::finish(&finish, part, panel, sums),
                    avx512 => avx512::finish(&finish, part, panel, sums),
                    neon => neon::finish(&finish, part, panel, sums),
                );
            }
        }
    });
}

impl Product<'_> {
    /// m, when everything agrees with it.
    fn checked_rows(&self, out_len: usize) -> usize {
        let (n, k) = (self.weights.n(), self.weights.k());
        assert!(
            self.x.len().is_multiple_of(k),
            "{} numbers in rows of {k}",
            self.x.len()
        );
        let rows = self.x.len() / k;
        assert_eq!(out_len, rows * n, "output of {rows} rows by {n} columns");
        assert_eq!(self.bias.len(), n, "bias for {n} columns");
        if let Epilogue::BiasResidual(residual) = self.epilogue {
            assert_eq!(residual.len(), out_len, "residual for {rows} rows");
        }
        let mut covered = 0;
        for segment in self.segments {
            assert_eq!(segment.rows.start, covered, "segments in order");
            assert!(segment.rows.end >= covered, "segments in order");
            covered = segment.rows.end;
            if let Some(lora) = segment.lora {
                assert_eq!((lora.n(), lora.k()), (n, k), "adapter of these weights");
            }
        }
        assert_eq!(covered, rows, "segments cover the rows");
        rows
    }
}

/// How the output is cut into tasks. Any cut gives the same bits.
struct Plan {
    rows: usize,
    /// Rows that stay together.
    panel_rows: usize,
    row_panels: usize,
    row_blocks: usize,
    panels: usize,
    /// Groups of panels, so many that each thread gets the same number of tasks.
    groups: usize,
}

impl Plan {
    fn new(rows: usize, panel_rows: usize, panels: usize, threads: usize) -> Plan {
        let row_panels = rows.div_ceil(panel_rows);
        let row_blocks = row_panels.div_ceil(ROWS_PER_TASK / panel_rows);
        let wanted = match threads {
            1 => 1,
            _ => (threads * TASKS_PER_THREAD).div_ceil(row_blocks.max(1)),
        };
        let groups = wanted.max(panels.div_ceil(PANELS_PER_TASK));
        Plan {
            rows,
            panel_rows,
            row_panels,
            row_blocks,
            panels,
            groups: groups
                .next_multiple_of(threads)
                .min(panels.div_ceil(PANELS_AT_ONCE)),
        }
    }

    fn tasks(&self) -> usize {
        self.row_blocks * self.groups
    }

    /// Rows and panels of a task; all panels for the first rows come first.
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let row_panels = part(self.row_panels, self.row_blocks, task / self.groups);
        let rows =
            row_panels.start * self.panel_rows..self.rows.min(row_panels.end * self.panel_rows);
        let units = self.panels.div_ceil(PANELS_AT_ONCE);
        let units = part(units, self.groups, task % self.groups);
        let panels = units.start * PANELS_AT_ONCE..self.panels.min(units.end * PANELS_AT_ONCE);
        (rows, panels)
    }
}

/// The range of `0..count` that part `index` of `parts` equal parts takes, none longer than
/// another by more than one.
fn part(count: usize, parts: usize, index: usize) -> Range<usize> {
    index * count / parts..(index + 1) * count / parts
}

/// One step of a task: some rows by some panels over one block of k.
///
/// Its tile is [panels, rows] lines; the block at the start of k overwrites it, the others add.
struct Block<'a> {
    x: &'a PackedRows,
    /// Starts at a multiple of the rows of a panel.
    rows: Range<usize>,
    k: Range<usize>,
    weights: Lines<'a>,
    /// What the same thread will probably multiply with next.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only AMX asks for it this early")
    )]
    next_weights: &'a [u8],
}

impl<'a> Block<'a> {
    /// Whether it starts the sums instead of adding to them.
    fn is_first(&self) -> bool {
        self.k.start == 0
    }

    /// The packed rows of a panel of the task.
    #[inline(always)]
    fn x_steps(&self, panel: usize) -> &'a [[u32; ROWS]] {
        self.x.steps(self.rows.start / ROWS + panel, self.k.clone())
    }

    /// The tiles of 16 rows of the task over this block of k.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn x_tiles(&self, tile: usize) -> &'a [crate::amx::Tile] {
        let tile = self.rows.start / crate::amx::TILE_ROWS + tile;
        self.x.tiled().tiles(tile, self.k.clone())
    }

    /// Scales and zeros of those rows.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn x_tile_scales(&self, tile: usize) -> &'a [crate::tile::Words] {
        let tile = self.rows.start / crate::amx::TILE_ROWS + tile;
        self.x.tiled().scales(tile, self.k.start / K_BLOCK)
    }

    /// Scale and zero of the integers of a row of the task.
    #[inline(always)]
    fn x_scale(&self, row: usize) -> (f32, i32) {
        self.x.scale(self.rows.start + row, self.k.start / K_BLOCK)
    }
}

/// What the last step of a task needs.
struct Finish<'a> {
    product: &'a Product<'a>,
    rows: &'a PackedRows,
    out: DisjointSlice<'a, f32>,
}

/// One row of one panel, ready for the last step.
struct RowEnd<'a> {
    sums: &'a F32x16,
    /// The row's side products, each in lane `lane` of a line; with `lora_b` the low-rank part.
    side: &'a [[u32; ROWS]],
    lane: usize,
    lora_b: &'a [F32x16],
    /// As long as `out`, or empty.
    residual: &'a [f32],
    /// 16 columns, fewer in the last panel.
    out: &'a mut [f32],
}

impl Finish<'_> {
    /// The bias of the columns of a panel.
    fn bias(&self, panel: usize) -> F32x16 {
        F32x16::padded(&self.product.bias[self.product.weights.columns(panel)])
    }

    fn is_gelu(&self) -> bool {
        matches!(self.product.epilogue, Epilogue::BiasGelu)
    }

    /// Calls `end` for each row of `rows`, whose lines are `sums`.
    #[inline(always)]
    fn each_row(
        &self,
        rows: Range<usize>,
        panel: usize,
        sums: &[F32x16],
        mut end: impl FnMut(RowEnd<'_>),
    ) {
        let Product {
            weights,
            segments,
            epilogue,
            ..
        } = self.product;
        let n = weights.n();
        let columns = weights.columns(panel);
        let first = segments.partition_point(|segment| segment.rows.end <= rows.start);
        for segment in &segments[first..] {
            let lora_b = segment.lora.map_or(&[][..], |lora| lora.panel(panel));
            let mut row = segment.rows.start.max(rows.start);
            let last = segment.rows.end.min(rows.end);
            while row < last {
                let side = self.rows.side(row / ROWS);
                let of_panel = row..last.min(row / ROWS * ROWS + ROWS);
                let sums = &sums[of_panel.start - rows.start..of_panel.end - rows.start];
                let mut out = row * n + columns.start..row * n + columns.end;
                for (lane, sums) in (row % ROWS..ROWS).zip(sums) {
                    end(RowEnd {
                        sums,
                        side,
                        lane,
                        lora_b,
                        residual: match epilogue {
                            Epilogue::BiasResidual(residual) => &residual[out.clone()],
                            Epilogue::Bias | Epilogue::BiasGelu => &[],
                        },
                        #[expect(unsafe_code, reason = "tasks write disjoint parts of the output")]
                        // SAFETY: the tasks of a plan share no row of a panel, and the part dies
                        // before the next row.
                        out: unsafe { self.out.range(out.clone()) },
                    });
                    out = out.start + n..out.end + n;
                }
                row = of_panel.end;
            }
            if segment.rows.end >= rows.end {
                break;
            }
        }
    }
}
