//! `POST /v1/embeddings`: OpenAI's and Jina's, with a task per item, many outputs and late chunking.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use quintet_engine::embedding::{EmbeddingType, encode};
use quintet_engine::late_chunking::{
    ChunkPooling, Document, LateTokenizeError, LongDocument, SpanError,
};
use quintet_engine::{Dimensions, EmbedError, EmbedOptions, Embedder, Task, Truncate};

use super::{preferred_wait, tier};
use crate::app::{Service, SharedApp};
use crate::auth::Caller;
use crate::batcher::{BatchError, OwnedContent, OwnedInput, Pooled, PooledInputs, StepTimes, Tier};
use crate::body::JsonBody;
use crate::config::{Config, EmptyInput};
use crate::error::{ApiError, refused_input, shortened};
use crate::model::Model;
use crate::task_names::{self, TaskFields};
use crate::token_encoding::TokenEncoding;
use crate::wire::OneOrMany;
use crate::wire::embeddings::{
    EmbeddingData, EmbeddingsRequest, EmbeddingsResponse, Usage, Variant, Vector,
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
    let asked = Asked::read(value, &app.config, &caller, &service.model)?;
    let token_encoding = asked.token_encoding;
    let outputs = asked.outputs.clone();
    let embedded = if asked.late_chunking {
        embed_document(asked, &service, tier(&headers)).await?
    } else {
        embed_inputs(asked, &service, tier(&headers)).await?
    };
    let tokens = embedded.tokens;
    let count = embedded.vectors.len();
    app.metrics.embedded(count, tokens, embedded.times);
    let json = written(embedded, outputs, service).await?;
    drop(bytes);
    let mut response = Body::from(json).into_response();
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, content_type);
    if let Some(encoding) = token_encoding {
        headers.insert(X_TOKEN_ENCODING, HeaderValue::from_static(encoding.name()));
    }
    Ok(response)
}

/// A request that was understood and checked against the model.
struct Asked {
    items: Vec<(InputItem, Task)>,
    outputs: Outputs,
    truncate: Truncate,
    late_chunking: bool,
    /// Whose ids the token arrays hold; `None` where there are none.
    token_encoding: Option<TokenEncoding>,
    empty: EmptyInput,
}

