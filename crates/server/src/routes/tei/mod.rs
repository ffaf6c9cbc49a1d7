//! The routes of Text Embeddings Inference: `/embed`, `/embed_all`, `/similarity` here, `/rerank` and
//! `/predict` in `rerank`, those about tokens and the model in `tokens`.

mod rerank;
mod tokens;

use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use quintet_engine::Task;

use super::outputs::{MAX_NUMBERS, Outputs, cosine, finished};
use super::rows::{self, Field, Handling, Row, check_count};
use super::{default_task, item_task, json_response, preferred_wait, requested_task};
use crate::app::{App, Service, SharedApp};
use crate::auth::Caller;
use crate::batcher::{BatchError, OwnedContent, OwnedInput, StepTimes};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::task_names::TaskFields;
use crate::wire::input::{InputItem, InputList};
use crate::wire::tei::{EmbedRequest, SimilarityRequest, overlong};

pub use rerank::{predict, rerank};
pub use tokens::{decode, info, tokenize};

/// `POST /embed`: a vector per input.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn embed(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<EmbedRequest>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let task = prompt_task(value.prompt_name.as_deref(), &app, &caller, &service)?;
    let dimensions = value.dimensions.as_slice();
    let sizes = ("dimensions", dimensions);
    let embedder = &service.model.embedder;
    let outputs = Outputs::read(sizes, ("", &[]), value.normalize, embedder)?;
    let inputs = inputs(value.inputs, task, &app, &service)?;
    outputs.check_numbers(inputs.len(), embedder)?;
    let characters = characters(&inputs);
    let overlong = overlong(value.truncate, value.truncation_direction);
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let fields = [Field::List("inputs", inputs.len())];
    let rows = rows::embed(inputs, &handling, &service, &fields).await?;
    app.metrics
        .embedded(rows.rows.len(), rows.tokens, rows.times);
    drop(bytes);
    let compute = Compute {
        characters,
        tokens: rows.tokens,
        times: rows.times,
    };
    let response = json_response(rows.rows.len(), move || {
        let embedder = &service.model.embedder;
        let size = outputs.dimensions.first().copied().flatten();
        let finish = |row| finished(row, size, outputs.normalize, embedder);
        rows.rows.iter().map(finish).collect::<Vec<_>>()
    });
    Ok(compute.told(response.await?, started.elapsed()))
}

/// Each row of `/embed_all` is kept until the answer, so that its token takes the room of so many in
/// the queue: 1,000,000 tokens there are at most 0.5 GB of rows of 1024.
const TOKENS_PER_ROW: usize = 8;

/// `POST /embed_all`: a vector per token, neither pooled nor scaled.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn embed_all(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<EmbedRequest>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let task = prompt_task(value.prompt_name.as_deref(), &app, &caller, &service)?;
    let inputs = inputs(value.inputs, task, &app, &service)?;
    let characters = characters(&inputs);
    let fields = [Field::List("inputs", inputs.len())];
    if let Some(index) = inputs.iter().position(is_empty) {
        return Err(rows::empty_input(&format!("inputs[{index}]")));
    }
    let overlong = overlong(value.truncate, value.truncation_direction);
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let tokenized = service.batcher.tokenize(inputs, overlong).await;
    let (tokenized, mut reservation) = tokenized.map_err(|error| rows::refused(error, &fields))?;
    let mut sequences: Vec<_> = tokenized
        .into_iter()
        .map(|text| text.prepared.sequence)
        .collect();
    let tokens: usize = sequences.iter().map(|text| text.token_ids.len()).sum();
    let numbers = tokens * service.model.embedder.config().hidden_size;
    if numbers > MAX_NUMBERS {
        return Err(ApiError::invalid_param(
            "inputs",
            format!(
                "The answer would have {numbers} numbers, expected at most {MAX_NUMBERS}; send fewer or shorter texts"
            ),
        ));
    }
    reservation
        .grow(tokens * (TOKENS_PER_ROW - 1))
        .map_err(|_| ApiError::overloaded(Duration::from_secs(1)))?;
    let texts = sequences.iter();
    let texts = texts.map(|text| (text.task, text.token_ids.len()));
    handling.admit(&service.model, texts).await?;
    for sequence in &mut sequences {
        sequence.spans = (0..sequence.token_ids.len())
            .map(|token| token..token + 1)
            .collect();
    }
    let count = sequences.len();
    let tokenize = started.elapsed();
    let forwarded = service.batcher.forward(
        sequences,
        reservation,
        handling.caller.tenant(),
        handling.tier,
    );
    let forwarded = forwarded.await?;
    let times = StepTimes {
        tokenize,
        queue: forwarded.queue_time,
        forward: forwarded.forward_time,
    };
    app.metrics.embedded(count, tokens, times);
    drop(bytes);
    let compute = Compute {
        characters,
        tokens,
        times,
    };
    let response = json_response(tokens, move || forwarded.pooled).await?;
    Ok(compute.told(response, started.elapsed()))
}

