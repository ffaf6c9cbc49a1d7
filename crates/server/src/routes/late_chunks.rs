//! Late chunking: one pass over a document, a row per chunk.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quintet_engine::late_chunking::{
    ChunkPooling, Document, DocumentTokens, LateTokenizeError, LongDocument, SpanError, Windows,
};
use quintet_engine::{EmbedError, Task};

use super::rows::{Field, Handling, Row, Rows, refused, refused_text};
use crate::app::Service;
use crate::batcher::{Overlong, StepTimes};
use crate::budget::Reservation;
use crate::error::ApiError;
use crate::wire::embeddings::SpanUnit;

/// Chunks may repeat the longest document so many times: the sums that they need are made by the one
/// thread that all requests share.
const MAX_OVERLAP: usize = 16;

/// A document and where its chunks are.
#[derive(Debug)]
pub(crate) enum Chunks {
    /// Jina's form: the inputs follow each other in one document.
    Inputs(Vec<String>),
    /// Ranges of one text.
    Spans {
        text: String,
        spans: Vec<Range<usize>>,
        unit: SpanUnit,
    },
}

impl Chunks {
    /// Spans of the one text.
    ///
    /// # Errors
    /// [`ApiError`] for several texts.
    pub(crate) fn spans(
        mut texts: Vec<String>,
        spans: Vec<(usize, usize)>,
        unit: SpanUnit,
    ) -> Result<Self, ApiError> {
        let count = texts.len();
        match texts.pop() {
            Some(text) if texts.is_empty() => Ok(Self::Spans {
                text,
                spans: spans.into_iter().map(|(start, end)| start..end).collect(),
                unit,
            }),
            _ => Err(ApiError::invalid_param(
                "spans",
                format!("`spans` are ranges of one text, but `input` has {count} elements"),
            )),
        }
    }

    /// What chunks are called in errors.
    fn field(&self) -> &'static str {
        match self {
            Self::Inputs(_) => "input",
            Self::Spans { .. } => "spans",
        }
    }
}

/// A document that was tokenised and has its room in the queue.
#[derive(Debug)]
pub(crate) struct Chunked {
    document: DocumentTokens,
    windows: Windows,
    task: Task,
    reservation: Reservation,
    tokenize: Duration,
}

/// Tokenises a document and finds its chunks.
///
/// # Errors
/// [`ApiError`] for chunks that do not fit the document, and for a document that is too long.
pub(crate) async fn prepare(
    chunks: Chunks,
    task: Task,
    handling: &Handling,
    service: &Service,
) -> Result<Chunked, ApiError> {
    let started = Instant::now();
    let field = chunks.field();
    let long = match handling.overlong {
        Overlong::Refuse => LongDocument::Refuse,
        Overlong::CutEnd => LongDocument::Cut,
        Overlong::CutStart => {
            return Err(ApiError::invalid_param(
                "truncate",
                "A document of chunks is cut at its end, expected `truncate` `NONE` or `END`",
            ));
        }
    };
    let embedder = Arc::clone(&service.model.embedder);
    let prepare = move || {
        let strings: Vec<&str>;
        let document = match &chunks {
            Chunks::Inputs(texts) => {
                strings = texts.iter().map(String::as_str).collect();
                Document::Strings(&strings)
            }
            Chunks::Spans { text, spans, unit } => match unit {
                SpanUnit::Characters => Document::Characters { text, spans },
                SpanUnit::Tokens => Document::Tokens { text, spans },
            },
        };
        embedder
            .prepare_document(document, task, ChunkPooling::default(), long)
            .map_err(|error| refused_document(field, &error))
    };
    let (document, windows) = service.batcher.blocking(prepare).await??;
    let len = document.token_ids.len();
    let mut reservation = service.batcher.reservation();
    service
        .batcher
        .reserve(&mut reservation, len)
        .map_err(|error| refused(error, &[Field::One("input")]))?;
    if let Some(index) = document.spans.iter().position(Option::is_none) {
        let name = format!("{field}[{index}]");
        let message = format!(
            "`{name}` lies behind the cut of its document, expected at most {len} tokens in all"
        );
        return Err(ApiError::invalid_param(name, message));
    }
    let pooled: usize = document.spans.iter().flatten().map(Range::len).sum();
    let max_pooled = MAX_OVERLAP * service.model.embedder.config().max_tokens;
    if pooled > max_pooled {
        return Err(ApiError::invalid_param(
            field,
            format!(
                "The chunks have {pooled} tokens in all, expected at most {max_pooled}; let fewer of them overlap"
            ),
        ));
    }
    Ok(Chunked {
        document,
        windows,
        task,
        reservation,
        tokenize: started.elapsed(),
    })
}

impl Chunked {
    /// What is metered.
    pub(crate) fn tokens(&self) -> usize {
        self.document.token_ids.len()
    }

    /// Embeds the document and gives its chunks' rows.
    ///
    /// # Errors
    /// [`ApiError`] for work that is not let in, and for a model that failed.
    pub(crate) async fn embed(
        self,
        handling: &Handling,
        service: &Service,
    ) -> Result<Rows, ApiError> {
        let len = self.tokens();
        let cost = handling.admit(&service.model, [(self.task, len)]).await?;
        let sequences = self.windows.sequences.clone();
        let forwarded = service.batcher.forward(
            sequences,
            self.reservation,
            handling.caller.tenant(),
            handling.tier,
        );
        let forwarded = forwarded.await?;
        let document = &self.document;
        let embedder = &service.model.embedder;
        let sums = embedder.document_sums(document, &self.windows, &forwarded.pooled);
        let vectors = document.spans.iter().flatten().zip(sums.chunks);
        let rows = vectors.map(|(span, sum)| Row {
            sum,
            tokens: span.len(),
            // The cut ends chunks before the `</s>` that it keeps.
            truncated: document.truncated && span.end + 1 == len,
            cut_at: None,
        });
        Ok(Rows {
            rows: rows.collect(),
            tokens: len,
            times: StepTimes {
                tokenize: self.tokenize,
                queue: forwarded.queue_time,
                forward: forwarded.forward_time,
            },
            cost,
        })
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only some errors are one chunk's"
)]
fn refused_document(field: &str, error: &EmbedError) -> ApiError {
    let EmbedError::Document(LateTokenizeError::Span(span)) = error else {
        return refused_text("input", error);
    };
    let message = error.to_string();
    match span {
        SpanError::Empty { index } | SpanError::OutOfRange { index, .. } => {
            ApiError::invalid_param(format!("{field}[{index}]"), message)
        }
        _ => ApiError::invalid_param(field, message),
    }
}
