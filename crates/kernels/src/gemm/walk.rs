//! The order in which a task goes through its block, the same for every instruction set.

use super::Block;
use crate::tile::{F32x16, ROWS};

/// What an instruction set does on the way, `U` lines at a time: `L` is a line of weights, `C` such
/// lines in registers, `S` the sums of a row over the columns of a line.
pub(super) struct Steps<S, Load, Prefetch, MultiplyAdd, Add> {
    /// Sums of nothing.
    pub(super) zero: S,
    /// `Fn(&[L; U]) -> C`.
    pub(super) load: Load,
    /// `Fn(&L)`: the line will be wanted soon.
    pub(super) prefetch: Prefetch,
    /// `Fn(x, C, S) -> S`, where `x` is `U` numbers or words of a row.
    pub(super) multiply_add: MultiplyAdd,
    /// `Fn(S, Place, &mut F32x16)`: adds the sums of a block of k to a line of the tile.
    pub(super) add: Add,
}

/// Where sums belong.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Panel of the task.
    pub(super) panel: usize,
    /// Row of the task.
    pub(super) row: usize,
}

/// Goes through a block: full tiles by `P6` panels at once, then the last 1 to 5 rows by `P1` to
/// `P5`. Each sum is one chain, and it takes several chains to hide the latency of a multiply-add,
/// so few rows want many panels. Panels that are left over go one by one. No order changes a sum.
///
/// `lines` are [panels, `head` + steps]; the head of a panel is for `add`.
#[inline(always)]
pub(super) fn walk<
    const P1: usize,
    const P2: usize,
    const P3: usize,
    const P4: usize,
    const P5: usize,
    const P6: usize,
    L,
    C,
    S: Copy,
>(
    block: &Block<'_>,
    lines: &[L],
    head: usize,
    steps: &Steps<
        S,
        impl Fn(&[L; 1]) -> C,
        impl Fn(&L),
        impl Fn([u32; 1], &C, S) -> S,
        impl Fn(S, Place, &mut F32x16),
    >,
    tile: &mut [F32x16],
) {
    let full = block.rows.len() / ROWS * ROWS;
    walk_rows::<ROWS, P6, 1, L, C, S>(block, 0, full, lines, head, steps, tile);
    let rest = full..block.rows.len();
    let (start, end) = (rest.start, rest.end);
    match rest.len() {
        1 => walk_rows::<1, P1, 1, L, C, S>(block, start, end, lines, head, steps, tile),
        2 => walk_rows::<2, P2, 1, L, C, S>(block, start, end, lines, head, steps, tile),
        3 => walk_rows::<3, P3, 1, L, C, S>(block, start, end, lines, head, steps, tile),
        4 => walk_rows::<4, P4, 1, L, C, S>(block, start, end, lines, head, steps, tile),
        5 => walk_rows::<5, P5, 1, L, C, S>(block, start, end, lines, head, steps, tile),
        _ => {}
    }
}

/// The same in tiles of 3 rows, half a panel, and two lines at a time.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn walk_by_two<L, C, S: Copy>(
    block: &Block<'_>,
    lines: &[L],
    head: usize,
    steps: &Steps<
        S,
        impl Fn(&[L; 2]) -> C,
        impl Fn(&L),
        impl Fn([u32; 2], &C, S) -> S,
        impl Fn(S, Place, &mut F32x16),
    >,
    tile: &mut [F32x16],
) {
    const HALF: usize = ROWS / 2;
    let (full, end) = (block.rows.len() / HALF * HALF, block.rows.len());
    walk_rows::<HALF, 1, 2, L, C, S>(block, 0, full, lines, head, steps, tile);
    match end - full {
        1 => walk_rows::<1, 1, 2, L, C, S>(block, full, end, lines, head, steps, tile),
        2 => walk_rows::<2, 1, 2, L, C, S>(block, full, end, lines, head, steps, tile),
        _ => {}
    }
}

/// The rows from `start` to `end` of the task, `R` at once, by all panels, `P` at once.
#[inline(always)]
fn walk_rows<const R: usize, const P: usize, const U: usize, L, C, S: Copy>(
    block: &Block<'_>,
    start: usize,
    end: usize,
    lines: &[L],
    head: usize,
    steps: &Steps<
        S,
        impl Fn(&[L; U]) -> C,
        impl Fn(&L),
        impl Fn([u32; U], &C, S) -> S,
        impl Fn(S, Place, &mut F32x16),
    >,
    tile: &mut [F32x16],
) {
    let rows = block.rows.len();
    let panels = tile.len() / rows;
    let panel_len = lines.len() / panels;
    let mut panel = 0;
    while panel < panels {
        let at_once = if panel + P <= panels { P } else { 1 };
        // The lines after these panels, which the first tile asks for while it computes. After
        // full tiles the last rows find everything in the cache.
        let mut next = if start == 0 {
            &lines[(panel + at_once) * panel_len..]
        } else {
            &[]
        };
        for row in (start..end).step_by(R) {
            let place = Place { panel, row };
            if at_once == P {
                tile_of::<R, P, U, L, C, S>(block, place, lines, next, head, steps, tile);
            } else {
                tile_of::<R, 1, U, L, C, S>(block, place, lines, next, head, steps, tile);
            }
            next = &[];
        }
        panel += at_once;
    }
}

/// `R` rows by `P` panels. What is left of `U` lines is not used: there is none, or `U` is 1.
#[inline(always)]
fn tile_of<const R: usize, const P: usize, const U: usize, L, C, S: Copy>(
    block: &Block<'_>,
    place: Place,
    lines: &[L],
    next: &[L],
    head: usize,
    steps: &Steps<
        S,
        impl Fn(&[L; U]) -> C,
        impl Fn(&L),
        impl Fn([u32; U], &C, S) -> S,
        impl Fn(S, Place, &mut F32x16),
    >,
    tile: &mut [F32x16],
) {
    let x = block.x_steps(place.row / ROWS);
    let panel_len = head + x.len();
    let lane = place.row % ROWS;
    let panels: [&[[L; U]]; P] = std::array::from_fn(|panel| {
        let start = (place.panel + panel) * panel_len + head;
        lines[start..start + x.len()].as_chunks().0
    });
    let mut sums = [[steps.zero; P]; R];
    for (step, x) in x.as_chunks::<U>().0.iter().enumerate() {
        for panel in 0..P {
            let columns = (steps.load)(&panels[panel][step]);
            for line in next.iter().skip(panel * panel_len + step * U).take(U) {
                (steps.prefetch)(line);
            }
            for row in 0..R {
                let x = std::array::from_fn(|line| x[line][lane + row]);
                sums[row][panel] = (steps.multiply_add)(x, &columns, sums[row][panel]);
            }
        }
    }
    for (row, sums) in (place.row..).zip(sums) {
        for (panel, sums) in (place.panel..).zip(sums) {
            let line = &mut tile[panel * block.rows.len() + row];
            (steps.add)(sums, Place { panel, row }, line);
        }
    }
}
