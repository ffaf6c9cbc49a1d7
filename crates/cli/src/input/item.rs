//! What a line says: a text, token ids, or a document with its chunks.

use std::ops::Range;

use quintet_engine::{Content, Embedder, Input, Task};
use serde::Deserialize;

use super::{InputError, InputFormat, Place, RawInput};

/// One input to embed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) place: Place,
    pub(crate) content: ItemContent,
    /// The task that the input itself names.
    pub(crate) task: Option<String>,
}

/// What is embedded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ItemContent {
    Text(String),
    TokenIds(Vec<u32>),
}

impl ItemContent {
    /// Bytes in memory, about.
    pub(crate) fn len_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::TokenIds(token_ids) => token_ids.len() * size_of::<u32>(),
        }
    }
}

/// One line of input for late chunking.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DocumentItem {
    /// A plain text: a chunk of the one document that all lines make.
    Chunk(String),
    /// An object: a document of its own.
    Document {
        chunks: Chunks,
        task: Option<String>,
    },
}

/// How a document names its chunks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunks {
    Strings(Vec<String>),
    Characters {
        text: String,
        spans: Vec<Range<usize>>,
    },
    Tokens {
        text: String,
        spans: Vec<Range<usize>>,
    },
}

const ITEM: &str = "`{\"text\": \"…\"}` or `{\"token_ids\": [0, …, 2]}`";
const DOCUMENT: &str = "`{\"chunks\": [\"…\", …]}`, `{\"text\": \"…\", \"characters\": [[0, 9], …]}` or \
                        `{\"text\": \"…\", \"tokens\": [[0, 3], …]}`";

/// Other fields of the object are the user's own and left alone.
#[derive(Deserialize)]
struct ItemFields {
    text: Option<String>,
    token_ids: Option<Vec<u32>>,
    task: Option<String>,
}

#[derive(Deserialize)]
struct DocumentFields {
    chunks: Option<Vec<String>>,
    text: Option<String>,
    characters: Option<Vec<[usize; 2]>>,
    tokens: Option<Vec<[usize; 2]>>,
    task: Option<String>,
}

impl Item {
    /// Reads one input.
    ///
    /// # Errors
    /// [`InputError::NotObject`] or [`InputError::Fields`].
    pub(crate) fn read(input: RawInput) -> Result<Self, InputError> {
        if !input.is_object(ITEM)? {
            let content = ItemContent::Text(input.text);
            return Ok(Self {
                place: input.place,
                content,
                task: None,
            });
        }
        let fields: ItemFields = input.object(ITEM)?;
        let found = match (fields.text, fields.token_ids) {
            (Some(text), None) => Ok(ItemContent::Text(text)),
            (None, Some(token_ids)) => Ok(ItemContent::TokenIds(token_ids)),
            (Some(_), Some(_)) => Err("both `text` and `token_ids`"),
            (None, None) => Err("neither `text` nor `token_ids`"),
        };
        match found {
            Ok(content) => Ok(Self {
                place: input.place,
                content,
                task: fields.task,
            }),
            Err(found) => Err(InputError::Fields {
                place: input.place,
                found,
                expected: ITEM,
            }),
        }
    }

    /// The input as the engine takes it, with its own task or `default_task`.
    ///
    /// # Errors
    /// [`InputError::Task`] for a task that the model does not have.
    pub(crate) fn to_input(
        &self,
        embedder: &Embedder,
        default_task: Task,
    ) -> Result<Input<'_>, InputError> {
        let content = match &self.content {
            ItemContent::Text(text) => Content::Text(text),
            ItemContent::TokenIds(token_ids) => Content::TokenIds(token_ids),
        };
        let task = find_task(embedder, self.task.as_deref(), default_task, &self.place)?;
        Ok(Input { content, task })
    }
}

/// The task that an input names, or `default_task`.
///
/// # Errors
/// [`InputError::Task`] for a task that the model does not have.
pub(crate) fn find_task(
    embedder: &Embedder,
    name: Option<&str>,
    default_task: Task,
    place: &Place,
) -> Result<Task, InputError> {
    let Some(name) = name else {
        return Ok(default_task);
    };
    embedder.task(name).map_err(|source| InputError::Task {
        place: place.clone(),
        source,
    })
}

impl DocumentItem {
    /// Reads one input of late chunking.
    ///
    /// # Errors
    /// [`InputError::NotObject`] or [`InputError::Fields`].
    pub(crate) fn read(input: RawInput) -> Result<(Place, Self), InputError> {
        if !input.is_object(DOCUMENT)? {
            return Ok((input.place, Self::Chunk(input.text)));
        }
        let fields: DocumentFields = input.object(DOCUMENT)?;
        let ranges =
            |spans: Vec<[usize; 2]>| spans.into_iter().map(|[start, end]| start..end).collect();
        let found = match (fields.chunks, fields.text, fields.characters, fields.tokens) {
            (Some(chunks), None, None, None) => Ok(Chunks::Strings(chunks)),
            (None, Some(text), Some(spans), None) => Ok(Chunks::Characters {
                text,
                spans: ranges(spans),
            }),
            (None, Some(text), None, Some(spans)) => Ok(Chunks::Tokens {
                text,
                spans: ranges(spans),
            }),
            (None, Some(_), None, None) => Err("a `text` without chunks"),
            (None, None, ..) => Err("neither `chunks` nor `text`"),
            _ => Err("chunks named in more than one way"),
        };
        match found {
            Ok(chunks) => Ok((
                input.place,
                Self::Document {
                    chunks,
                    task: fields.task,
                },
            )),
            Err(found) => Err(InputError::Fields {
                place: input.place,
                found,
                expected: DOCUMENT,
            }),
        }
    }
}

