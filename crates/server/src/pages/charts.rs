//! Scores as shapes: bars with the marks of other models, and a curve over the size of the vector.
//! Places are in units of a picture 360 wide, which is legible on a phone.

use super::numbers::score;
use crate::catalogue::{Axis, Benchmark, Catalogue, Entry};

/// A benchmark, drawn.
pub(super) struct Chart<'a> {
    pub(super) benchmark: &'a Benchmark,
    pub(super) shape: Shape<'a>,
    /// Whose marks are on the bars, by number.
    pub(super) others: Vec<(usize, &'a str)>,
}

/// How.
pub(super) enum Shape<'a> {
    Bars(Bars<'a>),
    Curve(Curve<'a>),
}

/// A bar a score.
pub(super) struct Bars<'a> {
    pub(super) height: usize,
    pub(super) rows: Vec<Bar<'a>>,
}

/// A score and where it stands.
pub(super) struct Bar<'a> {
    pub(super) label: &'a str,
    pub(super) value: String,
    pub(super) y: usize,
    pub(super) width: String,
    pub(super) marks: Vec<Mark<'a>>,
}

/// Another model's score on the same.
pub(super) struct Mark<'a> {
    pub(super) number: usize,
    pub(super) x: String,
    pub(super) name: &'a str,
    pub(super) value: String,
}

/// A point a size.
pub(super) struct Curve<'a> {
    pub(super) points: Vec<Point<'a>>,
    pub(super) line: String,
    pub(super) low: String,
    pub(super) high: String,
}

/// A score at a size.
pub(super) struct Point<'a> {
    pub(super) x: String,
    pub(super) y: String,
    pub(super) label: &'a str,
    pub(super) value: String,
}

/// Where bars begin, how long 100 % is, and how far rows are apart.
const BARS_X: f64 = 130.0;
const BARS_WIDTH: f64 = 185.0;
const ROW: usize = 26;

/// The field of a curve.
const CURVE_X: (f64, f64) = (34.0, 336.0);
const CURVE_Y: (f64, f64) = (24.0, 132.0);

/// At most so many other models are marked; more would be noise.
const OTHERS: usize = 3;

impl<'a> Chart<'a> {
    /// All benchmarks of an entry, with the marks of those in the catalogue that were scored alike.
    pub(super) fn all(entry: &'a Entry, catalogue: &'a Catalogue) -> Vec<Self> {
        let charts = entry.benchmarks.iter();
        charts.map(|it| Self::new(it, entry, catalogue)).collect()
    }

    fn new(benchmark: &'a Benchmark, entry: &Entry, catalogue: &'a Catalogue) -> Self {
        if benchmark.axis == Axis::Dimensions {
            return Self {
                benchmark,
                shape: Shape::Curve(Curve::new(benchmark)),
                others: Vec::new(),
            };
        }
        let others: Vec<(&'a Entry, &'a Benchmark)> = catalogue
            .entries()
            .iter()
            .filter(|other| other.id != entry.id)
            .filter_map(|other| {
                let same = |it: &&Benchmark| it.name == benchmark.name;
                Some((other, other.benchmarks.iter().find(same)?))
            })
            .take(OTHERS)
            .collect();
        let names = others.iter().enumerate();
        Self {
            benchmark,
            others: names
                .map(|(index, (other, _))| (index + 1, other.name.as_str()))
                .collect(),
            shape: Shape::Bars(Bars::new(benchmark, &others)),
        }
    }
}

impl<'a> Bars<'a> {
    fn new(benchmark: &'a Benchmark, others: &[(&'a Entry, &'a Benchmark)]) -> Self {
        let width = |value: f64| value.clamp(0.0, 100.0) / 100.0 * BARS_WIDTH;
        let rows = benchmark.scores.iter().enumerate().map(|(index, own)| Bar {
            label: &own.label,
            value: score(own.value),
            y: index * ROW,
            width: format!("{:.1}", width(own.value)),
            marks: others
                .iter()
                .enumerate()
                .filter_map(|(number, (entry, benchmark))| {
                    let same = benchmark.scores.iter().find(|it| it.label == own.label)?;
                    Some(Mark {
                        number: number + 1,
                        x: format!("{:.1}", BARS_X + width(same.value)),
                        name: &entry.name,
                        value: score(same.value),
                    })
                })
                .collect(),
        });
        Self {
            rows: rows.collect(),
            height: benchmark.scores.len() * ROW,
        }
    }
}

impl<'a> Curve<'a> {
    /// The axis runs from the multiple of 10 below the least score to the one above the largest.
    fn new(benchmark: &'a Benchmark) -> Self {
        let values = || benchmark.scores.iter().map(|it| it.value);
        let low = (values().fold(f64::INFINITY, f64::min) / 10.0).floor() * 10.0;
        let high = (values().fold(f64::NEG_INFINITY, f64::max) / 10.0).ceil() * 10.0;
        let range = (high - low).max(10.0);
        let step = (CURVE_X.1 - CURVE_X.0) / (benchmark.scores.len().max(2) - 1) as f64;
        let points: Vec<Point<'a>> = benchmark
            .scores
            .iter()
            .enumerate()
            .map(|(index, it)| Point {
                x: format!("{:.1}", CURVE_X.0 + index as f64 * step),
                y: format!(
                    "{:.1}",
                    CURVE_Y.1 - (it.value - low) / range * (CURVE_Y.1 - CURVE_Y.0)
                ),
                label: &it.label,
                value: score(it.value),
            })
            .collect();
        let line: Vec<String> = points
            .iter()
            .map(|point| format!("{},{}", point.x, point.y))
            .collect();
        Self {
            line: line.join(" "),
            points,
            low: score(low),
            high: score(low + range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_scores_and_marks_stand_at_the_others() {
        let catalogue = Catalogue::built_in();
        let jina = catalogue.entry("jinaai/jina-embeddings-v3").unwrap();
        let charts = Chart::all(jina, &catalogue);
        let chart = charts
            .iter()
            .find(|it| it.benchmark.name == "MTEB English")
            .unwrap();
        assert_eq!(chart.others, [(1, "text-embedding-3-large")]);
        let Shape::Bars(bars) = &chart.shape else {
            unreachable!("tasks are bars");
        };
        let average = &bars.rows[0];
        assert_eq!(average.width, format!("{:.1}", 0.6552 * BARS_WIDTH));
        assert_eq!(
            average.marks[0].x,
            format!("{:.1}", BARS_X + 0.646 * BARS_WIDTH)
        );
    }

    #[test]
    fn a_curve_stays_in_its_field() {
        let catalogue = Catalogue::built_in();
        let curves = catalogue.entries().iter().flat_map(|it| &it.benchmarks);
        for benchmark in curves.filter(|it| it.axis == Axis::Dimensions) {
            let curve = Curve::new(benchmark);
            for point in &curve.points {
                let (x, y): (f64, f64) = (point.x.parse().unwrap(), point.y.parse().unwrap());
                assert!(
                    (CURVE_X.0..=CURVE_X.1).contains(&x) && (CURVE_Y.0..=CURVE_Y.1).contains(&y)
                );
            }
        }
    }
}
