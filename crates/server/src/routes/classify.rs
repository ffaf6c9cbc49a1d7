//! `POST /v1/classify`: zero-shot, each text to the label whose embedding is nearest.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use quintet_engine::{Embedder, Task};

use super::outputs::{cosine, finished};
use super::rows::{self, Field, Handling, check_count};
use super::{json_response, preferred_wait, requested_task, texts};
use crate::app::SharedApp;
use crate::auth::Caller;
use crate::batcher::{OwnedContent, OwnedInput};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::task_names::TaskFields;
use crate::wire::classify::{Classification, ClassifyRequest, ClassifyResponse, Prediction};
use crate::wire::embeddings::Usage;

/// Scores in one answer at most, about 20 MB of JSON.
const MAX_PREDICTIONS: usize = 200_000;

/// The handler.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn classify(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<ClassifyRequest>,
) -> Result<Response, ApiError> {
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let embedder = &service.model.embedder;
    if value.classifier_id.is_some() {
        return Err(ApiError::invalid_param(
            "classifier_id",
            "There are no trained classifiers here, expected `labels`",
        ));
    }
    let by_model = requested_task(
        value.model.as_deref(),
        TaskFields::default(),
        &service.model,
    )?;
    let task = by_model.unwrap_or_else(|| task_or_raw(embedder, "classification"));
    let inputs = texts("input", value.input, task, embedder)?;
    let labels = value.labels.unwrap_or_default();
    let max = app.config.limits.inputs;
    check_count("labels", labels.len(), max)?;
    check_count("input", inputs.len(), max)?;
    let predictions = inputs.len() * labels.len();
    if predictions > MAX_PREDICTIONS {
        return Err(ApiError::invalid_param(
            "input",
            format!(
                "The answer would have {predictions} scores, expected at most {MAX_PREDICTIONS}; \
                 send fewer inputs or labels"
            ),
        ));
    }
    let fields = [
        Field::List("input", inputs.len()),
        Field::List("labels", labels.len()),
    ];
    let label_inputs = labels.iter().map(|label| OwnedInput {
        content: OwnedContent::Text(label.clone()),
        task,
    });
    let inputs = inputs.into_iter().chain(label_inputs).collect();
    let overlong = value.truncate.unwrap_or_default().0;
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let rows = rows::embed(inputs, &handling, &service, &fields).await?;
    app.metrics
        .embedded(rows.rows.len(), rows.tokens, rows.times);
    drop(bytes);
    json_response(rows.rows.len(), move || {
        let embedder = &service.model.embedder;
        let finish = |row| finished(row, None, true, embedder);
        let (inputs, label_rows) = rows.rows.split_at(rows.rows.len() - labels.len());
        let label_vectors: Vec<Vec<f32>> = label_rows.iter().map(finish).collect();
        let data = inputs.iter().enumerate().map(|(index, row)| {
            let vector = finish(row);
            let similarities: Vec<f32> = label_vectors
                .iter()
                .map(|label| cosine(&vector, label))
                .collect();
            let mut classification = classified(index, &labels, &similarities);
            classification.truncated = row.truncated;
            classification
        });
        ClassifyResponse {
            object: "list",
            data: data.collect(),
            model: service.model.id().to_owned(),
            usage: Usage::new(rows.tokens),
            system_fingerprint: service.model.fingerprint.clone(),
        }
    })
    .await
}

/// The task of this name, or none where the model lacks it.
pub(super) fn task_or_raw(embedder: &Embedder, name: &str) -> Task {
    embedder.task(name).unwrap_or(Task::RAW)
}

/// The scores are the softmax of the cosines.
fn classified(index: usize, labels: &[String], similarities: &[f32]) -> Classification {
    let exponentials: Vec<f64> = similarities
        .iter()
        .map(|&similarity| f64::from(similarity).exp())
        .collect();
    let sum: f64 = exponentials.iter().sum();
    let predictions: Vec<Prediction> = labels
        .iter()
        .zip(similarities)
        .zip(&exponentials)
        .map(|((label, &similarity), exponential)| Prediction {
            label: label.clone(),
            score: exponential / sum,
            similarity,
        })
        .collect();
    // The first of equals.
    let best = predictions.iter().reduce(|best, other| {
        if other.score > best.score {
            other
        } else {
            best
        }
    });
    let (prediction, score) = best
        .map(|best| (best.label.clone(), best.score))
        .unwrap_or_default();
    Classification {
        object: "classification",
        index,
        prediction,
        score,
        predictions,
        truncated: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_add_up_to_one_and_the_first_of_equals_wins() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let found = classified(0, &labels, &[0.5, 0.9, 0.9]);
        assert_eq!(found.prediction, "b");
        let sum: f64 = found.predictions.iter().map(|found| found.score).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }
}
