//! A test collection: documents, queries, and which documents are relevant to which query.
//!
//! The same four fields in JSONL and in CSV, of which a line has those that it needs:
//!
//! ```text
//! {"query": "How do I get a new password?", "document": "Click on “Forgotten” below the form."}
//! {"id": "d2", "document": "Parcels take two days."}
//! {"query": "When does my parcel come?", "relevant": ["d2"]}
//! ```
//!
//! A document in a query's own line is relevant to it. `relevant` names others by id, in JSONL as a list
//! or with grades (`{"d2": 3, "d9": 1}`), in CSV with spaces between. Lines with the same query add up;
//! the same document may stand in many lines.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What is searched, what for, and what should be found.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// Two at least.
    pub documents: Vec<Document>,
    /// One at least, each with one relevant document at least.
    pub queries: Vec<Query>,
}

/// A text that can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Not empty.
    pub text: String,
    /// Where it stood first, from 1.
    pub line: u64,
}

/// A text that is looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Not empty.
    pub text: String,
    /// Where it stood first, from 1.
    pub line: u64,
    /// In the order of the documents, none twice.
    pub relevant: Vec<Relevant>,
}

impl Query {
    /// Sorts what was noted, and leaves out what is not relevant and what is noted twice.
    pub(super) fn keep_relevant(&mut self) {
        let relevant = &mut self.relevant;
        relevant.retain(|it| it.grade > 0.0);
        // The highest grade of a document is the one that stays.
        relevant.sort_by(|a, b| {
            a.document
                .cmp(&b.document)
                .then(b.grade.total_cmp(&a.grade))
        });
        relevant.dedup_by_key(|it| it.document);
    }
}

/// A document that a query should find.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relevant {
    /// Its place among the documents.
    pub document: usize,
    /// How much so; above 0.
    pub grade: f64,
}

/// Why a text is no collection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectionError {
    /// A line of JSONL cannot be read.
    #[error("the collection is not JSONL as expected")]
    Json {
        /// Says where.
        source: serde_json::Error,
    },
    /// A line of CSV cannot be read.
    #[error("the collection is not CSV as expected")]
    Csv {
        /// Says where.
        source: csv::Error,
    },
    /// The columns of CSV have no names that are known.
    #[error(
        "the first line is {found:?}, expected a JSON object or the names of columns, `document` and `query` among them"
    )]
    Header {
        /// The first line, or its beginning.
        found: String,
    },
    /// A line tells nothing.
    #[error("line {line} has neither a `document` nor a `query`")]
    Neither {
        /// From 1.
        line: u64,
    },
    /// Relevance without a query.
    #[error("line {line} has `relevant` and no `query`")]
    NoQuery {
        /// From 1.
        line: u64,
    },
    /// Two documents of one id.
    #[error("line {line} has the id `{id}` of another document, that of line {first}")]
    DuplicateId {
        /// From 1.
        line: u64,
        /// Found twice.
        id: String,
        /// Where it stood first.
        first: u64,
    },
    /// A relevant document that is not there.
    #[error("line {line} names the document `{id}`, which is not in the collection")]
    UnknownId {
        /// From 1.
        line: u64,
        /// Found.
        id: String,
    },
    /// A grade that tells nothing.
    #[error("line {line} grades the document `{id}` with {grade}, expected 0 or more")]
    Grade {
        /// From 1.
        line: u64,
        /// Of the document.
        id: String,
        /// Found.
        grade: f64,
    },
    /// A query that nothing can be measured with.
    #[error("the query in line {line} has no relevant document")]
    NothingRelevant {
        /// From 1.
        line: u64,
    },
    /// Too little to measure.
    #[error("there are {documents} documents and {queries} queries, expected 2 and 1 at least")]
    TooFew {
        /// Found.
        documents: usize,
        /// Found.
        queries: usize,
    },
}

impl Collection {
    /// Reads JSONL, or CSV with commas, semicolons or tabs.
    ///
    /// # Errors
    /// [`CollectionError`] that names the line.
    pub fn read(text: &str) -> Result<Self, CollectionError> {
        let text = text.trim_start_matches('\u{feff}');
        let mut reading = Reading::default();
        if text.trim_start().starts_with('{') {
            read_json(text, &mut reading)?;
        } else if !text.trim().is_empty() {
            read_csv(text, &mut reading)?;
        }
        reading.finish()
    }
}

