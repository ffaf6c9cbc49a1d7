//! `/compare?models=a/b,c/d`: models side by side, what differs marked.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::frame::{self, Frame};
use super::models::{Listed, UNKNOWN};
use super::numbers::score;
use crate::app::SharedApp;
use crate::catalogue::{Axis, Catalogue, Entry};

/// More columns than this are no comparison.
const MOST: usize = 6;

#[derive(Template)]
#[template(path = "compare.html")]
struct Compare<'a> {
    frame: Frame,
    /// All models, and whether they are ticked.
    choices: Vec<(&'a Entry, bool)>,
    columns: Vec<Listed<'a>>,
    facts: Vec<Row>,
    benchmarks: Vec<Table<'a>>,
}

/// A line of the comparison.
struct Row {
    title: String,
    cells: Vec<Cell>,
    /// Whether the columns say different things.
    differs: bool,
}

struct Cell {
    text: String,
    is_best: bool,
}

/// The scores of one benchmark.
struct Table<'a> {
    name: &'a str,
    metric: &'a str,
    rows: Vec<Row>,
    sources: Vec<Source<'a>>,
}

/// Who says so about whom.
struct Source<'a> {
    model: &'a str,
    words: &'a str,
    url: Option<&'a str>,
    date: &'a str,
}

/// `GET /compare`.
pub(super) async fn page(
    State(app): State<SharedApp>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let catalogue = &app.config.catalogue;
    let chosen = chosen(catalogue, &query.unwrap_or_default());
    let is_chosen = |entry: &Entry| chosen.iter().any(|it| it.id == entry.id);
    let columns: Vec<Listed<'_>> = chosen
        .iter()
        .map(|entry| Listed::new(&app, entry))
        .collect();
    frame::page(&Compare {
        frame: Frame::new(&app, &headers, "/compare"),
        choices: catalogue
            .entries()
            .iter()
            .map(|it| (it, is_chosen(it)))
            .collect(),
        facts: facts(&columns),
        benchmarks: benchmarks(&chosen),
        columns,
    })
}

/// The models of a query, each once and in its order: `models` may come several times, and with commas.
/// Ids that are not in the catalogue are left out.
fn chosen<'a>(catalogue: &'a Catalogue, query: &str) -> Vec<&'a Entry> {
    let values = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("models="));
    let ids = values.map(|value| {
        value
            .replace("%2F", "/")
            .replace("%2f", "/")
            .replace("%2C", ",")
    });
    let ids: Vec<String> = ids
        .flat_map(|ids| ids.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut chosen: Vec<&Entry> = Vec::new();
    for entry in ids.iter().filter_map(|id| catalogue.entry(id)) {
        if chosen.len() < MOST && !chosen.iter().any(|it| it.id == entry.id) {
            chosen.push(entry);
        }
    }
    chosen
}

