//! Files to entries: the built-in ones, then an operator's folder over them.
//!
//! A file of the folder whose `id` is known changes the fields that it names and leaves the others, so
//! that a price is two lines; one with a new `id` is a whole entry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{Catalogue, Entry};

/// What is wrong with a catalogue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// The folder or a file in it cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not TOML.
    #[error("`{}` is not TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, and what the parser said.
        source: Box<toml::de::Error>,
    },
    /// A file says no id.
    #[error("`{}` has no `id`, expected the id of a model as a text", path.display())]
    NoId {
        /// The file.
        path: PathBuf,
    },
    /// Two files of the folder are about one model.
    #[error("`{}` and `{}` are both about `{id}`", first.display(), second.display())]
    Twice {
        /// The model.
        id: String,
        /// A file.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// A field is unknown, missing or of the wrong type.
    #[error("`{}` is wrong at `{field}`", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, `.` where one is missing at the top.
        field: String,
        /// What was found and expected.
        source: Box<toml::de::Error>,
    },
    /// A field holds what it cannot hold.
    #[error("`{}` says {field} `{found}`, expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What would be valid.
        expected: &'static str,
    },
}

/// The built-in files, in the order of their pages.
const BUILT_IN: [(&str, &str); 6] = [
    (
        "jina-embeddings-v3.toml",
        include_str!("../../catalogue/jina-embeddings-v3.toml"),
    ),
    ("mini.toml", include_str!("../../catalogue/mini.toml")),
    ("bge-m3.toml", include_str!("../../catalogue/bge-m3.toml")),
    (
        "multilingual-e5-large.toml",
        include_str!("../../catalogue/multilingual-e5-large.toml"),
    ),
    (
        "qwen3-embedding-0.6b.toml",
        include_str!("../../catalogue/qwen3-embedding-0.6b.toml"),
    ),
    (
        "text-embedding-3-large.toml",
        include_str!("../../catalogue/text-embedding-3-large.toml"),
    ),
];

impl Catalogue {
    /// The built-in entries.
    #[expect(clippy::expect_used, reason = "a test reads the same files")]
    pub fn built_in() -> Self {
        Self::of_files(Vec::new()).expect("the built-in files are right")
    }

