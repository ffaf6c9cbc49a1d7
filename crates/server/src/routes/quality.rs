//! `POST /v1/quality`: what the sizes and types of vectors cost on the caller's own collection.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use quintet_engine::quality::{
    BeirCollection, BeirFiles, Collection, Measurement, Vectors, evaluate, recommended,
};

use super::classify::task_or_raw;
use super::outputs::finished;
use super::rows::{self, Field, Handling, Row};
use super::{json_response, preferred_wait};
use crate::app::{Service, SharedApp};
use crate::auth::Caller;
use crate::batcher::{OwnedContent, OwnedInput};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::wire::embeddings::Usage;
use crate::wire::quality::{CollectionField, Measured, QualityRequest, QualityResponse, Texts};

/// Places of recall where the request does not say.
const RECALL_AT: usize = 10;
const MAX_RECALL_AT: usize = 1000;
/// What is to be kept where the request does not say.
const KEEP: f64 = 0.98;

/// The handler.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn quality(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<QualityRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    if let Some(id) = &value.model {
        service.model.resolve(id)?;
    }
    let recall_at = recall_at(value.recall_at)?;
    let keep = keep(value.keep)?;
    let Read {
        collection,
        left_out,
        is_beir,
    } = read(value.collection).await?;
    let documents = collection.documents.len();
    let count = documents + collection.queries.len();
    check_size(count, app.config.limits.inputs)?;
    let inputs = inputs(&collection, &service);
    let lines = lines(&collection, is_beir);
    let overlong = value.truncate.unwrap_or_default().0;
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let rows = rows::embed(inputs, &handling, &service, &[Field::Lines(&lines)]).await?;
    app.metrics.embedded(count, rows.tokens, rows.times);
    drop(bytes);
    json_response(count, move || {
        let tokens = rows.tokens;
        let vectors = vectors(&rows.rows, documents, &service);
        let sizes = &service.model.embedder.config().matryoshka_dimensions;
        let measurements = evaluate(&collection, &vectors, sizes, recall_at);
        QualityResponse {
            object: "quality",
            documents: Texts {
                count: documents,
                tokens: vectors.document_tokens,
                left_out,
            },
            queries: Texts {
                count: collection.queries.len(),
                tokens: vectors.query_tokens,
                left_out: None,
            },
            recall_at,
            precision: service.model.embedder.precision().name(),
            recommended: reference(&measurements)
                .and_then(|reference| recommended(&measurements, reference, keep)),
            measurements: measured(&measurements),
            keep,
            model: service.model.id().to_owned(),
            usage: Usage::new(tokens),
            system_fingerprint: service.model.fingerprint.clone(),
        }
    })
    .await
}

fn recall_at(asked: Option<i64>) -> Result<usize, ApiError> {
    let Some(asked) = asked else {
        return Ok(RECALL_AT);
    };
    let places = usize::try_from(asked).ok();
    let places = places.filter(|places| (1..=MAX_RECALL_AT).contains(places));
    places.ok_or_else(|| {
        ApiError::invalid_param(
            "recall_at",
            format!("`recall_at` is {asked}, expected 1 to {MAX_RECALL_AT}"),
        )
    })
}

fn keep(asked: Option<f64>) -> Result<f64, ApiError> {
    let keep = asked.unwrap_or(KEEP);
    if (0.0..=1.0).contains(&keep) {
        return Ok(keep);
    }
    Err(ApiError::invalid_param(
        "keep",
        format!("`keep` is {keep}, expected 0 to 1"),
    ))
}

/// A collection, and where it came from.
struct Read {
    collection: Collection,
    /// Documents of a BEIR folder that have no text, if there are any.
    left_out: Option<usize>,
    is_beir: bool,
}

/// On the blocking pool, for a collection may be as large as a body.
async fn read(field: Option<CollectionField>) -> Result<Read, ApiError> {
    let Some(field) = field else {
        return Err(ApiError::invalid_param(
            "collection",
            "The field `collection` is missing, expected documents and queries as JSONL or CSV",
        ));
    };
    let read = tokio::task::spawn_blocking(move || match field {
        CollectionField::Text(text) => match Collection::read(&text) {
            Ok(collection) => Ok(Read {
                collection,
                left_out: None,
                is_beir: false,
            }),
            Err(error) => Err(refused(&error, error.hint())),
        },
        CollectionField::Beir {
            corpus,
            queries,
            qrels,
        } => read_beir(&corpus, &queries, &qrels),
    });
    read.await.map_err(|_| ApiError::internal())?
}

