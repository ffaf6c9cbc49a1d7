//! Around every keyed request of a hosted service: it is counted, let in, and billed once its answer
//! is ready.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::batcher::Tier;
use crate::error::ApiError;
use crate::hosting::Hosting;
use crate::metering::limits::go_duration;
use crate::metering::{Allowances, PicoUsd, Refused};
use crate::model::Model;
use crate::store::keys::Key;
use crate::store::{Charge, Settled, StoreError, WorkRequest};

/// One request's meter.
#[derive(Debug)]
pub struct Meter {
    hosting: Arc<Hosting>,
    key: Arc<Key>,
    request_id: String,
    tier: Tier,
    /// What makes another request the same, beside its body.
    sameness: Sha256,
    /// Whether it is a line of a batch, which no limit by the minute counts.
    is_line: bool,
    readings: Mutex<Readings>,
}

/// What the meter has read so far.
#[derive(Debug, Default)]
struct Readings {
    body_digest: Option<[u8; 32]>,
    charge: Option<Charge>,
    allowances: Option<Allowances>,
    was_counted: bool,
}

impl Meter {
    /// Of a request that was just let through the door.
    pub(crate) fn new(
        hosting: &Arc<Hosting>,
        key: &Arc<Key>,
        request_id: String,
        tier: Tier,
        path: &str,
        headers: &HeaderMap,
    ) -> Self {
        let mut sameness = Sha256::new();
        let idempotency_key = headers.get("idempotency-key");
        let idempotency_key = idempotency_key.map_or(&[][..], HeaderValue::as_bytes);
        let tier_byte = [u8::from(tier == Tier::Batch)];
        for part in [
            key.id.as_bytes(),
            path.as_bytes(),
            &tier_byte,
            idempotency_key,
        ] {
            sameness.update((part.len() as u64).to_le_bytes());
            sameness.update(part);
        }
        Self {
            hosting: Arc::clone(hosting),
            key: Arc::clone(key),
            request_id,
            tier,
            sameness,
            is_line: false,
            readings: Mutex::default(),
        }
    }

    /// Of a line of a batch. It is never the same as another; whoever runs the batch takes its charge.
    pub(crate) fn of_line(hosting: &Arc<Hosting>, key: &Arc<Key>, request_id: String) -> Self {
        Self {
            hosting: Arc::clone(hosting),
            key: Arc::clone(key),
            request_id,
            tier: Tier::Batch,
            sameness: Sha256::new(),
            is_line: true,
            readings: Mutex::default(),
        }
    }

    /// What is set aside for the request, to be settled elsewhere.
    pub(crate) fn take_charge(&self) -> Option<Charge> {
        self.readings().charge.take()
    }

    fn readings(&self) -> MutexGuard<'_, Readings> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears the body. A request without one is never the same as another.
    pub(crate) fn read(&self, body: &[u8]) {
        let digest = self.sameness.clone().chain_update(body).finalize();
        self.readings().body_digest = Some(digest.into());
    }