    /// The built-in entries under those of an operator's folder: its files that end in `.toml`.
    ///
    /// # Errors
    /// [`CatalogueError`] for the first file that is wrong, by name.
    pub fn read(folder: &Path) -> Result<Self, CatalogueError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| CatalogueError::Read { path, source }
        };
        let mut paths = Vec::new();
        for file in std::fs::read_dir(folder).map_err(unreadable(folder))? {
            let path = file.map_err(unreadable(folder))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                paths.push(path);
            }
        }
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            files.push((path, text));
        }
        Self::of_files(files)
    }

    fn of_files(files: Vec<(PathBuf, String)>) -> Result<Self, CatalogueError> {
        let mut tables: Vec<(PathBuf, Table)> = Vec::new();
        for (name, text) in BUILT_IN {
            tables.push((PathBuf::from(name), parsed(Path::new(name), text)?));
        }
        let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (path, text) in files {
            let table = parsed(&path, &text)?;
            let Some(Value::String(id)) = table.get("id").cloned() else {
                return Err(CatalogueError::NoId { path });
            };
            if let Some(first) = seen.insert(id.clone(), path.clone()) {
                let second = path;
                return Err(CatalogueError::Twice { id, first, second });
            }
            match tables
                .iter_mut()
                .find(|(_, known)| known["id"] == table["id"])
            {
                Some((of, known)) => {
                    overlay(known, table);
                    *of = path;
                }
                None => tables.push((path, table)),
            }
        }
        let entries = tables
            .into_iter()
            .map(|(path, table)| entry(path, table))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

fn parsed(path: &Path, text: &str) -> Result<Table, CatalogueError> {
    text.parse().map_err(|source| CatalogueError::Syntax {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Puts the fields of one table over another's; tables inside are put over each other too, lists are
/// replaced.
fn overlay(under: &mut Table, over: Table) {
    for (name, value) in over {
        match (under.get_mut(&name), value) {
            (Some(Value::Table(under)), Value::Table(over)) => overlay(under, over),
            (_, value) => {
                under.insert(name, value);
            }
        }
    }
}

fn entry(path: PathBuf, table: Table) -> Result<Entry, CatalogueError> {
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(table, &mut track);
    let entry = match Entry::deserialize(tracked) {
        Ok(entry) => entry,
        Err(source) => {
            let field = track.path().to_string();
            return Err(CatalogueError::Field {
                path,
                field,
                source: Box::new(source),
            });
        }
    };
    match entry.first_mistake() {
        None => Ok(entry),
        Some(mistake) => Err(CatalogueError::Value {
            path,
            field: mistake.field,
            found: mistake.found,
            expected: mistake.expected,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Catalogue, CatalogueError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Catalogue::read(folder.path())
    }

    /// The error with its cause, the folder left out.
    fn error(text: &str) -> String {
        let error = read(&[("a.toml", text)]).unwrap_err();
        let message = error.to_string();
        let (_, message) = message.split_once("/a.toml").unwrap();
        let cause = error.source().map(|source| source.to_string());
        format!("{message}: {}", cause.unwrap_or_default())
    }

    #[test]
    fn an_operators_file_changes_what_it_names_and_adds_what_is_new() {
        let price = "id = 'quintet/mini'\n[price]\nrealtime_micro_usd_per_million = 20_000\nbatch_micro_usd_per_million = 10_000";
        let new = "id = 'acme/one'\nname = 'One'\nprovider = 'Acme'\nline = 'A model.'\navailability = 'coming-soon'";
        let catalogue = read(&[("p.toml", price), ("n.toml", new), ("notes.txt", "=")]).unwrap();
        let built_in = Catalogue::built_in();
        let mini = catalogue.entry("quintet/mini").unwrap();
        assert_eq!(mini.price.unwrap().batch_micro_usd_per_million, 10_000);
        assert_eq!(mini.faq, built_in.entry("quintet/mini").unwrap().faq);
        assert_eq!(catalogue.entries().len(), built_in.entries().len() + 1);
        assert_eq!(catalogue.entry("acme/one").unwrap().name, "One");
    }

    #[test]
    fn errors_name_the_file_and_the_field() {
        assert!(
            error("id = 'quintet/mini'\nprise = 1")
                .starts_with("` is wrong at `prise`: unknown field")
        );
        let half = "id = 'quintet/mini'\n[price]\nrealtime_micro_usd_per_million = 1";
        assert!(
            error(half).contains("at `price`: missing field `batch_micro_usd"),
            "{}",
            error(half)
        );
        let wrong = "id = 'quintet/mini'\n[license]\ncommercial_use = 'yes'";
        assert!(error(wrong).contains("at `license.commercial_use`: invalid type"));
        let address = "id = 'quintet/mini'\nlinks = [{title = 'x', url = 'javascript:alert(1)'}]";
        assert!(error(address).contains("says links[0].url `javascript:alert(1)`"));
        let negative = "id = 'quintet/mini'\n[price]\nrealtime_micro_usd_per_million = -1";
        assert!(error(negative).contains("at `price.realtime_micro_usd_per_million`"));
        assert!(error("name = 'x'").contains("has no `id`"));
        assert!(error("id = 'x").contains("is not TOML"));
        assert!(error("id = 'acme/one'").contains("missing field"));
        let same = "id = 'quintet/mini'";
        let twice = read(&[("a.toml", same), ("b.toml", same)]).unwrap_err();
        assert!(matches!(twice, CatalogueError::Twice { .. }));
    }

    #[test]
    fn what_is_built_in_is_whole() {
        let catalogue = Catalogue::built_in();
        assert_eq!(catalogue.entries().len(), BUILT_IN.len());
        for entry in catalogue.entries() {
            let related = entry.related.iter();
            related.for_each(|id| assert!(catalogue.entry(id).is_some(), "{id}"));
            assert!(entry.license.is_some(), "{}", entry.id);
            assert!(
                entry.benchmarks.iter().all(|it| it.url.is_some()) || entry.id == "quintet/mini"
            );
        }
    }
}