/// A line of either format.
#[derive(Debug, Default, Deserialize)]
struct Line {
    #[serde(default)]
    id: Option<Id>,
    #[serde(default)]
    document: Option<String>,
    #[serde(default)]
    query: Option<String>,
    #[serde(default)]
    relevant: Option<Named>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected an id: a text or a whole number")]
pub(super) enum Id {
    Text(String),
    Number(i64),
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected `relevant` to be an id, a list of ids, or an object of ids with grades"
)]
enum Named {
    One(Id),
    List(Vec<Id>),
    Graded(HashMap<String, f64>),
}

impl Id {
    pub(super) fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

impl Named {
    fn grades(self) -> Vec<(String, f64)> {
        match self {
            Self::One(id) => vec![(id.text(), 1.0)],
            Self::List(ids) => ids.into_iter().map(|id| (id.text(), 1.0)).collect(),
            Self::Graded(grades) => grades.into_iter().collect(),
        }
    }
}

fn read_json(text: &str, reading: &mut Reading) -> Result<(), CollectionError> {
    each_object(text, |line, value| match value {
        Ok(value) => reading.take(line, value),
        Err(source) => Err(CollectionError::Json { source }),
    })
}

/// Hands over what was read of each object of JSONL, with the line that it begins in, up to the first
/// error.
pub(super) fn each_object<T: DeserializeOwned, E>(
    text: &str,
    mut take: impl FnMut(u64, serde_json::Result<T>) -> Result<(), E>,
) -> Result<(), E> {
    let text = text.trim_start_matches('\u{feff}');
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let (mut line, mut counted) = (1, 0);
    loop {
        // Objects may stand over several lines: they count from where they begin.
        let rest = &text[values.byte_offset()..];
        let start = text.len() - rest.trim_start().len();
        line += text[counted..start].matches('\n').count() as u64;
        counted = start;
        match values.next() {
            None => return Ok(()),
            Some(value) => take(line, value)?,
        }
    }
}

/// Of the first line that is shown where it tells nothing.
const SHOWN: usize = 60;

fn read_csv(text: &str, reading: &mut Reading) -> Result<(), CollectionError> {
    let columns = |delimiter| {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .from_reader(text.as_bytes());
        let headers = reader.headers().cloned().unwrap_or_default();
        let find = |name: &str| {
            let mut names = headers.iter();
            names.position(|it| it.trim().eq_ignore_ascii_case(name))
        };
        let found = ["id", "document", "query", "relevant"].map(find);
        (found[1].is_some() && found[2].is_some()).then_some((reader, found))
    };
    let Some((reader, columns)) = [b',', b';', b'\t'].into_iter().find_map(columns) else {
        let first = text.trim_start().lines().next().unwrap_or_default();
        return Err(CollectionError::Header {
            found: first.chars().take(SHOWN).collect(),
        });
    };
    for record in reader.into_records() {
        let record = record.map_err(|source| CollectionError::Csv { source })?;
        let line = record.position().map_or(0, csv::Position::line);
        let [id, document, query, relevant] = columns.map(|column| {
            let field = record.get(column?)?;
            (!field.trim().is_empty()).then(|| field.to_owned())
        });
        let ids = relevant.map(|ids| {
            let ids = ids.split_whitespace();
            Named::List(ids.map(|id| Id::Text(id.to_owned())).collect())
        });
        reading.take(
            line,
            Line {
                id: id.map(|id| Id::Text(id.trim().to_owned())),
                document,
                query,
                relevant: ids,
            },
        )?;
    }
    Ok(())
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    documents: Vec<Document>,
    queries: Vec<Query>,
    /// Places of documents and queries.
    by_id: HashMap<String, usize>,
    by_text: HashMap<String, usize>,
    by_query: HashMap<String, usize>,
    /// Queries and what they name, with the line: documents may follow later.
    named: Vec<(usize, u64, Named)>,
}

impl Reading {
    fn take(&mut self, line: u64, read: Line) -> Result<(), CollectionError> {
        let is_filled = |text: &String| !text.trim().is_empty();
        let query = read.query.filter(is_filled);
        let document = match read.document.filter(is_filled) {
            Some(text) => Some(self.document(line, read.id, text)?),
            None => None,
        };
        let Some(query) = query else {
            return match (document, read.relevant) {
                (_, Some(_)) => Err(CollectionError::NoQuery { line }),
                (None, None) => Err(CollectionError::Neither { line }),
                (Some(_), None) => Ok(()),
            };
        };
        let queries = &mut self.queries;
        let place = *self.by_query.entry(query).or_insert_with_key(|text| {
            queries.push(Query {
                text: text.clone(),
                line,
                relevant: Vec::new(),
            });
            queries.len() - 1
        });
        let own = document.map(|document| Relevant {
            document,
            grade: 1.0,
        });
        self.queries[place].relevant.extend(own);
        if let Some(named) = read.relevant {
            self.named.push((place, line, named));
        }
        Ok(())
    }