    /// Counts a request that costs nothing. While the database is down it is let in uncounted.
    ///
    /// # Errors
    /// 429 over the limit.
    pub(crate) async fn count(&self) -> Result<(), ApiError> {
        self.readings().was_counted = true;
        let limits = self.hosting.config.limits;
        match self.hosting.store.count(&self.key.id, limits).await {
            Ok(counted) => self.let_in(counted),
            Err(StoreError::Database(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the work in and sets its price aside. Gives the price. Tasks come with their tokens.
    ///
    /// # Errors
    /// 402 where credit or budget do not cover it, 403 for models and tasks that are not this key's,
    /// 429 over the limits, 503 while the database is down.
    pub(crate) async fn admit(
        &self,
        model: &Model,
        tasks: Vec<(&str, usize)>,
    ) -> Result<PicoUsd, ApiError> {
        self.check_reach(model.id(), &tasks)?;
        let digest = {
            let mut readings = self.readings();
            readings.was_counted = true;
            readings.body_digest
        };
        let work = WorkRequest {
            tokens: tasks.iter().map(|(_, tokens)| *tokens as u64).sum(),
            price: self.hosting.price(model.id()).of_token(self.tier),
            model: model.id().to_owned(),
            tier: self.tier,
            request_id: self.request_id.clone(),
            tasks: tasks
                .into_iter()
                .map(|(task, tokens)| (task.to_owned(), tokens as u64))
                .collect(),
            digest,
        };
        let store = &self.hosting.store;
        let admitted = if self.is_line {
            store.admit_line(&self.key.id, work).await?
        } else {
            let limits = self.hosting.config.limits;
            store.admit(&self.key.id, work, limits).await?
        };
        let (charge, allowances) = match admitted {
            Ok((charge, allowances)) => (charge, Ok(allowances)),
            Err(refused) => return self.let_in(Err(refused)).map(|()| PicoUsd::ZERO),
        };
        let amount = charge.amount();
        self.readings().charge = Some(charge);
        self.let_in(allowances)?;
        Ok(amount)
    }

    /// Keeps what is left of the limits for the answer, which tells it of a refusal too.
    fn let_in(&self, answer: Result<Allowances, Refused>) -> Result<(), ApiError> {
        let (allowances, refusal) = match answer {
            Ok(allowances) => (allowances, None),
            Err(refused) => (refused.allowances, Some(refused.refusal)),
        };
        self.readings().allowances = Some(allowances);
        match refusal {
            None => Ok(()),
            Some(refusal) => {
                tracing::debug!(key = self.key.id, %refusal, "refused");
                Err(refusal.into())
            }
        }
    }

    /// Whether the key may call this model under these tasks.
    fn check_reach(&self, model: &str, tasks: &[(&str, usize)]) -> Result<(), ApiError> {
        let is_among = |list: &Option<Vec<String>>, name: &str| {
            list.as_ref()
                .is_none_or(|list| list.iter().any(|known| known == name))
        };
        if !is_among(&self.key.models, model) {
            return Err(ApiError::not_allowed("model", model));
        }
        match tasks
            .iter()
            .find(|(task, _)| !is_among(&self.key.tasks, task))
        {
            Some((task, _)) => Err(ApiError::not_allowed("task", task)),
            None => Ok(()),
        }
    }

    /// Bills the request if it was answered, gives its price back if not, and writes what is left of
    /// the limits into the answer.
    pub(crate) async fn finish(&self, mut response: Response) -> Response {
        let (charge, allowances) = {
            let mut readings = self.readings();
            if !readings.was_counted {
                let limits = self.hosting.config.limits;
                self.hosting.store.count_later(&self.key.id, limits);
            }
            (readings.charge.take(), readings.allowances)
        };
        // Dropped where the request failed.
        if let Some(charge) = charge.filter(|_| response.status().is_success()) {
            match charge.settle().await {
                Ok(Settled::Billed(cost)) => {
                    if let Ok(value) = HeaderValue::from_str(&cost.to_string()) {
                        response.headers_mut().insert(X_COST_USD, value);
                    }
                }
                Ok(Settled::Uncovered) => response = ApiError::uncovered().into_response(),
                Err(error) => response = ApiError::from(error).into_response(),
            }
        }
        if let Some(allowances) = allowances {
            write_limits(response.headers_mut(), allowances);
        }
        response
    }
}

/// What a request cost, in dollars.
pub(crate) const X_COST_USD: HeaderName = HeaderName::from_static("x-cost-usd");

/// OpenAI's headers.
fn write_limits(headers: &mut HeaderMap, allowances: Allowances) {
    let names = [
        (
            allowances.requests,
            [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
        ),
        (
            allowances.tokens,
            [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
        ),
    ];
    for (left, [limit, remaining, reset]) in names {
        let Some(left) = left else {
            continue;
        };
        headers.insert(HeaderName::from_static(limit), left.limit.into());
        headers.insert(HeaderName::from_static(remaining), left.remaining.into());
        if let Ok(value) = HeaderValue::from_str(&go_duration(left.reset)) {
            headers.insert(HeaderName::from_static(reset), value);
        }
    }
}
