//! Late chunking: one pass over a whole document, then one vector per chunk (Günther et al. 2024).
//!
//! Spans, pooling, clipping and overlapping windows are those of jina-ai/late-chunking
//! (`chunked_eval.py`, `JinaEmbeddingsV3Wrapper`), spec section 7.

use std::ops::Range;

use crate::batch::Sequence;
use crate::task::Task;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// A document and how it is cut into chunks.
#[derive(Debug, Clone, Copy)]
pub enum Document<'a> {
    /// Strings that follow each other, one chunk each. Their ids are joined, which equals joining the
    /// strings with single spaces.
    Strings(&'a [&'a str]),
    /// One text; a chunk is a half-open range of its characters (Unicode scalar values). A token
    /// belongs to every chunk that it overlaps.
    Characters {
        /// The text.
        text: &'a str,
        /// The chunks.
        spans: &'a [Range<usize>],
    },
    /// One text; a chunk is a half-open range of its tokens, specials and instruction not counted.
    Tokens {
        /// The text.
        text: &'a str,
        /// The chunks.
        spans: &'a [Range<usize>],
    },
}

/// Which rows beside its own tokens a chunk's mean takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChunkPooling {
    /// As the late-chunking repository: a chunk at the start of the text takes `<s>` and the
    /// instruction, one at its end takes `</s>`.
    #[default]
    WithSpecials,
    /// Tokens of the text alone.
    TextOnly,
}

/// What happens to a document that is longer than the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongDocument {
    /// Windows of the full context, each repeating this many tokens of the one before; the repeated
    /// rows give context and are not pooled twice.
    Windows {
        /// Repeated tokens; smaller than the context.
        overlap: usize,
    },
    /// The tail is cut off. Chunks that begin behind the cut get no vector.
    Cut,
    /// It is refused.
    Refuse,
}

/// Tokens that windows repeat unless asked otherwise: as the late-chunking repository's long evaluation.
pub const DEFAULT_WINDOW_OVERLAP: usize = 256;

impl Default for LongDocument {
    fn default() -> Self {
        Self::Windows {
            overlap: DEFAULT_WINDOW_OVERLAP,
        }
    }
}

/// What is wrong with a document's spans.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "the fields are the facts that the message names"
)]
pub enum SpanError {
    /// The span is reversed or reaches beyond the text.
    #[error("chunk {index} spans {start}..{end}, expected a range within 0..{len} {unit}")]
    OutOfRange {
        index: usize,
        start: usize,
        end: usize,
        len: usize,
        unit: &'static str,
    },
    /// The chunk holds no token, so it has no mean.
    #[error("chunk {index} holds no token, expected at least one")]
    Empty { index: usize },
    /// No chunk was given.
    #[error("the document has no chunks, expected at least one")]
    NoChunks,
    /// Windows would not advance.
    #[error("windows overlap by {overlap} tokens, expected fewer than the context of {context}")]
    Overlap { overlap: usize, context: usize },
}

/// A document as one row of tokens, with its chunks as row ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentTokens {
    /// `<s>`, the instruction, the text, `</s>`.
    pub token_ids: Vec<u32>,
    /// Rows of each chunk; `None` where the cut left nothing of it.
    pub spans: Vec<Option<Range<usize>>>,
    /// Whether the tail was cut off.
    pub truncated: bool,
}

