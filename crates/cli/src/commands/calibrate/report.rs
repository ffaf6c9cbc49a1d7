//! What a calibration found, as JSON and as a table.

use std::path::PathBuf;

use quintet_engine::Sensitivity;
use quintet_engine::calibration::distance;
use serde::Serialize;

use crate::table::{Align, columns};

#[derive(Serialize)]
pub(super) struct Report<'a> {
    pub(super) model: &'a str,
    pub(super) path: PathBuf,
    /// Texts that distances are measured on.
    pub(super) texts: usize,
    /// All matrices in 8 bits, rounded to nearest.
    pub(super) before: Distance,
    /// All in 8 bits, rounded for the texts.
    pub(super) rounded: Option<Rounded>,
    /// As they are kept.
    pub(super) after: Distance,
    /// Of the weights, in 16 bits.
    pub(super) kept_percent: f64,
    pub(super) matrices: Vec<Matrix>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) curve: Vec<Point>,
}

/// What the rounding for texts gives.
#[derive(Serialize)]
pub(super) struct Rounded {
    /// Texts that taught it; the distance is measured on others.
    pub(super) texts: usize,
    /// Whether it is the nearer one, and so is kept.
    pub(super) kept: bool,
    #[serde(flatten)]
    pub(super) distance: Distance,
}

/// What one share of 16 bits costs and gives.
#[derive(Serialize)]
pub(super) struct Point {
    /// None: `exact`.
    pub(super) percent: Option<u8>,
    pub(super) tokens_per_s: f64,
    #[serde(flatten)]
    pub(super) distance: Distance,
}

/// `1 - cosine` to `exact`.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Distance {
    pub(super) mean: f64,
    pub(super) worst: f64,
}

#[derive(Serialize)]
pub(super) struct Matrix {
    pub(super) name: String,
    pub(super) numbers: usize,
    /// `1 - cosine` when it alone is in 8 bits.
    pub(super) error: f64,
    pub(super) kept: bool,
}

impl Distance {
    /// Of vectors to those that are expected, in the same order.
    pub(super) fn between(expected: &[Vec<f32>], found: &[Vec<f32>]) -> Self {
        let pairs = expected.iter().zip(found);
        let distances: Vec<f64> = pairs.map(|(a, b)| distance(a, b)).collect();
        Self {
            mean: distances.iter().sum::<f64>() / distances.len() as f64,
            worst: distances.iter().copied().fold(0.0, f64::max),
        }
    }
}

impl Matrix {
    /// The matrices that were measured; those of `kept` are in 16 bits.
    pub(super) fn all(measured: Vec<Sensitivity>, kept: &[usize]) -> Vec<Self> {
        let matrices = measured.into_iter().map(|matrix| Self {
            kept: kept.contains(&matrix.matrix),
            name: matrix.name,
            numbers: matrix.numbers,
            error: matrix.error,
        });
        matrices.collect()
    }

    /// The share of the weights that is in 16 bits.
    pub(super) fn kept_percent(matrices: &[Self]) -> f64 {
        let numbers = |is_counted: fn(&Self) -> bool| -> usize {
            let counted = matrices.iter().filter(|matrix| is_counted(matrix));
            counted.map(|matrix| matrix.numbers).sum()
        };
        100.0 * numbers(|matrix| matrix.kept) as f64 / numbers(|_| true) as f64
    }
}

impl Report<'_> {
    /// As a table for people.
    pub(super) fn drawn(&self) -> String {
        let kept: Vec<&str> = self
            .matrices
            .iter()
            .filter(|matrix| matrix.kept)
            .map(|matrix| matrix.name.as_str())
            .collect();
        let row = |what: String, distance: &Distance| {
            let number = |number: f64| format!("{number:.1e}");
            vec![what, number(distance.mean), number(distance.worst)]
        };
        let head = format!("1 - cosine to `exact`, {} texts", self.texts);
        let rounded = self.rounded.as_ref().map(|rounded| {
            let kept = if rounded.kept { "" } else { " (not kept)" };
            let what = format!("rounded for {} other texts{kept}", rounded.texts);
            row(what, &rounded.distance)
        });
        let rows = [
            vec![head, "mean".to_owned(), "worst".to_owned()],
            row("all in 8 bits, rounded to nearest".to_owned(), &self.before),
        ];
        let rows = rows.into_iter().chain(rounded).chain([row(
            format!(
                "{} of {} matrices, {:.0} % of the weights, in 16 bits",
                kept.len(),
                self.matrices.len(),
                self.kept_percent
            ),
            &self.after,
        )]);
        let rows: Vec<_> = rows.collect();
        let table = columns(&rows, &[Align::Left, Align::Right, Align::Right]);
        let curve = curve_table(&self.curve);
        let names: String = kept.iter().map(|name| format!("  {name}\n")).collect();
        format!("{table}{names}{curve}{}\n", self.path.display())
    }
}

fn curve_table(curve: &[Point]) -> String {
    let rows = curve.iter().map(|point| {
        vec![
            point
                .percent
                .map_or("exact".to_owned(), |percent| percent.to_string()),
            format!("{:.0}", point.tokens_per_s),
            format!("{:.1e}", point.distance.mean),
            format!("{:.1e}", point.distance.worst),
        ]
    });
    let head = ["% in 16 bits", "tokens/s", "mean", "worst"].map(str::to_owned);
    match curve {
        [] => String::new(),
        _ => columns(
            &std::iter::once(head.to_vec())
                .chain(rows)
                .collect::<Vec<_>>(),
            &[Align::Right; 4],
        ),
    }
}
