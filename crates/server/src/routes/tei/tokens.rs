//! `/tokenize`, `/decode` and `/info`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use quintet_engine::{EmbedError, Embedder, Precision, Task, Tokenizer};
use serde_json::json;

use super::super::rows::{check_count, refused_text};
use super::super::{json_response, preferred_wait, requested_task};
use super::too_many_tokens;
use crate::app::SharedApp;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::task_names::TaskFields;
use crate::wire::input::InputItem;
use crate::wire::tei::{DecodeRequest, Info, SimpleToken, TokenizeRequest};

/// `POST /tokenize`: the tokens of each text with their places in it.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn tokenize(
    State(app): State<SharedApp>,
    headers: HeaderMap,
    body: JsonBody<TokenizeRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let fields = TaskFields {
        input_type: value.prompt_name.as_deref(),
        ..TaskFields::default()
    };
    let task = requested_task(None, fields, &service.model)?.unwrap_or(Task::RAW);
    let count = value.inputs.as_slice().len();
    check_count("inputs", count, app.config.limits.inputs)?;
    let max = app.config.batcher.request_tokens;
    let embedder = Arc::clone(&service.model.embedder);
    let tokenize = move || {
        let instruction = embedder.instruction(task);
        let with_specials = value.add_special_tokens.unwrap_or(true);
        let mut tokens = 0;
        let tokenized = value.inputs.as_slice().iter().enumerate();
        let tokenized = tokenized.map(|(index, text)| {
            let text = format!("{instruction}{text}");
            let found = simple_tokens(&embedder, &text, with_specials)
                .map_err(|error| refused_text(&format!("inputs[{index}]"), &error))?;
            tokens += found.len();
            if tokens > max {
                return Err(too_many_tokens(tokens, max));
            }
            Ok(found)
        });
        tokenized.collect::<Result<Vec<_>, ApiError>>()
    };
    let tokenized = service.batcher.blocking(tokenize).await??;
    drop(bytes);
    let tokens: usize = tokenized.iter().map(Vec::len).sum();
    // A token is about a tenth of a vector.
    json_response(tokens / 10, move || tokenized).await
}

fn simple_tokens(
    embedder: &Embedder,
    text: &str,
    with_specials: bool,
) -> Result<Vec<SimpleToken>, EmbedError> {
    let tokenizer = embedder.tokenizer().ok_or(EmbedError::NoTokenizer)?;
    let encoded = tokenizer
        .encode_with_offsets(text)
        .map_err(|source| EmbedError::Tokenizer { index: 0, source })?;
    let special = |id| SimpleToken {
        id,
        text: tokenizer.piece(id).unwrap_or_default(),
        special: true,
        start: None,
        stop: None,
    };
    let starts: Vec<usize> = text
        .char_indices()
        .map(|(start, _)| start)
        .chain([text.len()])
        .collect();
    let plain = encoded.token_ids.iter().zip(&encoded.offsets);
    let plain = plain.map(|(&id, &(start, stop))| SimpleToken {
        id,
        text: text[starts[start]..starts[stop]].to_owned(),
        special: false,
        start: Some(start),
        stop: Some(stop),
    });
    Ok(with_specials
        .then(|| special(tokenizer.bos_id()))
        .into_iter()
        .chain(plain)
        .chain(with_specials.then(|| special(tokenizer.eos_id())))
        .collect())
}

/// `POST /decode`: the texts that token ids of the model stand for.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn decode(
    State(app): State<SharedApp>,
    headers: HeaderMap,
    body: JsonBody<DecodeRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let rows = value.ids.0;
    check_count("ids", rows.len(), app.config.limits.inputs)?;
    let skip_specials = value.skip_special_tokens.unwrap_or(true);
    let embedder = Arc::clone(&service.model.embedder);
    let decode = move || {
        let tokenizer = embedder.tokenizer().ok_or(EmbedError::NoTokenizer);
        let tokenizer = tokenizer.map_err(|error| refused_text("ids", &error))?;
        let rows = rows.into_iter().enumerate();
        let texts = rows.map(|(index, row)| match row {
            InputItem::TokenIds(ids) => decoded(tokenizer, index, &ids, skip_specials),
            InputItem::Text(_) | InputItem::Object(_) => Err(ApiError::invalid_param(
                format!("ids[{index}]"),
                "`ids` has a text, expected token ids or lists of them",
            )),
        });
        texts.collect::<Result<Vec<_>, ApiError>>()
    };
    let texts = service.batcher.blocking(decode).await??;
    drop(bytes);
    json_response(texts.len(), move || texts).await
}

/// The special tokens of XLM-R's vocabulary.
const SPECIALS: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

/// As the decoder of `tokenizer.json`, Metaspace: `▁` is a space, and nothing in the first piece.
fn decoded(
    tokenizer: &Tokenizer,
    index: usize,
    ids: &[u32],
    skip_specials: bool,
) -> Result<String, ApiError> {
    let mut text = String::new();
    let mut is_first = true;
    for (position, &id) in ids.iter().enumerate() {
        let Some(piece) = tokenizer.piece(id) else {
            return Err(ApiError::invalid_param(
                format!("ids[{index}]"),
                format!(
                    "`ids[{index}]` has token id {id} at position {position}, which the model does not have"
                ),
            ));
        };
        if skip_specials && SPECIALS.contains(&piece.as_str()) {
            continue;
        }
        let space = if is_first { "" } else { " " };
        text.push_str(&piece.replace('▁', space));
        is_first = false;
    }
    Ok(text)
}

/// `GET /info`: the model and the limits.
///
/// # Errors
/// 503 while the model loads.
pub async fn info(State(app): State<SharedApp>, headers: HeaderMap) -> Result<Response, ApiError> {
    let service = app.service(preferred_wait(&headers)).await?;
    let config = app.config.clone();
    json_response(1, move || {
        let model = &service.model;
        let precision = model.embedder.precision();
        // Written here, because it borrows from the model.
        serde_json::to_value(Info {
            model_id: model.id(),
            model_sha: None,
            model_dtype: if precision == Precision::Exact {
                "float32"
            } else {
                precision.name()
            },
            model_type: json!({"embedding": {"pooling": "mean"}}),
            max_concurrent_requests: config.limits.connections,
            max_input_length: model.embedder.config().max_tokens,
            max_batch_tokens: config.batcher.batch.token_budget,
            max_batch_requests: None,
            max_client_batch_size: config.limits.inputs,
            auto_truncate: false,
            tokenization_workers: config.batcher.tokenizing_threads,
            version: env!("CARGO_PKG_VERSION"),
            sha: None,
            docker_label: None,
            tasks: model.tasks().collect(),
            system_fingerprint: &model.fingerprint,
        })
        .ok()
    })
    .await
}