impl RawInput {
    /// Whether the input is to be read as an object.
    fn is_object(&self, expected: &'static str) -> Result<bool, InputError> {
        let begins_like_one = self.text.trim_start().starts_with('{');
        match self.format {
            InputFormat::Text => Ok(false),
            InputFormat::Auto => Ok(begins_like_one),
            InputFormat::Jsonl if begins_like_one => Ok(true),
            InputFormat::Jsonl => Err(InputError::NotObject {
                place: self.place.clone(),
                expected,
                source: None,
            }),
        }
    }

    fn object<'a, T: Deserialize<'a>>(&'a self, expected: &'static str) -> Result<T, InputError> {
        serde_json::from_str(&self.text).map_err(|source| InputError::NotObject {
            place: self.place.clone(),
            expected,
            source: Some(source.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str, format: InputFormat) -> RawInput {
        RawInput {
            place: Place::Argument(1),
            text: text.to_owned(),
            format,
        }
    }

    fn item(text: &str) -> Result<(ItemContent, Option<String>), InputError> {
        Item::read(raw(text, InputFormat::Auto)).map(|item| (item.content, item.task))
    }

    #[test]
    fn a_line_is_a_text_or_an_object() {
        let text = |text: &str| ItemContent::Text(text.to_owned());
        assert_eq!(item("plain").unwrap(), (text("plain"), None));
        assert_eq!(item("").unwrap(), (text(""), None));
        assert_eq!(
            item(r#" {"text": "a", "id": 7}"#).unwrap(),
            (text("a"), None)
        );
        let ids = ItemContent::TokenIds(vec![0, 2]);
        let line = r#"{"token_ids": [0, 2], "task": "separation"}"#;
        assert_eq!(item(line).unwrap(), (ids, Some("separation".to_owned())));
        assert_eq!(
            item(r#"{"text": "a", "task": null}"#).unwrap(),
            (text("a"), None)
        );
        assert_eq!(
            Item::read(raw("{braces}", InputFormat::Text))
                .unwrap()
                .content,
            text("{braces}")
        );
    }

    #[test]
    fn an_object_without_one_input_is_refused() {
        for (line, expected) in [
            ("{braces}", "text 1 is no JSON object that holds an input"),
            (
                r#"{"text": 7}"#,
                "text 1 is no JSON object that holds an input",
            ),
            (
                r#"{"token_ids": [-1]}"#,
                "text 1 is no JSON object that holds an input",
            ),
            (
                r#"{"text": "a"} b"#,
                "text 1 is no JSON object that holds an input",
            ),
            (
                r#"{"content": "a"}"#,
                "text 1 has neither `text` nor `token_ids`, expected",
            ),
            (
                r#"{"text": "a", "token_ids": []}"#,
                "text 1 has both `text` and `token_ids`",
            ),
        ] {
            let error = item(line).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{line}: {error}");
            let is_fields = matches!(error, InputError::Fields { .. });
            assert_eq!(error.hint().is_none(), is_fields, "{line}");
        }
        for line in ["", "plain", "[1]", "\"text\""] {
            assert!(Item::read(raw(line, InputFormat::Jsonl)).is_err(), "{line}");
        }
    }

    #[test]
    fn a_document_names_its_chunks_in_one_way() {
        let read =
            |line: &str| DocumentItem::read(raw(line, InputFormat::Auto)).map(|(_, item)| item);
        let chunks = |line: &str| match read(line).unwrap() {
            DocumentItem::Document { chunks, .. } => chunks,
            DocumentItem::Chunk(text) => panic!("{text}"),
        };
        assert_eq!(
            chunks(r#"{"chunks": ["a"]}"#),
            Chunks::Strings(vec!["a".to_owned()])
        );
        assert_eq!(
            chunks(r#"{"text": "ab", "characters": [[0, 1], [1, 2]]}"#),
            Chunks::Characters {
                text: "ab".to_owned(),
                spans: vec![0..1, 1..2]
            }
        );
        let found = Chunks::Tokens {
            text: "ab".to_owned(),
            spans: std::iter::once(0..1).collect(),
        };
        assert_eq!(chunks(r#"{"text": "ab", "tokens": [[0, 1]]}"#), found);
        for line in [
            r#"{"text": "a"}"#,
            r#"{"task": "a"}"#,
            r#"{"text": "a", "characters": [], "tokens": []}"#,
            r#"{"text": "a", "chunks": ["a"]}"#,
            r#"{"text": "a", "characters": [[1]]}"#,
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parsers_panic(line in "\\PC*|\\{\\PC*\\}|\\{\"text\": ?\\PC{0,9}\\}") {
            for format in [InputFormat::Auto, InputFormat::Text, InputFormat::Jsonl] {
                let _ = Item::read(raw(&line, format));
                let _ = DocumentItem::read(raw(&line, format));
            }
        }
    }
}