/// In which sizes and types each vector is given out.
#[derive(Debug, Clone)]
struct Outputs {
    /// At least one; `None` is the full width.
    dimensions: Vec<Option<Dimensions>>,
    /// At least one.
    types: Vec<(&'static str, EmbeddingType)>,
    normalize: bool,
}

/// Numbers in one answer at most: 2048 vectors of 1024 in four forms, about 90 MB as decimals.
const MAX_NUMBERS: usize = 2048 * 1024 * 4;

impl Asked {
    fn read(
        request: EmbeddingsRequest,
        config: &Config,
        caller: &Caller,
        model: &Model,
    ) -> Result<Self, ApiError> {
        let embedder = &model.embedder;
        let by_model = match &request.model {
            Some(id) => model.resolve(id)?,
            None if config.strict_openai => {
                return Err(ApiError::invalid_param(
                    "model",
                    "You must provide a model parameter",
                ));
            }
            None => None,
        };
        let fields = TaskFields {
            task: request.task.as_deref(),
            task_type: request.task_type.as_deref(),
            input_type: request.input_type.as_deref(),
        };
        let named = |name: &Option<String>| {
            let name = name.as_deref();
            name.map(|name| task_names::find(embedder, "task", name))
                .transpose()
        };
        let task = match fields.resolve(embedder)?.or(by_model) {
            Some(task) => task,
            None => match named(&caller.default_task)? {
                Some(task) => task,
                None => named(&config.default_task)?.unwrap_or(Task::RAW),
            },
        };
        let outputs = Outputs::read(&request, embedder)?;
        let truncate = request.truncate.is_some_and(|truncate| truncate.0);
        let Some(input) = request.input else {
            return Err(ApiError::invalid_param(
                "input",
                "The field `input` is missing, expected a string, a list of strings or token ids",
            ));
        };
        let items = input.0;
        check_count(items.len(), config.limits.inputs)?;
        outputs.check_numbers(items.len(), embedder)?;
        let has_ids = items
            .iter()
            .any(|item| matches!(item, InputItem::TokenIds(_)));
        let token_encoding = match &request.token_encoding {
            Some(name) => TokenEncoding::parse(name)?,
            None => TokenEncoding::default(),
        };
        let with_task = |(index, item): (usize, InputItem)| {
            let task = item_task(&item, index, task, embedder)?;
            Ok((item, task))
        };
        let items: Result<Vec<_>, ApiError> =
            items.into_iter().enumerate().map(with_task).collect();
        Ok(Self {
            items: items?,
            outputs,
            truncate: if truncate {
                Truncate::End
            } else {
                Truncate::Error
            },
            late_chunking: request.late_chunking.unwrap_or(false),
            token_encoding: has_ids.then_some(token_encoding),
            empty: config.empty_input,
        })
    }
}

fn check_count(count: usize, max: usize) -> Result<(), ApiError> {
    if count == 0 {
        return Err(ApiError::invalid_param(
            "input",
            "`input` is empty, expected at least one text",
        ));
    }
    if count > max {
        return Err(ApiError::invalid_param(
            "input",
            format!("`input` has {count} elements, expected at most {max}"),
        )
        .code("array_above_max_length"));
    }
    Ok(())
}

/// The task of an item's own fields, else the request's.
fn item_task(
    item: &InputItem,
    index: usize,
    task: Task,
    embedder: &Embedder,
) -> Result<Task, ApiError> {
    let InputItem::Object(object) = item else {
        return Ok(task);
    };
    let fields = TaskFields {
        task: object.task.as_deref(),
        task_type: object.task_type.as_deref(),
        input_type: object.input_type.as_deref(),
    };
    let own = fields
        .resolve(embedder)
        .map_err(|error| error.param(format!("input[{index}].task")))?;
    Ok(own.unwrap_or(task))
}

impl Outputs {
    fn read(request: &EmbeddingsRequest, embedder: &Embedder) -> Result<Self, ApiError> {
        let asked = request
            .dimensions
            .as_ref()
            .map_or(&[][..], OneOrMany::as_slice);
        let mut dimensions = Vec::new();
        for &size in asked {
            let checked = usize::try_from(size)
                .ok()
                .and_then(|size| embedder.dimensions(size).ok());
            let Some(checked) = checked else {
                let max = embedder.config().hidden_size;
                return Err(ApiError::invalid_param(
                    "dimensions",
                    format!("`dimensions` is {size}, expected 1 to {max}"),
                ));
            };
            dimensions.push(Some(checked));
        }
        if dimensions.is_empty() {
            dimensions.push(None);
        }
        let (param, names) = if let Some(types) = &request.embedding_type {
            ("embedding_type", types.as_slice())
        } else if let Some(types) = &request.encoding_type {
            ("encoding_type", types.as_slice())
        } else if let Some(types) = &request.encoding_format {
            ("encoding_format", types.as_slice())
        } else {
            ("", &[][..])
        };
        let find = |name: &String| {
            let known = EmbeddingType::ALL;
            let found = known.into_iter().find(|(known, _)| known == name);
            found.ok_or_else(|| {
                let known: Vec<String> =
                    known.iter().map(|(name, _)| format!("`{name}`")).collect();
                let name = shortened(name);
                let message = format!("`{param}` is `{name}`, expected {}", known.join(", "));
                ApiError::invalid_param(param, message)
            })
        };
        let mut types: Vec<_> = names.iter().map(find).collect::<Result<_, _>>()?;
        if types.is_empty() {
            types.push(("float", EmbeddingType::Float));
        }
        let normalize = request.normalized.unwrap_or(true);
        let fixed_scale = types.iter().find(|(_, embedding_type)| {
            matches!(embedding_type, EmbeddingType::Int8 | EmbeddingType::Uint8)
        });
        if let (false, Some((name, _))) = (normalize, fixed_scale) {
            return Err(ApiError::invalid_param(
                "normalized",
                format!(
                    "`{name}` has a fixed scale for vectors of length 1, expected `normalized` true"
                ),
            ));
        }
        Ok(Self {
            dimensions,
            types,
            normalize,
        })
    }

    /// Refuses an answer that would not be read but flood memory.
    fn check_numbers(&self, inputs: usize, embedder: &Embedder) -> Result<(), ApiError> {
        let sum: usize = self
            .dimensions
            .iter()
            .map(|&size| width(size, embedder))
            .sum();
        let numbers = inputs.saturating_mul(sum).saturating_mul(self.types.len());
        if numbers > MAX_NUMBERS {
            return Err(ApiError::invalid_param(
                "dimensions",
                format!(
                    "The answer would have {numbers} numbers, expected at most {MAX_NUMBERS}; ask for \
                     fewer sizes, types or inputs"
                ),
            ));
        }
        Ok(())
    }

