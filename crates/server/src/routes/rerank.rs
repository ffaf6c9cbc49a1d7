//! `POST /v1/rerank`: documents by the cosine between their embeddings and the query's.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use quintet_engine::Embedder;

use super::classify::task_or_raw;
use super::outputs::{cosine, finished};
use super::rows::{self, Field, Handling, Row, Rows, check_count};
use super::{json_response, preferred_wait, requested_task, texts};
use crate::app::{App, Service, SharedApp};
use crate::auth::Caller;
use crate::batcher::{OwnedContent, OwnedInput};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::task_names::TaskFields;
use crate::wire::embeddings::Usage;
use crate::wire::input::InputList;
use crate::wire::rerank::{Ranked, RankedDocument, RerankRequest, RerankResponse};

/// The handler.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn rerank(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<RerankRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let documents = ("documents", value.documents.or(value.texts));
    let model_id = value.model.as_deref();
    let sides = Sides::read(model_id, value.query, documents, &app, &service)?;
    let is_wanted = value.return_documents.or(value.return_text).unwrap_or(true);
    let mut returned = sides.texts(is_wanted);
    let overlong = value.truncate.unwrap_or_default().0;
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let rows = sides.embed(&handling, &app, &service).await?;
    drop(bytes);
    let top_n = value.top_n.unwrap_or(usize::MAX);
    json_response(rows.rows.len(), move || {
        let best = ranked(&rows.rows, &service.model.embedder);
        let results = best.into_iter().take(top_n).map(|(index, cosine)| Ranked {
            index,
            relevance_score: cosine,
            document: returned[index].take().map(|text| RankedDocument { text }),
            truncated: rows.rows[index + 1].truncated,
        });
        RerankResponse {
            object: "list",
            results: results.collect(),
            model: service.model.id().to_owned(),
            method: "bi-encoder",
            usage: Usage::new(rows.tokens),
            system_fingerprint: service.model.fingerprint.clone(),
        }
    })
    .await
}

/// What is compared: the query, then the documents.
pub(super) struct Sides {
    inputs: Vec<OwnedInput>,
    /// The documents' name in the request.
    field: &'static str,
}

impl Sides {
    /// A request's, each side with its retrieval task unless the model's id names one.
    ///
    /// # Errors
    /// [`ApiError`] naming the field that is missing or wrong.
    pub(super) fn read(
        model_id: Option<&str>,
        query: Option<InputList>,
        (field, documents): (&'static str, Option<InputList>),
        app: &App,
        service: &Service,
    ) -> Result<Self, ApiError> {
        let embedder = &service.model.embedder;
        let by_model = requested_task(model_id, TaskFields::default(), &service.model)?;
        let task = |name| by_model.unwrap_or_else(|| task_or_raw(embedder, name));
        let mut inputs = texts("query", query, task("retrieval.query"), embedder)?;
        if inputs.len() != 1 {
            return Err(ApiError::invalid_param(
                "query",
                format!("`query` has {} elements, expected one text", inputs.len()),
            ));
        }
        let documents = texts(field, documents, task("retrieval.passage"), embedder)?;
        check_count(field, documents.len(), app.config.limits.inputs)?;
        inputs.extend(documents);
        Ok(Self { inputs, field })
    }

    /// All inputs, for what is counted of them.
    pub(super) fn inputs(&self) -> &[OwnedInput] {
        &self.inputs
    }

    /// The documents as the answer repeats them.
    pub(super) fn texts(&self, is_wanted: bool) -> Vec<Option<String>> {
        let text = |document: &OwnedInput| match &document.content {
            OwnedContent::Text(text) if is_wanted => Some(text.clone()),
            OwnedContent::Text(_) | OwnedContent::TokenIds(_) => None,
        };
        self.inputs[1..].iter().map(text).collect()
    }

    /// The rows of both sides.
    ///
    /// # Errors
    /// [`ApiError`] naming the text that is refused, or that there is no room now.
    pub(super) async fn embed(
        self,
        handling: &Handling,
        app: &App,
        service: &Service,
    ) -> Result<Rows, ApiError> {
        let documents = self.inputs.len() - 1;
        let fields = [Field::One("query"), Field::List(self.field, documents)];
        let rows = rows::embed(self.inputs, handling, service, &fields).await?;
        app.metrics
            .embedded(rows.rows.len(), rows.tokens, rows.times);
        Ok(rows)
    }
}

/// Place and cosine of each document, best first; equal ones stay in the order of the request.
pub(super) fn ranked(rows: &[Row], embedder: &Embedder) -> Vec<(usize, f32)> {
    let mut vectors = rows.iter().map(|row| finished(row, None, true, embedder));
    let query = vectors.next().unwrap_or_default();
    let mut cosines: Vec<_> = vectors
        .map(|vector| cosine(&query, &vector))
        .enumerate()
        .collect();
    cosines.sort_by(|a, b| b.1.total_cmp(&a.1));
    cosines
}
