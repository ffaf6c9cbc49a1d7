//! `POST /v1/embeddings`: OpenAI's and Jina's, with a task per item, many outputs and late chunking.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use quintet_engine::{Embedder, Task};

use super::late_chunks::{self, Chunks};
use super::outputs::Outputs;
use super::rows::{self, Field, Handling, Rows, check_count, empty_input};
use super::{
    default_task, item_task, json_answer, json_bytes, preferred_wait, requested_task, tier,
};
use crate::app::{App, Service, SharedApp};
use crate::auth::Caller;
use crate::batcher::{Overlong, OwnedContent, OwnedInput, Tier};
use crate::body::JsonBody;
use crate::config::Config;
use crate::error::ApiError;
use crate::model::Model;
use crate::task_names::TaskFields;
use crate::token_encoding::TokenEncoding;
use crate::wire::OneOrMany;
use crate::wire::embeddings::{
    EmbeddingData, EmbeddingsRequest, EmbeddingsResponse, SpanUnit, Usage,
};
use crate::wire::input::InputItem;

const X_TOKEN_ENCODING: HeaderName = HeaderName::from_static("x-token-encoding");

/// The handler.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn embeddings(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<EmbeddingsRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let answered = answer(value, &app, service, &caller, tier(&headers)).await?;
    drop(bytes);
    let mut response = json_answer(answered.json);
    if let Some(encoding) = answered.token_encoding {
        let name = HeaderValue::from_static(encoding.name());
        response.headers_mut().insert(X_TOKEN_ENCODING, name);
    }
    Ok(response)
}

/// A request's answer, written.
pub(crate) struct Answered {
    pub(crate) json: Vec<u8>,
    /// What is metered.
    pub(crate) tokens: usize,
    token_encoding: Option<TokenEncoding>,
}

/// Answers a request, whoever sent it on whatever way.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub(crate) async fn answer(
    request: EmbeddingsRequest,
    app: &App,
    service: Arc<Service>,
    caller: &Caller,
    tier: Tier,
) -> Result<Answered, ApiError> {
    let asked = Asked::read(request, &app.config, caller, &service.model)?;
    let (token_encoding, wants_cost) = (asked.token_encoding, asked.wants_cost);
    let outputs = asked.outputs.clone();
    let handling = Handling::of_tier(asked.overlong, app, caller, tier);
    let prepared = asked.prepare(&handling, &service).await?;
    let rows = match prepared {
        Prepared::Apart(texts) => texts.embed(&handling, &service).await?,
        Prepared::Document(document) => document.embed(&handling, &service).await?,
    };
    app.metrics
        .embedded(rows.rows.len(), rows.tokens, rows.times);
    let usage = Usage {
        cost_usd: rows.cost.filter(|_| wants_cost),
        ..Usage::new(rows.tokens)
    };
    let tokens = rows.tokens;
    Ok(Answered {
        json: written(rows, usage, outputs, service).await?,
        tokens,
        token_encoding,
    })
}

/// Checks a request against the model and counts its inputs, without running it.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done.
pub(crate) fn check(
    request: EmbeddingsRequest,
    config: &Config,
    caller: &Caller,
    model: &Model,
) -> Result<usize, ApiError> {
    Ok(Asked::read(request, config, caller, model)?.items.len())
}

/// A request that was understood and checked against the model.
pub(super) struct Asked {
    items: Vec<(InputItem, Task)>,
    outputs: Outputs,
    pub(super) overlong: Overlong,
    reading: Reading,
    /// Whose ids the token arrays hold; `None` where there are none.
    token_encoding: Option<TokenEncoding>,
    /// Whether the price shall stand in the answer.
    wants_cost: bool,
}

/// How the inputs are read.
enum Reading {
    /// Each on its own.
    Apart,
    /// Late chunking: they follow each other in one document.
    OneDocument,
    /// Late chunking: chunks of the one text are these ranges.
    Spans(Vec<(usize, usize)>, SpanUnit),
}

