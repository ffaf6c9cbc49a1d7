//! Late chunking on the command line: lines as chunks of one document, or documents one by one.

use quintet_engine::late_chunking::{
    DEFAULT_WINDOW_OVERLAP, Document, LateTokenizeError, LongDocument, SpanError,
};
use quintet_engine::{EmbedError, EmbeddedDocument, Task};
use serde::Serialize;

use super::{Run, TruncateArg};
use crate::failure::UserError;
use crate::input::{Chunks, DocumentItem, InputError, Inputs, Place, find_task};
use crate::rows::{Row, RowFormat, RowWriter, Vector};

/// Longest document that plain lines may make together; it is held in memory.
const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// One chunk of the one document.
#[derive(Serialize)]
struct ChunkRow {
    index: usize,
    /// Tokens of the whole document, the same on every line: the pass is shared, its cost too.
    document_tokens: usize,
    windows: usize,
    truncated: bool,
    embedding: Option<Vector>,
}

impl Row for ChunkRow {
    fn vector(&self) -> Option<&Vector> {
        self.embedding.as_ref()
    }
}

/// One document of several.
#[derive(Serialize)]
struct DocumentRow {
    index: u64,
    tokens: usize,
    truncated: bool,
    windows: usize,
    embedding: Vector,
    chunks: Vec<Option<ChunkVector>>,
}

#[derive(Serialize)]
struct ChunkVector {
    embedding: Vector,
}

impl Row for DocumentRow {
    fn vector(&self) -> Option<&Vector> {
        Some(&self.embedding)
    }
}

