//! `/rerank`, by embeddings, and `/predict`, which needs a classifier.

use std::time::Instant;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::{Compute, characters};
use crate::app::SharedApp;
use crate::auth::Caller;
use crate::batcher::Overlong;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::routes::rerank::{self, Sides, ranked};
use crate::routes::rows::Handling;
use crate::routes::{json_response, preferred_wait};
use crate::wire::rerank::{RerankRequest, TeiRank};
use crate::wire::tei::Direction;

/// `POST /rerank`: TEI's clients send `texts` and get a bare list; who sends `documents` gets the answer
/// of `/v1/rerank`.
///
/// # Errors
/// [`ApiError`] for a request that cannot be done, and for one that cannot be done now.
pub async fn rerank(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: JsonBody<RerankRequest>,
) -> Result<Response, ApiError> {
    if body.value.texts.is_none() {
        return rerank::rerank(State(app), Extension(caller), headers, body).await;
    }
    let started = Instant::now();
    let JsonBody { value, bytes } = body;
    let service = app.service(preferred_wait(&headers)).await?;
    let texts = ("texts", value.texts);
    let model_id = value.model.as_deref();
    let sides = Sides::read(model_id, value.query, texts, &app, &service)?;
    let mut returned = sides.texts(value.return_text.unwrap_or(false));
    let characters = characters(sides.inputs());
    let overlong = match (value.truncate, value.truncation_direction) {
        (Some(cut), Some(Direction::Left)) if cut.0 == Overlong::CutEnd => Overlong::CutStart,
        (cut, _) => cut.unwrap_or_default().0,
    };
    let handling = Handling::new(overlong, &app, &caller, &headers);
    let rows = sides.embed(&handling, &app, &service).await?;
    drop(bytes);
    let compute = Compute {
        characters,
        tokens: rows.tokens,
        times: rows.times,
    };
    let are_raw = value.raw_scores.unwrap_or(false);
    let response = json_response(rows.rows.len(), move || {
        let best = ranked(&rows.rows, &service.model.embedder);
        let rank = |(index, cosine): (usize, f32)| TeiRank {
            index,
            text: returned[index].take(),
            score: if are_raw { cosine } else { unit(cosine) },
        };
        best.into_iter().map(rank).collect::<Vec<_>>()
    });
    Ok(compute.told(response.await?, started.elapsed()))
}

/// A cosine as a number from 0 to 1, which is what TEI's clients expect of a score that is not raw.
fn unit(cosine: f32) -> f32 {
    f32::midpoint(1.0, cosine).clamp(0.0, 1.0)
}

/// `POST /predict`: the answer of a server whose model is no classifier.
///
/// # Errors
/// Always.
pub async fn predict() -> Result<Response, ApiError> {
    Err(ApiError::no_classifier())
}