impl Asked {
    pub(super) fn read(
        request: EmbeddingsRequest,
        config: &Config,
        caller: &Caller,
        model: &Model,
    ) -> Result<Self, ApiError> {
        let embedder = &model.embedder;
        if request.model.is_none() && config.strict_openai {
            return Err(ApiError::invalid_param(
                "model",
                "You must provide a model parameter",
            ));
        }
        let fields = TaskFields {
            task: request.task.as_deref(),
            task_type: request.task_type.as_deref(),
            input_type: request.input_type.as_deref(),
        };
        let task = match requested_task(request.model.as_deref(), fields, model)? {
            Some(task) => task,
            None => default_task(caller, config, embedder)?,
        };
        let outputs = outputs(&request, embedder)?;
        let overlong = request.truncate.unwrap_or_default().0;
        let reading = match (request.late_chunking, request.spans) {
            (Some(false), Some(_)) => {
                return Err(ApiError::invalid_param(
                    "spans",
                    "`spans` are chunks of one pass, expected `late_chunking` true or absent",
                ));
            }
            (_, Some(spans)) => Reading::Spans(spans, request.span_unit.unwrap_or_default()),
            (Some(true), None) => Reading::OneDocument,
            (Some(false) | None, None) => Reading::Apart,
        };
        let Some(input) = request.input else {
            return Err(ApiError::invalid_param(
                "input",
                "The field `input` is missing, expected a string, a list of strings or token ids",
            ));
        };
        let items = input.0;
        check_count("input", items.len(), config.limits.inputs)?;
        let vectors = match &reading {
            Reading::Spans(spans, _) => {
                check_count("spans", spans.len(), config.limits.inputs)?;
                spans.len()
            }
            Reading::Apart | Reading::OneDocument => items.len(),
        };
        outputs.check_numbers(vectors, embedder)?;
        let has_ids = items
            .iter()
            .any(|item| matches!(item, InputItem::TokenIds(_)));
        let token_encoding = match &request.token_encoding {
            Some(name) => TokenEncoding::parse(name)?,
            None => TokenEncoding::default(),
        };
        let with_task = |(index, item): (usize, InputItem)| {
            let task = item_task(&item, "input", index, task, embedder)?;
            Ok((item, task))
        };
        let items: Result<Vec<_>, ApiError> =
            items.into_iter().enumerate().map(with_task).collect();
        Ok(Self {
            items: items?,
            outputs,
            overlong,
            reading,
            token_encoding: has_ids.then_some(token_encoding),
            wants_cost: request.usage.and_then(|wish| wish.include) == Some(true),
        })
    }
}

/// A request whose tokens are known.
pub(super) enum Prepared {
    /// Texts on their own.
    Apart(rows::Texts),
    /// Chunks of one document.
    Document(late_chunks::Chunked),
}

impl Prepared {
    /// What is metered.
    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::Apart(texts) => texts.tokens(),
            Self::Document(document) => document.tokens(),
        }
    }
}

impl Asked {
    /// Tokenises what the request holds.
    pub(super) async fn prepare(
        self,
        handling: &Handling,
        service: &Service,
    ) -> Result<Prepared, ApiError> {
        let Self {
            items,
            reading,
            token_encoding,
            ..
        } = self;
        if let Reading::Apart = reading {
            let inputs = decoded(items, token_encoding, service).await?;
            let fields = [Field::List("input", inputs.len())];
            let texts = rows::prepare(inputs, handling, service, &fields).await?;
            return Ok(Prepared::Apart(texts));
        }
        let (texts, task) = chunk_texts(items, token_encoding, service).await?;
        let chunks = match reading {
            Reading::Spans(spans, unit) => Chunks::spans(texts, spans, unit)?,
            Reading::Apart | Reading::OneDocument => Chunks::Inputs(texts),
        };
        let document = late_chunks::prepare(chunks, task, handling, service).await?;
        Ok(Prepared::Document(document))
    }
}

