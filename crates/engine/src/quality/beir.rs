//! A test collection as BEIR lays one out in a folder (Thakur et al. 2021, `beir.datasets.data_loader`):
//!
//! ```text
//! corpus.jsonl     {"_id": "d1", "title": "Parcels", "text": "They take two days."}
//! queries.jsonl    {"_id": "q1", "text": "When does my parcel come?"}
//! qrels/test.tsv   a line of names, then query-id, corpus-id and score with tabs between: q1, d1, 1
//! ```
//!
//! As BEIR's evaluation does, a title stands before its text with a space between, and only queries are
//! asked that have a relevant document.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::Deserialize;

use super::collection::{Collection, Document, Id, Query, Relevant, each_object};

/// The texts of the three files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeirFiles<'a> {
    /// Documents.
    pub corpus: &'a str,
    /// Queries.
    pub queries: &'a str,
    /// Which documents are relevant to which query.
    pub qrels: &'a str,
    /// What errors call the latter, such as `qrels/test.tsv`.
    pub qrels_name: &'a str,
}

const CORPUS: &str = "corpus.jsonl";
const QUERIES: &str = "queries.jsonl";

impl BeirFiles<'_> {
    /// The name of the file with the documents.
    pub const CORPUS: &'static str = CORPUS;
    /// The name of the file with the queries.
    pub const QUERIES: &'static str = QUERIES;
}

/// A collection, and what of the files is not in it.
#[derive(Debug, Clone, PartialEq)]
pub struct BeirCollection {
    /// Lines of documents are those of the corpus, lines of queries those of the queries.
    pub collection: Collection,
    /// Documents with neither title nor text, which no query can find.
    pub empty_documents: usize,
}

/// Why three texts are no collection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeirError {
    /// Documents or queries cannot be read.
    #[error("`{file}` is not JSONL as expected")]
    Json {
        /// Its name.
        file: String,
        /// Says where.
        source: serde_json::Error,
    },
    /// Two of one id.
    #[error("line {line} of `{file}` has the id `{id}` again, that of line {first}")]
    DuplicateId {
        /// Its name.
        file: String,
        /// From 1.
        line: u64,
        /// Found twice.
        id: String,
        /// Where it stood first.
        first: u64,
    },
    /// A query that asks nothing.
    #[error("line {line} of `{QUERIES}` has no `text`")]
    EmptyQuery {
        /// From 1.
        line: u64,
    },
    /// A line of the relevances that is none.
    #[error(
        "line {line} of `{file}` is {found:?}, expected a query's id, a document's id and a score with tabs between"
    )]
    Columns {
        /// Its name.
        file: String,
        /// From 1.
        line: u64,
        /// The line, or its beginning.
        found: String,
    },
    /// A relevance of something that is not there.
    #[error("line {line} of `{file}` names `{id}`, which is not in `{missing_in}`")]
    UnknownId {
        /// Its name.
        file: String,
        /// From 1.
        line: u64,
        /// Found.
        id: String,
        /// Where it should be.
        missing_in: &'static str,
    },
    /// Too little to measure.
    #[error(
        "there are {documents} documents and {queries} queries with a relevant one, expected 2 and 1 at least"
    )]
    TooFew {
        /// Found.
        documents: usize,
        /// Found.
        queries: usize,
    },
}

/// A line of documents or queries. Others than these fields are ignored.
#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "_id")]
    id: Id,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    text: Option<String>,
}

/// The place of what an id names, and its line; none where it has no text.
type Places = HashMap<String, (Option<usize>, u64)>;

