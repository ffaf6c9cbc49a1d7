//! `POST /v2/embed`: Cohere's.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::outputs::Outputs;
use super::rows::{self, Field, Handling, check_count};
use super::{default_task, json_response, preferred_wait, requested_task};
use crate::app::SharedApp;
use crate::auth::Caller;
use crate::batcher::{Overlong, OwnedContent, OwnedInput};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::observe::RequestId;
use crate::task_names::TaskFields;
use crate::wire::cohere::{
    ApiVersion, BilledUnits, CohereEmbedRequest, CohereEmbedResponse, CohereInput, CohereMeta,
};
use crate::wire::embeddings::Vector;

/// Texts of one request at most, as at Cohere's.
const MAX_TEXTS: usize = 96;

/// The handler.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn embed(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: JsonBody<CohereEmbedRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let embedder = &service.model.embedder;
    let fields = TaskFields {
        input_type: value.input_type.as_deref(),
        ..TaskFields::default()
    };
    let task = match requested_task(value.model.as_deref(), fields, &service.model)? {
        Some(task) => task,
        None => default_task(&caller, &app.config, embedder)?,
    };
    let sizes = ("output_dimension", value.output_dimension.as_slice());
    let types = value.embedding_types.as_deref().unwrap_or_default();
    let outputs = Outputs::read(sizes, ("embedding_types", types), None, embedder)?;
    if value.images.is_some_and(|images| !images.is_empty()) {
        return Err(ApiError::invalid_param(
            "images",
            "The model reads texts only, expected `texts`",
        ));
    }
    let texts = match (value.texts, value.inputs) {
        (Some(texts), None) => texts,
        (None, Some(inputs)) => joined(inputs)?,
        _ => {
            return Err(ApiError::invalid_param(
                "texts",
                "Expected either `texts` or `inputs`",
            ));
        }
    };
    check_count(
        "texts",
        texts.len(),
        app.config.limits.inputs.min(MAX_TEXTS),
    )?;
    outputs.check_numbers(texts.len(), embedder)?;
    let fields = [Field::List("texts", texts.len())];
    let inputs = texts.iter().map(|text| OwnedInput {
        content: OwnedContent::Text(text.clone()),
        task,
    });
    let overlong = value.truncate.map_or(Overlong::CutEnd, |field| field.0);
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let rows = rows::embed(inputs.collect(), &handling, &service, &fields).await?;
    app.metrics
        .embedded(rows.rows.len(), rows.tokens, rows.times);
    drop(bytes);
    json_response(rows.rows.len(), move || {
        let embedder = &service.model.embedder;
        let mut embeddings: BTreeMap<&'static str, Vec<Vector>> = BTreeMap::new();
        let mut warnings = Vec::new();
        for (index, row) in rows.rows.iter().enumerate() {
            for variant in outputs.variants(row, embedder) {
                let of_type = embeddings.entry(variant.embedding_type).or_default();
                of_type.push(variant.embedding);
            }
            if row.truncated {
                warnings.push(format!("text {index} was cut to {} tokens", row.tokens));
            }
        }
        CohereEmbedResponse {
            id,
            response_type: "embeddings_by_type",
            embeddings,
            texts,
            meta: CohereMeta {
                api_version: ApiVersion { version: "2" },
                billed_units: BilledUnits {
                    input_tokens: rows.tokens,
                },
                warnings,
            },
        }
    })
    .await
}

/// The newer form's texts, their parts on lines of their own.
fn joined(inputs: Vec<CohereInput>) -> Result<Vec<String>, ApiError> {
    let text = |(index, input): (usize, CohereInput)| {
        let parts: Option<Vec<String>> = input.content.into_iter().map(|part| part.text).collect();
        parts.map(|parts| parts.join("\n")).ok_or_else(|| {
            ApiError::invalid_param(
                format!("inputs[{index}]"),
                format!("`inputs[{index}]` has a part without `text`; the model reads texts only"),
            )
        })
    };
    inputs.into_iter().enumerate().map(text).collect()
}