impl Run<'_> {
    /// Takes all lines as chunks, or line by line as documents: the first line decides.
    pub(super) fn embed_documents(
        &self,
        inputs: &mut Inputs,
        rows: &mut RowWriter,
    ) -> anyhow::Result<()> {
        let mut next = || {
            inputs
                .next()
                .and_then(|raw| raw.map(DocumentItem::read).transpose())
        };
        match next()? {
            None => Ok(()),
            Some((place, DocumentItem::Chunk(text))) => {
                let mut chunks = OneDocument::default();
                chunks.push(place, text)?;
                while let Some((place, item)) = next()? {
                    match item {
                        DocumentItem::Chunk(text) => chunks.push(place, text)?,
                        DocumentItem::Document { .. } => {
                            let (found, before) = ("a JSON object", "chunks in plain text");
                            return Err(InputError::Mixed {
                                place,
                                found,
                                before,
                            }
                            .into());
                        }
                    }
                }
                self.embed_chunks(&chunks, rows)
            }
            Some(first) => {
                if self.args.format == RowFormat::Npy {
                    return Err(no_matrix_of_documents().into());
                }
                let mut item = Some(first);
                for index in 0.. {
                    let Some((place, document)) = item else { break };
                    let DocumentItem::Document { chunks, task } = document else {
                        let (found, before) = ("plain text", "JSON documents");
                        return Err(InputError::Mixed {
                            place,
                            found,
                            before,
                        }
                        .into());
                    };
                    let row = self.embed_one(index, &place, &chunks, task.as_deref())?;
                    rows.write(&row)?;
                    rows.flush()?;
                    self.bar.set_message(format!("{} documents", index + 1));
                    item = next()?;
                }
                Ok(())
            }
        }
    }

    fn embed_chunks(&self, document: &OneDocument, rows: &mut RowWriter) -> anyhow::Result<()> {
        let strings: Vec<&str> = document
            .chunks
            .iter()
            .map(|(_, text)| text.as_str())
            .collect();
        let refused = |error| {
            let place = empty_chunk(&error).and_then(|index| document.chunks.get(index));
            match (place, &error) {
                (Some((place, _)), _) => InputError::EmptyChunk {
                    place: place.clone(),
                }
                .into(),
                (None, EmbedError::TooLong { tokens, max, .. }) => too_long(*tokens, *max).into(),
                (None, _) => anyhow::Error::from(error),
            }
        };
        let embedded = self
            .embed(Document::Strings(&strings), self.task)
            .map_err(refused)?;
        for (index, chunk) in embedded.chunks.iter().enumerate() {
            rows.write(&ChunkRow {
                index,
                document_tokens: embedded.tokens,
                windows: embedded.windows,
                truncated: embedded.truncated,
                embedding: chunk.as_deref().map(|chunk| self.vector(chunk)),
            })?;
        }
        Ok(())
    }

    fn embed_one(
        &self,
        index: u64,
        place: &Place,
        chunks: &Chunks,
        task: Option<&str>,
    ) -> Result<DocumentRow, InputError> {
        let task = find_task(self.embedder, task, self.task, place)?;
        let strings: Vec<&str> = match chunks {
            Chunks::Strings(strings) => strings.iter().map(String::as_str).collect(),
            Chunks::Characters { .. } | Chunks::Tokens { .. } => Vec::new(),
        };
        let document = match chunks {
            Chunks::Strings(_) => Document::Strings(&strings),
            Chunks::Characters { text, spans } => Document::Characters { text, spans },
            Chunks::Tokens { text, spans } => Document::Tokens { text, spans },
        };
        let embedded = self
            .embed(document, task)
            .map_err(|error| InputError::Embed {
                place: place.clone(),
                error,
            })?;
        let chunk = |chunk: &Option<Vec<f32>>| {
            chunk.as_deref().map(|chunk| ChunkVector {
                embedding: self.vector(chunk),
            })
        };
        Ok(DocumentRow {
            index,
            tokens: embedded.tokens,
            truncated: embedded.truncated,
            windows: embedded.windows,
            embedding: self.vector(&embedded.embedding),
            chunks: embedded.chunks.iter().map(chunk).collect(),
        })
    }

    fn embed(&self, document: Document<'_>, task: Task) -> Result<EmbeddedDocument, EmbedError> {
        let max = self.embedder.config().max_tokens;
        let long = match self.args.truncate {
            Some(TruncateArg::End) => LongDocument::Cut,
            Some(TruncateArg::Error) => LongDocument::Refuse,
            None => LongDocument::Windows {
                // The usual overlap may be too much for a small model's context.
                overlap: (self.args.window_overlap).unwrap_or(DEFAULT_WINDOW_OVERLAP.min(max / 2)),
            },
        };
        let pooling = self.args.chunk_pooling.into();
        self.embedder
            .embed_document(document, task, pooling, long, self.options)
    }

    fn vector(&self, embedding: &[f32]) -> Vector {
        Vector::new(embedding, self.args.embedding_type)
    }
}

/// Plain lines, collected.
#[derive(Default)]
struct OneDocument {
    chunks: Vec<(Place, String)>,
    bytes: usize,
}

impl OneDocument {
    fn push(&mut self, place: Place, text: String) -> Result<(), InputError> {
        self.bytes += text.len();
        if self.bytes > MAX_DOCUMENT_BYTES {
            return Err(InputError::DocumentTooLong {
                place,
                max_bytes: MAX_DOCUMENT_BYTES,
            });
        }
        self.chunks.push((place, text));
        Ok(())
    }
}

/// The chunk that holds no token, when that is the error.
fn empty_chunk(error: &EmbedError) -> Option<usize> {
    if let EmbedError::Document(LateTokenizeError::Span(SpanError::Empty { index })) = error {
        Some(*index)
    } else {
        None
    }
}

fn too_long(tokens: usize, max: usize) -> UserError {
    UserError::new(format!(
        "the document has {tokens} tokens, expected at most {max}"
    ))
    .hint("leave `--truncate error` out to read it in windows")
}

fn no_matrix_of_documents() -> UserError {
    UserError::new("--format npy holds the chunks of one document, the input has JSON documents")
        .hint("take `--format jsonl`")
}