impl BeirCollection {
    /// Reads the three files.
    ///
    /// # Errors
    /// [`BeirError`] that names the file and the line.
    pub fn read(files: &BeirFiles<'_>) -> Result<Self, BeirError> {
        let mut documents = Vec::new();
        let mut document_places = Places::new();
        each_record(CORPUS, files.corpus, |line, record| {
            let (title, text) = (
                record.title.unwrap_or_default(),
                record.text.unwrap_or_default(),
            );
            let text = format!("{title} {text}").trim().to_owned();
            let place = (!text.is_empty()).then_some(documents.len());
            note(CORPUS, &mut document_places, record.id, place, line)?;
            if place.is_some() {
                documents.push(Document { text, line });
            }
            Ok(())
        })?;
        let mut queries = Vec::new();
        let mut query_places = Places::new();
        each_record(QUERIES, files.queries, |line, record| {
            let text = record.text.unwrap_or_default().trim().to_owned();
            if text.is_empty() {
                return Err(BeirError::EmptyQuery { line });
            }
            let place = Some(queries.len());
            note(QUERIES, &mut query_places, record.id, place, line)?;
            let relevant = Vec::new();
            queries.push(Query {
                text,
                line,
                relevant,
            });
            Ok(())
        })?;
        for judgement in judgements(files) {
            let Judgement {
                line,
                query,
                document,
                grade,
            } = judgement?;
            let unknown = |id: &str, missing_in| BeirError::UnknownId {
                file: files.qrels_name.to_owned(),
                line,
                id: id.to_owned(),
                missing_in,
            };
            let &(query_place, _) = query_places
                .get(query)
                .ok_or_else(|| unknown(query, QUERIES))?;
            let &(document_place, _) = document_places
                .get(document)
                .ok_or_else(|| unknown(document, CORPUS))?;
            if let (Some(query), Some(document)) = (query_place, document_place) {
                queries[query].relevant.push(Relevant { document, grade });
            }
        }
        let empty_documents = document_places.len() - documents.len();
        for query in &mut queries {
            query.keep_relevant();
        }
        queries.retain(|query| !query.relevant.is_empty());
        if documents.len() < 2 || queries.is_empty() {
            return Err(BeirError::TooFew {
                documents: documents.len(),
                queries: queries.len(),
            });
        }
        Ok(Self {
            collection: Collection { documents, queries },
            empty_documents,
        })
    }
}

fn each_record(
    file: &str,
    text: &str,
    mut take: impl FnMut(u64, Record) -> Result<(), BeirError>,
) -> Result<(), BeirError> {
    each_object(text, |line, record| match record {
        Ok(record) => take(line, record),
        Err(source) => Err(BeirError::Json {
            file: file.to_owned(),
            source,
        }),
    })
}

fn note(
    file: &str,
    places: &mut Places,
    id: Id,
    place: Option<usize>,
    line: u64,
) -> Result<(), BeirError> {
    match places.entry(id.text()) {
        Entry::Vacant(entry) => {
            entry.insert((place, line));
            Ok(())
        }
        Entry::Occupied(entry) => Err(BeirError::DuplicateId {
            file: file.to_owned(),
            line,
            id: entry.key().clone(),
            first: entry.get().1,
        }),
    }
}

/// A line of the relevances.
struct Judgement<'a> {
    line: u64,
    query: &'a str,
    document: &'a str,
    grade: f64,
}

/// Of a line that is shown where it tells nothing.
const SHOWN: usize = 60;

/// Lines of the relevances. The first one holds the names of the columns, where its score is no number.
fn judgements<'a>(
    files: &BeirFiles<'a>,
) -> impl Iterator<Item = Result<Judgement<'a>, BeirError>> + use<'a> {
    let name = files.qrels_name;
    let lines = (1..).zip(files.qrels.trim_start_matches('\u{feff}').lines());
    let filled = lines.filter(|(_, text)| !text.trim().is_empty());
    filled.filter_map(move |(line, text)| {
        let columns: Vec<&str> = text.split('\t').map(str::trim).collect();
        if let [query, document, score] = columns[..] {
            match score.parse::<f64>() {
                Ok(grade) if grade.is_finite() => {
                    return Some(Ok(Judgement {
                        line,
                        query,
                        document,
                        grade,
                    }));
                }
                Err(_) if line == 1 => return None,
                Ok(_) | Err(_) => {}
            }
        }
        Some(Err(BeirError::Columns {
            file: name.to_owned(),
            line,
            found: text.chars().take(SHOWN).collect(),
        }))
    })
}