/// The sizes and types that the request names in one way or another.
fn outputs(request: &EmbeddingsRequest, embedder: &Embedder) -> Result<Outputs, ApiError> {
    let sizes = request
        .dimensions
        .as_ref()
        .map_or(&[][..], OneOrMany::as_slice);
    let types = if let Some(types) = &request.embedding_type {
        ("embedding_type", types.as_slice())
    } else if let Some(types) = &request.encoding_type {
        ("encoding_type", types.as_slice())
    } else if let Some(types) = &request.encoding_format {
        ("encoding_format", types.as_slice())
    } else {
        ("", &[][..])
    };
    Outputs::read(("dimensions", sizes), types, request.normalized, embedder)
}

/// Texts as they are and token ids as what they stand for.
async fn decoded(
    items: Vec<(InputItem, Task)>,
    token_encoding: Option<TokenEncoding>,
    service: &Service,
) -> Result<Vec<OwnedInput>, ApiError> {
    let decode = move || {
        let encoding = token_encoding.unwrap_or_default();
        let items = items.into_iter().enumerate();
        let decoded = items.map(|(index, (item, task))| {
            let content = content(index, item, encoding)?;
            Ok(OwnedInput { content, task })
        });
        decoded.collect()
    };
    match token_encoding {
        // Texts are only moved.
        None => decode(),
        Some(_) => service.batcher.blocking(decode).await?,
    }
}

/// The texts of one document and the task that they share.
async fn chunk_texts(
    items: Vec<(InputItem, Task)>,
    token_encoding: Option<TokenEncoding>,
    service: &Service,
) -> Result<(Vec<String>, Task), ApiError> {
    let task = items.first().map_or(Task::RAW, |(_, task)| *task);
    if let Some(index) = items.iter().position(|(_, other)| *other != task) {
        return Err(ApiError::invalid_param(
            format!("input[{index}].task"),
            "The chunks of one document have different tasks, expected one",
        ));
    }
    let inputs = decoded(items, token_encoding, service).await?;
    let text = |(index, input): (usize, OwnedInput)| {
        let name = format!("input[{index}]");
        match input.content {
            OwnedContent::Text(text) if text.is_empty() => Err(empty_input(&name)),
            OwnedContent::Text(text) => Ok(text),
            OwnedContent::TokenIds(_) => Err(ApiError::invalid_param(
                name,
                "Late chunking reads texts, not token ids of the model",
            )),
        }
    };
    let texts: Result<Vec<_>, ApiError> = inputs.into_iter().enumerate().map(text).collect();
    Ok((texts?, task))
}

fn content(
    index: usize,
    item: InputItem,
    token_encoding: TokenEncoding,
) -> Result<OwnedContent, ApiError> {
    match item {
        InputItem::Text(text) => Ok(OwnedContent::Text(text)),
        InputItem::Object(object) => Ok(OwnedContent::Text(object.text)),
        InputItem::TokenIds(ids) => token_encoding.decode(index, ids),
    }
}

/// Finishes the vectors and writes the body.
async fn written(
    rows: Rows,
    usage: Usage,
    outputs: Outputs,
    service: Arc<Service>,
) -> Result<Vec<u8>, ApiError> {
    json_bytes(rows.rows.len(), move || {
        let embedder = &service.model.embedder;
        let data = rows.rows.into_iter().enumerate().map(|(index, row)| {
            let (embedding, embeddings) = outputs.vectors(&row, embedder);
            EmbeddingData {
                object: "embedding",
                index,
                embedding,
                embeddings,
                tokens: row.tokens,
                truncated: row.truncated,
                cut_at: row.cut_at,
            }
        });
        EmbeddingsResponse {
            object: "list",
            data: data.collect(),
            model: service.model.id().to_owned(),
            usage,
            system_fingerprint: service.model.fingerprint.clone(),
        }
    })
    .await
}