    /// One text's vector in every size and type, the first alone and all if there are several.
    fn vectors(
        &self,
        sum: &[f32],
        tokens: usize,
        embedder: &Embedder,
    ) -> (Vector, Option<Vec<Variant>>) {
        let mut variants = Vec::with_capacity(self.dimensions.len() * self.types.len());
        for &dimensions in &self.dimensions {
            let options = EmbedOptions {
                dimensions,
                normalize: self.normalize,
                ..EmbedOptions::default()
            };
            let embedding = embedder.finish(sum.to_vec(), tokens, &options);
            for &(name, embedding_type) in &self.types {
                variants.push(Variant {
                    dimensions: embedding.len(),
                    embedding_type: name,
                    embedding: encode(&embedding, embedding_type).into(),
                });
            }
        }
        if variants.len() == 1 {
            (variants.swap_remove(0).embedding, None)
        } else {
            (variants[0].embedding.clone(), Some(variants))
        }
    }
}

fn width(dimensions: Option<Dimensions>, embedder: &Embedder) -> usize {
    dimensions.map_or(embedder.config().hidden_size, Dimensions::value)
}

/// Rows of a request, before they are cut, scaled and encoded.
struct Embedded {
    vectors: Vec<Row>,
    /// What is metered.
    tokens: usize,
    times: StepTimes,
}

/// One answer's sum and receipt.
struct Row {
    /// Zeros where an empty text shall be a vector of zeros.
    sum: Vec<f32>,
    tokens: usize,
    truncated: bool,
    cut_at: Option<usize>,
}

/// Texts and token ids, each on its own.
async fn embed_inputs(asked: Asked, service: &Service, tier: Tier) -> Result<Embedded, ApiError> {
    let count = asked.items.len();
    let truncate = asked.truncate;
    let (places, inputs) = contents(asked, service).await?;
    let embedded = service.batcher.embed(inputs, truncate, tier).await;
    let PooledInputs { pooled, times } = embedded.map_err(|mut error| {
        if let BatchError::Input { index, .. } = &mut error {
            *index = places[*index];
        }
        error
    })?;
    let hidden_size = service.model.embedder.config().hidden_size;
    let empty = || Row {
        sum: vec![0.0; hidden_size],
        tokens: 0,
        truncated: false,
        cut_at: None,
    };
    let mut vectors: Vec<Row> = std::iter::repeat_with(empty).take(count).collect();
    let mut sum = 0;
    for (place, pooled) in places.into_iter().zip(pooled) {
        let Pooled {
            sum: row,
            tokens,
            truncated,
            cut_at,
        } = pooled;
        sum += tokens;
        vectors[place] = Row {
            sum: row,
            tokens,
            truncated,
            cut_at,
        };
    }
    Ok(Embedded {
        vectors,
        tokens: sum,
        times,
    })
}

/// What is to be embedded, and its places in the request: empty texts that shall be zeros are left out.
async fn contents(
    asked: Asked,
    service: &Service,
) -> Result<(Vec<usize>, Vec<OwnedInput>), ApiError> {
    let Asked {
        items,
        token_encoding,
        empty,
        ..
    } = asked;
    let decode = move || {
        let mut places = Vec::with_capacity(items.len());
        let mut inputs = Vec::with_capacity(items.len());
        for (index, (item, task)) in items.into_iter().enumerate() {
            let content = content(index, item, token_encoding.unwrap_or_default())?;
            let is_empty = match &content {
                OwnedContent::Text(text) => text.is_empty(),
                OwnedContent::TokenIds(token_ids) => token_ids.is_empty(),
            };
            match empty {
                EmptyInput::Error if is_empty => return Err(empty_input(index)),
                EmptyInput::Zero if is_empty => continue,
                EmptyInput::Error | EmptyInput::Zero | EmptyInput::Embed => {}
            }
            places.push(index);
            inputs.push(OwnedInput { content, task });
        }
        Ok((places, inputs))
    };
    match token_encoding {
        // Texts are only moved.
        None => decode(),
        Some(_) => service.batcher.blocking(decode).await?,
    }
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

fn empty_input(index: usize) -> ApiError {
    ApiError::invalid_param(
        format!("input[{index}]"),
        format!("Input {index} is empty, expected a text; leave blank documents out"),
    )
}

/// Late chunking in Jina's form: the inputs follow each other in one document.
async fn embed_document(asked: Asked, service: &Service, tier: Tier) -> Result<Embedded, ApiError> {
    let started = std::time::Instant::now();
    let task = asked.items.first().map_or(Task::RAW, |(_, task)| *task);
    if let Some(index) = asked.items.iter().position(|(_, other)| *other != task) {
        return Err(ApiError::invalid_param(
            format!("input[{index}].task"),
            "The chunks of one document have different tasks, expected one",
        ));
    }
    let token_encoding = asked.token_encoding.unwrap_or_default();
    let long = match asked.truncate {
        Truncate::Error => LongDocument::Refuse,
        Truncate::End => LongDocument::Cut,
    };
    let embedder = std::sync::Arc::clone(&service.model.embedder);
    let prepare = move || {
        let mut texts = Vec::with_capacity(asked.items.len());
        for (index, (item, _)) in asked.items.into_iter().enumerate() {
            match content(index, item, token_encoding)? {
                OwnedContent::Text(text) if text.is_empty() => return Err(empty_input(index)),
                OwnedContent::Text(text) => texts.push(text),
                OwnedContent::TokenIds(_) => {
                    return Err(ApiError::invalid_param(
                        format!("input[{index}]"),
                        "Late chunking reads texts, not token ids of the model",
                    ));
                }
            }
        }
        let strings: Vec<&str> = texts.iter().map(String::as_str).collect();
        let document = Document::Strings(&strings);
        embedder
            .prepare_document(document, task, ChunkPooling::default(), long)
            .map_err(|error| refused_document(&error))
    };
    let (document, windows) = service.batcher.blocking(prepare).await??;
    let mut reservation = service.batcher.reservation();
    service
        .batcher
        .reserve(&mut reservation, document.token_ids.len())?;
    if let Some(index) = document.spans.iter().position(Option::is_none) {
        return Err(ApiError::invalid_param(
            format!("input[{index}]"),
            format!(
                "Input {index} lies behind the cut of its document, expected at most 8192 tokens in all"
            ),
        ));
    }
    let tokenize = started.elapsed();
    let forwarded = service
        .batcher
        .forward(windows.sequences.clone(), reservation, tier)
        .await?;
    let embedder = &service.model.embedder;
    let sums = embedder.document_sums(&document, &windows, &forwarded.pooled);
    let vectors = document.spans.iter().flatten().zip(sums.chunks);
    Ok(Embedded {
        vectors: vectors
            .map(|(span, sum)| Row {
                sum,
                tokens: span.len(),
                truncated: false,
                cut_at: None,
            })
            .collect(),
        tokens: document.token_ids.len(),
        times: StepTimes {
            tokenize,
            queue: forwarded.queue_time,
            forward: forwarded.forward_time,
        },
    })
}

fn refused_document(error: &EmbedError) -> ApiError {
    let EmbedError::Document(LateTokenizeError::Span(span)) = error else {
        return refused_input(0, error).param("input");
    };
    let message = error.to_string();
    if let SpanError::Empty { index } = span {
        return ApiError::invalid_param(format!("input[{index}]"), message);
    }
    ApiError::invalid_param("input", message)
}

/// Vectors that are finished and written on the spot; more go to the blocking pool. About 1 ms.
const FEW: usize = 16;

/// Finishes the vectors and writes the body.
async fn written(
    embedded: Embedded,
    outputs: Outputs,
    service: std::sync::Arc<Service>,
) -> Result<Vec<u8>, ApiError> {
    let is_little = embedded.vectors.len() <= FEW;
    let write = move || {
        let embedder = &service.model.embedder;
        let data = embedded.vectors.into_iter().enumerate();
        let data = data.map(|(index, row)| {
            // The mean of an empty text's zeros is zero, whatever it is divided by.
            let divisor = row.tokens.max(1);
            let (embedding, embeddings) = outputs.vectors(&row.sum, divisor, embedder);
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
        let response = EmbeddingsResponse {
            object: "list",
            data: data.collect(),
            model: service.model.id().to_owned(),
            usage: Usage::new(embedded.tokens),
            system_fingerprint: service.model.fingerprint.clone(),
        };
        serde_json::to_vec(&response)
    };
    let json = if is_little {
        write()
    } else {
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|_| ApiError::internal())?
    };
    json.map_err(|error| {
        tracing::error!(%error, "the answer cannot be written");
        ApiError::internal()
    })
}