impl BeirError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Json { .. } => Some(
                "a line of documents or queries is an object such as {\"_id\": \"d1\", \"text\": \"…\"}",
            ),
            Self::TooFew { .. } => Some(
                "a line of the relevances has a query's id, a document's id and a score above 0, with tabs \
                 between",
            ),
            Self::UnknownId { .. }
            | Self::DuplicateId { .. }
            | Self::EmptyQuery { .. }
            | Self::Columns { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORPUS_LINES: &str = r#"{"_id": "d1", "title": "Parcels", "text": "They take two days.", "metadata": {}}
{"_id": "d2", "title": "", "text": "Abroad they take a week."}

{"_id": "d3", "title": " ", "text": ""}
{"_id": 4, "text": "Storks fly."}
"#;
    const QUERY_LINES: &str = r#"{"_id": "q1", "text": "When does it come?", "metadata": {}}
{"_id": "q2", "text": "sending it to Spain"}
{"_id": "q3", "text": "not judged"}
"#;
    const QRELS: &str =
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t2\nq2\td2\t1\nq2\td1\t0\nq3\td3\t1\n";

    fn read(corpus: &str, queries: &str, qrels: &str) -> Result<BeirCollection, BeirError> {
        BeirCollection::read(&BeirFiles {
            corpus,
            queries,
            qrels,
            qrels_name: "qrels/test.tsv",
        })
    }

    fn error(corpus: &str, queries: &str, qrels: &str) -> String {
        let error = read(corpus, queries, qrels).unwrap_err();
        let source = std::error::Error::source(&error);
        source.map_or(error.to_string(), |source| format!("{error}: {source}"))
    }

    #[test]
    fn titles_stand_before_texts_and_only_judged_queries_are_asked() {
        let found = read(CORPUS_LINES, QUERY_LINES, QRELS).unwrap();
        assert_eq!(found.empty_documents, 1);
        let documents: Vec<_> = found.collection.documents.iter().collect();
        let texts: Vec<_> = documents
            .iter()
            .map(|it| (it.text.as_str(), it.line))
            .collect();
        assert_eq!(
            texts,
            [
                ("Parcels They take two days.", 1),
                ("Abroad they take a week.", 2),
                ("Storks fly.", 5),
            ]
        );
        let queries = found.collection.queries.iter();
        let shown: Vec<_> = queries
            .map(|it| {
                let relevant = it.relevant.iter().map(|it| (it.document, it.grade));
                (it.text.as_str(), it.line, relevant.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("When does it come?", 1, vec![(0, 1.0), (1, 2.0)]),
                ("sending it to Spain", 2, vec![(1, 1.0)]),
            ]
        );
        // Without the line of names the first line counts.
        let (_, lines) = QRELS.split_once('\n').unwrap();
        assert_eq!(read(CORPUS_LINES, QUERY_LINES, lines).unwrap(), found);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_file_and_line() {
        let qrels = |line: &str| error(CORPUS_LINES, QUERY_LINES, &format!("{QRELS}{line}\n"));
        assert_eq!(
            qrels("q9\td1\t1"),
            "line 7 of `qrels/test.tsv` names `q9`, which is not in `queries.jsonl`"
        );
        assert_eq!(
            qrels("q1\td9\t1"),
            "line 7 of `qrels/test.tsv` names `d9`, which is not in `corpus.jsonl`"
        );
        for wrong in ["q1 d1 1", "q1\td1", "q1\td1\tmuch", "q1\t0\td1\t1"] {
            assert_eq!(
                qrels(wrong),
                format!(
                    "line 7 of `qrels/test.tsv` is {wrong:?}, expected a query's id, a document's id and a score \
                     with tabs between"
                )
            );
        }
        assert_eq!(
            error(
                &format!("{CORPUS_LINES}{{\"text\": \"x\"}}"),
                QUERY_LINES,
                QRELS
            ),
            "`corpus.jsonl` is not JSONL as expected: missing field `_id` at line 6 column 13"
        );
        assert_eq!(
            error(
                CORPUS_LINES,
                "{\"_id\": \"q1\", \"text\": \"a\"}\n\nno",
                QRELS
            ),
            "`queries.jsonl` is not JSONL as expected: expected ident at line 3 column 2"
        );
        let again = format!("{CORPUS_LINES}{{\"_id\": \"d2\", \"text\": \"x\"}}\n");
        assert_eq!(
            error(&again, QUERY_LINES, QRELS),
            "line 6 of `corpus.jsonl` has the id `d2` again, that of line 2"
        );
        let empty = format!("{QUERY_LINES}{{\"_id\": \"q4\", \"text\": \" \"}}\n");
        assert_eq!(
            error(CORPUS_LINES, &empty, QRELS),
            "line 4 of `queries.jsonl` has no `text`"
        );
        assert_eq!(
            error(CORPUS_LINES, QUERY_LINES, "q1\td1\t0\n"),
            "there are 3 documents and 0 queries with a relevant one, expected 2 and 1 at least"
        );
        assert!(error("", "", "").starts_with("there are 0 documents"));
    }
}