/// Tokenises a document behind `instruction` and places its chunks.
///
/// # Errors
/// [`SpanError`] for chunks that are reversed, out of range, empty or none;
/// [`TokenizerError`] for a text that the tokenizer refuses.
pub fn tokenize(
    tokenizer: &Tokenizer,
    instruction: &str,
    document: Document<'_>,
    pooling: ChunkPooling,
) -> Result<DocumentTokens, LateTokenizeError> {
    let (text_ids, text_spans) = match document {
        Document::Strings(strings) => {
            let mut ids = Vec::new();
            let mut spans = Vec::with_capacity(strings.len());
            for string in strings {
                let start = ids.len();
                ids.extend(tokenizer.encode_plain(string)?);
                spans.push(start..ids.len());
            }
            (ids, spans)
        }
        Document::Characters { text, spans } => {
            let len = text.chars().count();
            let tokens = tokenizer.encode_with_offsets(text)?;
            check_spans(spans, len, "characters")?;
            let spans = spans
                .iter()
                .map(|span| tokens_within(&tokens.offsets, span))
                .collect();
            (tokens.token_ids, spans)
        }
        Document::Tokens { text, spans } => {
            let ids = tokenizer.encode_plain(text)?;
            check_spans(spans, ids.len(), "tokens")?;
            (ids, spans.to_vec())
        }
    };
    let mut token_ids = vec![tokenizer.bos_id()];
    token_ids.extend(tokenizer.encode_plain(instruction)?);
    let offset = token_ids.len();
    let text_len = text_ids.len();
    token_ids.extend(text_ids);
    token_ids.push(tokenizer.eos_id());
    let spans = place_spans(&text_spans, text_len, offset, pooling)?;
    Ok(DocumentTokens {
        token_ids,
        spans: spans.into_iter().map(Some).collect(),
        truncated: false,
    })
}

/// Why a document could not be tokenised into chunks.
#[derive(Debug, thiserror::Error)]
pub enum LateTokenizeError {
    /// The chunks are wrong.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// The tokenizer refused the text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

fn check_spans(spans: &[Range<usize>], len: usize, unit: &'static str) -> Result<(), SpanError> {
    match spans
        .iter()
        .position(|span| span.start > span.end || span.end > len)
    {
        None => Ok(()),
        Some(index) => {
            let Range { start, end } = spans[index];
            Err(SpanError::OutOfRange {
                index,
                start,
                end,
                len,
                unit,
            })
        }
    }
}

/// Tokens whose characters overlap `span`; offsets are in text order.
fn tokens_within(offsets: &[(usize, usize)], span: &Range<usize>) -> Range<usize> {
    let start = offsets.partition_point(|&(_, end)| end <= span.start);
    let end = offsets.partition_point(|&(start, _)| start < span.end);
    start..end.max(start)
}

/// Ranges over the text's tokens become ranges over the whole row, in which `offset` tokens, `<s>` and
/// the instruction, stand before the text and `</s>` behind it (spec section 7, rule 2).
///
/// # Errors
/// [`SpanError`] for an empty chunk and for no chunks at all.
pub fn place_spans(
    text_spans: &[Range<usize>],
    text_len: usize,
    offset: usize,
    pooling: ChunkPooling,
) -> Result<Vec<Range<usize>>, SpanError> {
    if text_spans.is_empty() {
        return Err(SpanError::NoChunks);
    }
    let place = |(index, span): (usize, &Range<usize>)| {
        if span.is_empty() {
            return Err(SpanError::Empty { index });
        }
        let with_specials = pooling == ChunkPooling::WithSpecials;
        let start = if with_specials && span.start == 0 {
            0
        } else {
            offset + span.start
        };
        let end = offset + span.end + usize::from(with_specials && span.end == text_len);
        Ok(start..end)
    };
    text_spans.iter().enumerate().map(place).collect()
}

impl DocumentTokens {
    /// Cuts the row to `context` tokens, `</s>` kept; a chunk ends before that `</s>` or, beginning
    /// behind the cut, is dropped (spec section 7, rule 4).
    pub fn cut(&mut self, context: usize) {
        let Some(&last) = self.token_ids.last() else {
            return;
        };
        if self.token_ids.len() <= context {
            return;
        }
        self.token_ids.truncate(context - 1);
        self.token_ids.push(last);
        self.truncated = true;
        for span in &mut self.spans {
            *span = span
                .take()
                .filter(|span| span.start < context - 1)
                .map(|span| span.start..span.end.min(context - 1));
        }
    }