/// `POST /similarity`: the cosines between one sentence and others.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn similarity(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<SimilarityRequest>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let parameters = value.parameters.unwrap_or_default();
    let task = prompt_task(parameters.prompt_name.as_deref(), &app, &caller, &service)?;
    let sentences = value.inputs.sentences;
    check_count("sentences", sentences.len(), app.config.limits.inputs)?;
    let fields = [
        Field::One("source_sentence"),
        Field::List("sentences", sentences.len()),
    ];
    let inputs: Vec<OwnedInput> = std::iter::once(value.inputs.source_sentence)
        .chain(sentences)
        .map(|text| OwnedInput {
            content: OwnedContent::Text(text),
            task,
        })
        .collect();
    let characters = characters(&inputs);
    let overlong = overlong(parameters.truncate, parameters.truncation_direction);
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let rows = rows::embed(inputs, &handling, &service, &fields).await?;
    app.metrics
        .embedded(rows.rows.len(), rows.tokens, rows.times);
    drop(bytes);
    let compute = Compute {
        characters,
        tokens: rows.tokens,
        times: rows.times,
    };
    let response = json_response(rows.rows.len(), move || {
        let embedder = &service.model.embedder;
        let mut vectors = rows
            .rows
            .iter()
            .map(|row: &Row| finished(row, None, true, embedder));
        let source = vectors.next().unwrap_or_default();
        vectors
            .map(|vector| cosine(&source, &vector))
            .collect::<Vec<f32>>()
    });
    Ok(compute.told(response.await?, started.elapsed()))
}

/// A prompt of this model is a task.
fn prompt_task(
    prompt_name: Option<&str>,
    app: &App,
    caller: &Caller,
    service: &Service,
) -> Result<Task, ApiError> {
    let fields = TaskFields {
        input_type: prompt_name,
        ..TaskFields::default()
    };
    match requested_task(None, fields, &service.model)? {
        Some(task) => Ok(task),
        None => default_task(caller, &app.config, &service.model.embedder),
    }
}

/// Texts, and token ids of the model's own vocabulary.
fn inputs(
    list: InputList,
    task: Task,
    app: &App,
    service: &Service,
) -> Result<Vec<OwnedInput>, ApiError> {
    check_count("inputs", list.0.len(), app.config.limits.inputs)?;
    let input = |(index, item): (usize, InputItem)| {
        let task = item_task(&item, "inputs", index, task, &service.model.embedder)?;
        let content = match item {
            InputItem::Text(text) => OwnedContent::Text(text),
            InputItem::Object(object) => OwnedContent::Text(object.text),
            InputItem::TokenIds(token_ids) => OwnedContent::TokenIds(token_ids),
        };
        Ok(OwnedInput { content, task })
    };
    list.0.into_iter().enumerate().map(input).collect()
}

fn is_empty(input: &OwnedInput) -> bool {
    match &input.content {
        OwnedContent::Text(text) => text.is_empty(),
        OwnedContent::TokenIds(token_ids) => token_ids.is_empty(),
    }
}

/// Characters of the texts; token ids have none.
fn characters(inputs: &[OwnedInput]) -> usize {
    let count = |input: &OwnedInput| match &input.content {
        OwnedContent::Text(text) => text.chars().count(),
        OwnedContent::TokenIds(_) => 0,
    };
    inputs.iter().map(count).sum()
}

/// What the `x-compute-*` headers say.
struct Compute {
    characters: usize,
    tokens: usize,
    times: StepTimes,
}

impl Compute {
    /// The answer with the headers. Times are in whole milliseconds.
    fn told(&self, mut response: Response, total: Duration) -> Response {
        let millis = |time: Duration| usize::try_from(time.as_millis()).unwrap_or(usize::MAX);
        let headers = response.headers_mut();
        for (name, value) in [
            ("x-compute-characters", self.characters),
            ("x-compute-tokens", self.tokens),
            ("x-compute-time", millis(total)),
            ("x-total-time", millis(total)),
            ("x-tokenization-time", millis(self.times.tokenize)),
            ("x-queue-time", millis(self.times.queue)),
            ("x-inference-time", millis(self.times.forward)),
        ] {
            headers.insert(HeaderName::from_static(name), value.into());
        }
        headers.insert(
            HeaderName::from_static("x-compute-type"),
            axum::http::HeaderValue::from_static("cpu"),
        );
        response
    }
}

/// The request has more tokens than one may have.
fn too_many_tokens(tokens: usize, max: usize) -> ApiError {
    BatchError::RequestTooLong { tokens, max }.into()
}
