//! `POST /v1/rerank`: documents by the cosine between their embeddings and the query's.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::classify::task_or_raw;
use super::outputs::{cosine, finished};
use super::rows::{self, Field, Handling, check_count};
use super::{json_response, preferred_wait, requested_task, texts};
use crate::app::SharedApp;
use crate::auth::Caller;
use crate::batcher::{OwnedContent, OwnedInput};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::task_names::TaskFields;
use crate::wire::embeddings::Usage;
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
    let embedder = &service.model.embedder;
    let by_model = requested_task(
        value.model.as_deref(),
        TaskFields::default(),
        &service.model,
    )?;
    let task = |name| by_model.unwrap_or_else(|| task_or_raw(embedder, name));
    let query = texts("query", value.query, task("retrieval.query"), embedder)?;
    let documents = texts(
        "documents",
        value.documents,
        task("retrieval.passage"),
        embedder,
    )?;
    if query.len() != 1 {
        return Err(ApiError::invalid_param(
            "query",
            format!("`query` has {} elements, expected one text", query.len()),
        ));
    }
    check_count("documents", documents.len(), app.config.limits.inputs)?;
    let returned = returned_texts(&documents, value.return_documents.unwrap_or(true));
    let fields = [
        Field::One("query"),
        Field::List("documents", documents.len()),
    ];
    let inputs = query.into_iter().chain(documents).collect();
    let overlong = value.truncate.unwrap_or_default().0;
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let rows = rows::embed(inputs, &handling, &service, &fields).await?;
    app.metrics
        .embedded(rows.rows.len(), rows.tokens, rows.times);
    drop(bytes);
    let top_n = value.top_n.unwrap_or(usize::MAX);
    json_response(rows.rows.len(), move || {
        let embedder = &service.model.embedder;
        let mut vectors = rows
            .rows
            .iter()
            .map(|row| finished(row, None, true, embedder));
        let query = vectors.next().unwrap_or_default();
        let scored = vectors.zip(rows.rows.iter().skip(1)).zip(returned);
        let mut results: Vec<Ranked> = scored
            .enumerate()
            .map(|(index, ((vector, row), document))| Ranked {
                index,
                relevance_score: cosine(&query, &vector),
                document,
                truncated: row.truncated,
            })
            .collect();
        // A stable sort: equal scores stay in the order of the request.
        results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
        results.truncate(top_n);
        RerankResponse {
            object: "list",
            results,
            model: service.model.id().to_owned(),
            method: "bi-encoder",
            usage: Usage::new(rows.tokens),
            system_fingerprint: service.model.fingerprint.clone(),
        }
    })
    .await
}

/// The documents as the answer repeats them.
fn returned_texts(documents: &[OwnedInput], wanted: bool) -> Vec<Option<RankedDocument>> {
    let text = |document: &OwnedInput| match &document.content {
        OwnedContent::Text(text) if wanted => Some(RankedDocument { text: text.clone() }),
        OwnedContent::Text(_) | OwnedContent::TokenIds(_) => None,
    };
    documents.iter().map(text).collect()
}
