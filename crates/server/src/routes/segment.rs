//! `POST /v1/segment`: a text's tokens and its chunks, without the model.

use std::ops::Range;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use quintet_engine::{EmbedError, Embedder};

use super::rows::refused_text;
use super::{json_response, preferred_wait};
use crate::app::SharedApp;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::segments::segments;
use crate::token_encoding::TokenEncoding;
use crate::wire::segment::{SegmentRequest, SegmentResponse, SegmentUsage, TextToken};

/// Bytes of a content at most: its tokens are an answer of about 40 MB.
const MAX_CONTENT_BYTES: usize = 4 << 20;
/// As at Jina's.
const DEFAULT_CHUNK_CHARS: usize = 1000;

/// The handler.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn segment(
    State(app): State<SharedApp>,
    headers: HeaderMap,
    body: JsonBody<SegmentRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let embedder = Arc::clone(&service.model.embedder);
    let work = move || segmented(&value, &embedder);
    let response = service.batcher.blocking(work).await??;
    drop(bytes);
    json_response(response.num_tokens / 10, move || response).await
}

fn segmented(request: &SegmentRequest, embedder: &Embedder) -> Result<SegmentResponse, ApiError> {
    let Some(content) = request.content.as_deref() else {
        return Err(ApiError::invalid_param(
            "content",
            "The field `content` is missing, expected a text",
        ));
    };
    if content.len() > MAX_CONTENT_BYTES {
        return Err(ApiError::invalid_param(
            "content",
            format!(
                "`content` has {} bytes, expected at most {MAX_CONTENT_BYTES}",
                content.len()
            ),
        ));
    }
    let max_chars = request.max_chunk_length.unwrap_or(DEFAULT_CHUNK_CHARS);
    if max_chars == 0 {
        return Err(ApiError::invalid_param(
            "max_chunk_length",
            "`max_chunk_length` is 0, expected at least 1",
        ));
    }
    let encoding = match &request.tokenizer {
        Some(name) => TokenEncoding::parse(name).map_err(|error| error.param("tokenizer"))?,
        None => TokenEncoding::default(),
    };
    let all = tokens(content, encoding, embedder)?;
    let (range, tokens_of_range) = part(content, all, request.head, request.tail)?;
    let text = &content[range.clone()];
    let num_tokens = tokens_of_range.iter().map(|(_, ids)| ids.len()).sum();
    let with_tokens = request.return_tokens.unwrap_or(false);
    if !request.return_chunks.unwrap_or(false) {
        return Ok(SegmentResponse {
            num_tokens,
            tokenizer: encoding.name(),
            usage: SegmentUsage::default(),
            num_chunks: None,
            chunk_positions: None,
            chunks: None,
            tokens: with_tokens.then(|| vec![tokens_of_range]),
        });
    }
    let ranges = segments(text, max_chars);
    let chunks: Vec<String> = ranges
        .iter()
        .map(|chunk| text[chunk.clone()].to_owned())
        .collect();
    let tokens: Option<Result<Vec<_>, ApiError>> = with_tokens.then(|| {
        let chunks = chunks.iter();
        chunks
            .map(|chunk| tokens(chunk, encoding, embedder))
            .collect()
    });
    Ok(SegmentResponse {
        num_tokens,
        tokenizer: encoding.name(),
        usage: SegmentUsage::default(),
        num_chunks: Some(chunks.len()),
        chunk_positions: Some(positions(content, range.start, &ranges)),
        chunks: Some(chunks),
        tokens: tokens.transpose()?,
    })
}

/// A text as runs of whole characters with the ids that make them.
fn tokens(
    text: &str,
    encoding: TokenEncoding,
    embedder: &Embedder,
) -> Result<Vec<TextToken>, ApiError> {
    if let Some(tokens) = encoding.encode(text)? {
        return Ok(tokens);
    }
    let refused = |error: EmbedError| refused_text("content", &error);
    let tokenizer = embedder
        .tokenizer()
        .ok_or(EmbedError::NoTokenizer)
        .map_err(refused)?;
    let encoded = tokenizer
        .encode_with_offsets(text)
        .map_err(|source| refused(EmbedError::Tokenizer { index: 0, source }))?;
    let starts: Vec<usize> = text
        .char_indices()
        .map(|(start, _)| start)
        .chain([text.len()])
        .collect();
    let tokens = encoded.token_ids.iter().zip(&encoded.offsets);
    Ok(tokens
        .map(|(&id, &(start, end))| (text[starts[start]..starts[end]].to_owned(), vec![id]))
        .collect())
}

/// The text and tokens of a head or a tail, in whole characters.
fn part(
    content: &str,
    mut tokens: Vec<TextToken>,
    head: Option<usize>,
    tail: Option<usize>,
) -> Result<(Range<usize>, Vec<TextToken>), ApiError> {
    let fitting = |tokens: &mut dyn Iterator<Item = &TextToken>, max: usize| {
        let mut sum = 0;
        tokens
            .take_while(|(_, ids)| {
                sum += ids.len();
                sum <= max
            })
            .count()
    };
    match (head, tail) {
        (None, None) => Ok((0..content.len(), tokens)),
        (Some(_), Some(_)) => Err(ApiError::invalid_param(
            "tail",
            "`head` and `tail` were both given, expected one",
        )),
        (Some(head), None) => {
            let kept = fitting(&mut tokens.iter(), head);
            tokens.truncate(kept);
            let end = end_of(content, &tokens);
            Ok((0..end, tokens))
        }
        (None, Some(tail)) => {
            let kept = fitting(&mut tokens.iter().rev(), tail);
            let rest = tokens.split_off(tokens.len() - kept);
            let start = end_of(content, &tokens);
            Ok((start..content.len(), rest))
        }
    }
}

/// Where the tokens end in the content. Tokens of the model leave white space out, so each is looked
/// for behind the one before.
fn end_of(content: &str, tokens: &[TextToken]) -> usize {
    tokens.iter().fold(0, |end, (text, _)| {
        let found = content[end..].find(text.as_str());
        found.map_or(end, |place| end + place + text.len())
    })
}

/// Ranges in characters of `content`; `ranges` are bytes behind `start` and follow each other.
fn positions(content: &str, start: usize, ranges: &[Range<usize>]) -> Vec<(usize, usize)> {
    let mut byte = 0;
    let mut chars = 0;
    let mut at = |place: usize| {
        chars += content[byte..place].chars().count();
        byte = place;
        chars
    };
    ranges
        .iter()
        .map(|range| (at(start + range.start), at(start + range.end)))
        .collect()
}