    /// Cuts the row into windows (spec section 7, rule 5) and each chunk into its pieces.
    pub fn windows(&self, context: usize, overlap: usize, task: Task) -> Windows {
        let len = self.token_ids.len();
        let mut windows = Windows {
            sequences: Vec::new(),
            owners: Vec::new(),
        };
        let mut start = 0;
        loop {
            let end = (start + context).min(len);
            // Rows before this one were pooled in the window before.
            let keep_from = if start == 0 { 0 } else { start + overlap };
            let rows = keep_from..end;
            let mut spans = vec![keep_from - start..end - start];
            let mut owners = vec![Owner::Document];
            for (chunk, span) in self.spans.iter().enumerate() {
                let Some(span) = span else { continue };
                let piece = span.start.max(rows.start)..span.end.min(rows.end);
                if piece.start < piece.end {
                    spans.push(piece.start - start..piece.end - start);
                    owners.push(Owner::Chunk(chunk));
                }
            }
            let token_ids = self.token_ids[start..end].to_vec();
            windows.sequences.push(Sequence {
                token_ids,
                task,
                spans,
            });
            windows.owners.push(owners);
            if end == len {
                return windows;
            }
            start += context - overlap;
        }
    }
}

/// Whom a pooled row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The document as a whole.
    Document,
    /// The chunk of this index.
    Chunk(usize),
}

/// A document as sequences for the encoder, with the owner of every pooled row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// One sequence per window.
    pub sequences: Vec<Sequence>,
    /// Owners of each sequence's spans, in their order.
    pub owners: Vec<Vec<Owner>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_chunk_takes_the_instruction_and_the_last_the_end() {
        // The repository's own test: text "A" behind n instruction tokens spans (0, n + 3).
        let one = place_spans(&[0..1], 1, 1 + 5, ChunkPooling::WithSpecials).unwrap();
        assert_eq!(one, [0..8]);
        let three = |pooling| place_spans(&[0..11, 11..12, 12..35], 35, 6, pooling).unwrap();
        assert_eq!(three(ChunkPooling::WithSpecials), [0..17, 17..18, 18..42]);
        assert_eq!(three(ChunkPooling::TextOnly), [6..17, 17..18, 18..41]);
    }

    #[test]
    fn a_cut_drops_chunks_behind_it_and_clips_the_one_at_it() {
        let mut document = DocumentTokens {
            token_ids: (0..20).collect(),
            spans: vec![Some(0..6), Some(6..12), Some(12..20)],
            truncated: false,
        };
        document.cut(10);
        assert_eq!(document.token_ids, [0, 1, 2, 3, 4, 5, 6, 7, 8, 19]);
        assert_eq!(document.spans, [Some(0..6), Some(6..9), None]);
    }

    #[test]
    fn characters_find_the_tokens_that_they_overlap() {
        let offsets = [(0, 3), (3, 5), (6, 9)];
        assert_eq!(tokens_within(&offsets, &(0..5)), 0..2);
        assert_eq!(tokens_within(&offsets, &(4..7)), 1..3);
        assert_eq!(tokens_within(&offsets, &(5..6)), 2..2);
    }

    proptest! {
        #[test]
        fn windows_pool_every_row_once(
            len in 2usize..400, context in 4usize..100, overlap_share in 0.0f64..1.0,
            cut in 0.0f64..1.0,
        ) {
            let overlap = (overlap_share * (context - 1) as f64) as usize;
            let middle = ((cut * len as f64) as usize).clamp(1, len - 1);
            let document = DocumentTokens {
                token_ids: (0..len as u32).collect(),
                spans: vec![Some(0..middle), Some(middle..len)],
                truncated: false,
            };
            let windows = document.windows(context, overlap, Task::RAW);
            let mut rows: [Vec<u32>; 3] = Default::default();
            for (sequence, owners) in windows.sequences.iter().zip(&windows.owners) {
                prop_assert!(sequence.token_ids.len() <= context);
                for (span, owner) in sequence.spans.iter().zip(owners) {
                    let place = match owner { Owner::Document => 2, Owner::Chunk(index) => *index };
                    rows[place].extend(&sequence.token_ids[span.clone()]);
                }
            }
            prop_assert_eq!(&rows[0], &document.token_ids[..middle]);
            prop_assert_eq!(&rows[1], &document.token_ids[middle..]);
            prop_assert_eq!(&rows[2], &document.token_ids);
        }
    }
}