    /// The place of a document: that of its id, without one that of its text.
    fn document(
        &mut self,
        line: u64,
        id: Option<Id>,
        text: String,
    ) -> Result<usize, CollectionError> {
        let new = self.documents.len();
        let place = match id.map(Id::text) {
            None => *self.by_text.entry(text.clone()).or_insert(new),
            Some(id) => match self.by_id.entry(id) {
                Entry::Vacant(entry) => {
                    self.by_text.entry(text.clone()).or_insert(new);
                    *entry.insert(new)
                }
                Entry::Occupied(entry) if self.documents[*entry.get()].text == text => *entry.get(),
                Entry::Occupied(entry) => {
                    return Err(CollectionError::DuplicateId {
                        line,
                        first: self.documents[*entry.get()].line,
                        id: entry.key().clone(),
                    });
                }
            },
        };
        if place == new {
            self.documents.push(Document { text, line });
        }
        Ok(place)
    }

    fn finish(mut self) -> Result<Collection, CollectionError> {
        for (query, line, named) in self.named {
            for (id, grade) in named.grades() {
                let Some(&document) = self.by_id.get(&id) else {
                    return Err(CollectionError::UnknownId { line, id });
                };
                if !(grade >= 0.0 && grade.is_finite()) {
                    return Err(CollectionError::Grade { line, id, grade });
                }
                self.queries[query]
                    .relevant
                    .push(Relevant { document, grade });
            }
        }
        for query in &mut self.queries {
            query.keep_relevant();
            if query.relevant.is_empty() {
                return Err(CollectionError::NothingRelevant { line: query.line });
            }
        }
        if self.documents.len() < 2 || self.queries.is_empty() {
            return Err(CollectionError::TooFew {
                documents: self.documents.len(),
                queries: self.queries.len(),
            });
        }
        Ok(Collection {
            documents: self.documents,
            queries: self.queries,
        })
    }
}

impl CollectionError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Json { .. } => {
                "a line is an object such as {\"query\": \"…\", \"document\": \"…\"}"
            }
            Self::Header { .. } | Self::TooFew { .. } => {
                "the simplest collection is CSV whose first line is `query,document`, and a query with its \
                 document in each line"
            }
            Self::NothingRelevant { .. } => {
                "put its document into the same line, or name documents by their `id` in `relevant`"
            }
            Self::UnknownId { .. } => {
                "give the document a line with this `id`; several ids are a list in JSON, and stand with \
                 spaces between in CSV"
            }
            Self::Csv { .. }
            | Self::Neither { .. }
            | Self::NoQuery { .. }
            | Self::DuplicateId { .. }
            | Self::Grade { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query and the documents that it should find, with their grades.
    type Shown = (String, Vec<(usize, f64)>);

    fn shown(text: &str) -> (Vec<String>, Vec<Shown>) {
        let collection = Collection::read(text).unwrap();
        let documents = collection.documents.into_iter().map(|it| it.text);
        let queries = collection.queries.into_iter().map(|it| {
            let relevant = it.relevant.iter().map(|it| (it.document, it.grade));
            (it.text, relevant.collect())
        });
        (documents.collect(), queries.collect())
    }

    fn error(text: &str) -> String {
        Collection::read(text).unwrap_err().to_string()
    }

    #[test]
    fn pairs_are_a_collection() {
        let expected = (
            vec!["A, a".to_owned(), "B".to_owned()],
            vec![
                ("one".to_owned(), vec![(0, 1.0)]),
                ("two".to_owned(), vec![(0, 1.0), (1, 1.0)]),
            ],
        );
        for text in [
            "query,document\none,\"A, a\"\ntwo,\"A, a\"\ntwo,B\n",
            "\u{feff}Document; note; Query\r\nA, a;;one\r\nA, a;x;two\r\nB;;two\r\n",
            "query\tdocument\none\tA, a\ntwo\tA, a\ntwo\tB",
            "{\"query\":\"one\",\"document\":\"A, a\"}\n\n{\"query\":\"two\",\"document\":\"A, a\",\"note\":1}\n\
             {\"document\":\"B\",\"query\":\"two\"}",
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn documents_are_named_by_id_before_or_after() {
        let expected = (
            vec!["B".to_owned(), "A".to_owned(), "C".to_owned()],
            vec![("q".to_owned(), vec![(0, 1.0), (1, 3.0)])],
        );
        let json = r#"{"query": "q", "document": "B", "relevant": {"1": 3, "c": 0}}
            {"id": 1, "document": "A"}
            {"id": "c", "document": "C"}"#;
        assert_eq!(shown(json), expected);
        let (documents, queries) =
            shown("id,document,query,relevant\n,,q,c  1\n1,A,,\nc,C,,\nd,C,,\n1,A,,\n");
        // Of the same text under two ids, each is a document.
        assert_eq!(documents, ["A", "C", "C"]);
        assert_eq!(queries, [("q".to_owned(), vec![(0, 1.0), (1, 1.0)])]);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        let lines = |lines: &[&str]| error(&lines.join("\n"));
        assert_eq!(
            lines(&["query,document", "a,A", ",", "b,B"]),
            "line 3 has neither a `document` nor a `query`"
        );
        assert_eq!(
            lines(&[
                "{\"query\": \"a\", \"document\": \"A\"}",
                "",
                "{\"document\": \"A\",",
                "\"relevant\": 7}"
            ]),
            "line 3 has `relevant` and no `query`"
        );
        assert_eq!(
            lines(&["id,document,query,relevant", "1,A,,", "2,B,,", "1,C,,"]),
            "line 4 has the id `1` of another document, that of line 2"
        );
        assert_eq!(
            lines(&["id,document,query,relevant", "1,A,,", "2,B,,", ",,q,1 3"]),
            "line 4 names the document `3`, which is not in the collection"
        );
        assert_eq!(
            lines(&[
                "{\"id\": 1, \"document\": \"A\"}",
                "{\"query\": \"q\", \"relevant\": {\"1\": -1}}"
            ]),
            "line 2 grades the document `1` with -1, expected 0 or more"
        );
        assert_eq!(
            lines(&["query,document", "a,A", "b,"]),
            "the query in line 3 has no relevant document"
        );
        assert_eq!(
            lines(&["query,document", "a,A"]),
            "there are 1 documents and 1 queries, expected 2 and 1 at least"
        );
        assert_eq!(
            lines(&["text,label", "a,A"]),
            "the first line is \"text,label\", expected a JSON object or the names of columns, `document` \
             and `query` among them"
        );
        assert_eq!(
            error(" \n"),
            "there are 0 documents and 0 queries, expected 2 and 1 at least"
        );
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        let source = |text: &str| {
            let error = Collection::read(text).unwrap_err();
            std::error::Error::source(&error).unwrap().to_string()
        };
        let good = "{\"query\": \"a\", \"document\": \"A\"}\n";
        assert_eq!(
            source(&format!("{good}{good}{{\"query\": }}")),
            "expected value at line 3 column 11"
        );
        assert_eq!(
            source(&format!("{good}{{\"query\": \"b\", \"relevant\": 1.5}}")),
            "expected `relevant` to be an id, a list of ids, or an object of ids with grades at line 2 column 31"
        );
    }
}