fn facts(columns: &[Listed<'_>]) -> Vec<Row> {
    let row = |title: &str, text: &dyn Fn(&Listed<'_>) -> String| {
        let cells = columns.iter().map(|it| Cell {
            text: text(it),
            is_best: false,
        });
        let cells: Vec<Cell> = cells.collect();
        let distinct: BTreeSet<&str> = cells.iter().map(|cell| cell.text.as_str()).collect();
        Row {
            title: title.to_owned(),
            differs: distinct.len() > 1,
            cells,
        }
    };
    let unknown = || UNKNOWN.to_owned();
    vec![
        row("Status", &|it| it.status.words().to_owned()),
        row("Provider", &|it| it.entry.provider.clone()),
        row("Longest input, tokens", &|it| it.context.clone()),
        row("Dimensions", &|it| it.dimensions.clone()),
        row("Parameters", &|it| it.parameters.clone()),
        row("Architecture", &|it| {
            let architecture = it.entry.architecture.as_ref();
            architecture.map_or_else(unknown, |architecture| architecture.family.clone())
        }),
        row("Task adapters", &|it| {
            let rank = it
                .entry
                .architecture
                .as_ref()
                .and_then(|it| it.adapter_rank);
            let count = it
                .entry
                .tasks
                .iter()
                .filter(|task| task.name != "raw")
                .count();
            rank.map_or_else(
                || "none".to_owned(),
                |rank| format!("{count} of rank {rank}"),
            )
        }),
        row("Languages", &|it| {
            let languages = it.entry.languages.as_ref();
            languages.map_or_else(unknown, |languages| languages.count.clone())
        }),
        row("Licence of the weights", &|it| it.license.to_owned()),
        row("Commercial use", &|it| match &it.entry.license {
            Some(license) if license.commercial_use => "allowed".to_owned(),
            Some(_) => "not without the owner's leave".to_owned(),
            None => unknown(),
        }),
        row("Price per million tokens", &|it| match it.price.note {
            Some(note) => format!("{} ({note})", it.price.realtime),
            None => it.price.realtime.clone(),
        }),
        row("Released", &|it| {
            it.entry.released.clone().unwrap_or_else(unknown)
        }),
    ]
}

/// The benchmarks that two of the models at least have in common.
fn benchmarks<'a>(chosen: &[&'a Entry]) -> Vec<Table<'a>> {
    let mut tables: Vec<Table<'a>> = Vec::new();
    for first in chosen.iter().flat_map(|entry| &entry.benchmarks) {
        let is_known = tables.iter().any(|table| table.name == first.name);
        if is_known || first.axis == Axis::Dimensions {
            continue;
        }
        let of = |entry: &&'a Entry| entry.benchmarks.iter().find(|it| it.name == first.name);
        let found: Vec<_> = chosen.iter().map(of).collect();
        if found.iter().flatten().count() < 2 {
            continue;
        }
        let rows = first.scores.iter().map(|score_of_first| {
            let value = |label: &str| {
                let scores = found.iter().map(|it| {
                    let scores = it.map(|it| &it.scores);
                    scores
                        .and_then(|scores| scores.iter().find(|it| it.label == label))
                        .map(|it| it.value)
                });
                scores.collect::<Vec<Option<f64>>>()
            };
            let values = value(&score_of_first.label);
            let best = values
                .iter()
                .flatten()
                .copied()
                .fold(f64::NEG_INFINITY, f64::max);
            let cells = values.iter().map(|value| Cell {
                text: value.map_or_else(|| "–".to_owned(), score),
                is_best: *value == Some(best),
            });
            Row {
                title: score_of_first.label.clone(),
                cells: cells.collect(),
                differs: false,
            }
        });
        let sources = chosen.iter().zip(&found).filter_map(|(entry, benchmark)| {
            let benchmark = (*benchmark)?;
            Some(Source {
                model: &entry.name,
                words: &benchmark.source,
                url: benchmark.url.as_deref(),
                date: &benchmark.date,
            })
        });
        tables.push(Table {
            name: &first.name,
            metric: &first.metric,
            rows: rows.collect(),
            sources: sources.collect(),
        });
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_models_in_either_way() {
        let catalogue = Catalogue::built_in();
        let ids = |query: &str| -> Vec<String> {
            let chosen = chosen(&catalogue, query);
            chosen
                .into_iter()
                .map(|entry| entry.short_id().to_owned())
                .collect()
        };
        let both = ["mini", "bge-m3"];
        assert_eq!(ids("models=quintet/mini,BAAI/bge-m3"), both);
        assert_eq!(ids("models=quintet%2Fmini&x=1&models=BAAI%2Fbge-m3"), both);
        assert_eq!(ids("models=quintet/mini,quintet/mini,<script>"), ["mini"]);
        assert!(ids("").is_empty());
    }

    #[test]
    fn the_best_score_is_marked_and_one_alone_is_no_comparison() {
        let catalogue = Catalogue::built_in();
        let of = |ids: &[&str]| -> Vec<&Entry> {
            ids.iter().filter_map(|id| catalogue.entry(id)).collect()
        };
        let tables = benchmarks(&of(&["quintet/mini", "jinaai/jina-embeddings-v3"]));
        let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
        assert_eq!(names, ["XQuAD retrieval", "STS-B English"]);
        let cells = &tables[0].rows[0].cells;
        assert_eq!((cells[0].text.as_str(), cells[0].is_best), ("85.1", false));
        assert_eq!((cells[1].text.as_str(), cells[1].is_best), ("96.12", true));
        assert!(benchmarks(&of(&["quintet/mini"])).is_empty());
    }
}