fn read_beir(corpus: &str, queries: &str, qrels: &str) -> Result<Read, ApiError> {
    let read = BeirCollection::read(&BeirFiles {
        corpus,
        queries,
        qrels,
        qrels_name: "qrels",
    });
    let BeirCollection {
        collection,
        empty_documents,
    } = read.map_err(|error| refused(&error, error.hint()))?;
    Ok(Read {
        collection,
        left_out: (empty_documents > 0).then_some(empty_documents),
        is_beir: true,
    })
}

/// In a sentence, with what caused it and what to do.
fn refused(error: &dyn std::error::Error, hint: Option<&str>) -> ApiError {
    let mut words = error.to_string();
    if let Some(source) = error.source() {
        words = format!("{words}: {source}");
    }
    if let Some(hint) = hint {
        words = format!("{words}; {hint}");
    }
    let (first, rest) = words.split_at(1);
    ApiError::invalid_param("collection", first.to_uppercase() + rest).code("invalid_collection")
}

fn check_size(texts: usize, max: usize) -> Result<(), ApiError> {
    if texts <= max {
        return Ok(());
    }
    let message = format!(
        "The collection has {texts} documents and queries, expected at most {max}; `quintet tune` measures \
         larger ones"
    );
    Err(ApiError::invalid_param("collection", message).code("array_above_max_length"))
}

/// Documents, then queries.
fn inputs(collection: &Collection, service: &Service) -> Vec<OwnedInput> {
    let task = |name| task_or_raw(&service.model.embedder, name);
    let (query, passage) = (task("retrieval.query"), task("retrieval.passage"));
    let documents = collection.documents.iter();
    let documents = documents.map(|it| (&it.text, passage));
    let queries = collection.queries.iter();
    let queries = queries.map(|it| (&it.text, query));
    let inputs = documents.chain(queries).map(|(text, task)| OwnedInput {
        content: OwnedContent::Text(text.clone()),
        task,
    });
    inputs.collect()
}

/// Where the inputs stand, in words.
fn lines(collection: &Collection, is_beir: bool) -> Vec<String> {
    let words = |line, file| match is_beir {
        true => format!("line {line} of {file}"),
        false => format!("line {line}"),
    };
    let documents = collection.documents.iter();
    let documents = documents.map(|it| words(it.line, BeirFiles::CORPUS));
    let queries = collection.queries.iter();
    let queries = queries.map(|it| words(it.line, BeirFiles::QUERIES));
    documents.chain(queries).collect()
}

fn vectors(rows: &[Row], documents: usize, service: &Service) -> Vectors {
    let (documents, queries) = rows.split_at(documents);
    let tokens = |rows: &[Row]| rows.iter().map(|row| row.tokens).sum();
    let pooled = |rows: &[Row]| {
        let rows = rows.iter();
        rows.map(|row| finished(row, None, false, &service.model.embedder))
            .collect()
    };
    Vectors {
        document_tokens: tokens(documents),
        query_tokens: tokens(queries),
        documents: pooled(documents),
        queries: pooled(queries),
    }
}

/// Floats at full size.
fn reference(measurements: &[Measurement]) -> Option<&Measurement> {
    let floats = measurements
        .iter()
        .filter(|it| it.embedding_type == "float");
    floats.max_by_key(|it| it.dimensions)
}

fn measured(measurements: &[Measurement]) -> Vec<Measured> {
    let Some(reference) = reference(measurements) else {
        return Vec::new();
    };
    let measured = measurements.iter().map(|it| {
        let difference = it.difference(reference);
        Measured {
            dimensions: it.dimensions,
            embedding_type: it.embedding_type,
            bytes: it.bytes,
            ndcg: it.mean_ndcg(),
            recall: it.mean_recall(),
            difference: difference.mean,
            interval: difference.interval,
        }
    });
    measured.collect()
}
