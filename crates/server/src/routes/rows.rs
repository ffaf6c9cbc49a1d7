//! From checked inputs to pooled rows: the steps that every embedding route shares.

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use quintet_engine::{EmbedError, Task};

use super::tier;
use crate::app::{App, Service};
use crate::auth::Caller;
use crate::batcher::{BatchError, Overlong, OwnedContent, OwnedInput, StepTimes, Tier, Tokenized};
use crate::budget::Reservation;
use crate::config::EmptyInput;
use crate::error::{ApiError, refused_input};
use crate::metering::PicoUsd;
use crate::model::Model;

/// Rows of a request, before they are cut, scaled and encoded.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    /// What is metered.
    pub(crate) tokens: usize,
    pub(crate) times: StepTimes,
    /// What they cost; `None` where nothing is billed.
    pub(crate) cost: Option<PicoUsd>,
}

/// One text's sum and receipt.
#[derive(Debug)]
pub(crate) struct Row {
    /// Zeros where an empty text shall be a vector of zeros.
    pub(crate) sum: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) truncated: bool,
    pub(crate) cut_at: Option<usize>,
}

/// How texts are met that are too long or empty, whose turn comes first, and who pays.
#[derive(Debug, Clone)]
pub(crate) struct Handling {
    pub(crate) overlong: Overlong,
    pub(crate) empty: EmptyInput,
    pub(crate) tier: Tier,
    pub(crate) caller: Caller,
}

impl Handling {
    /// Of a request by its headers and caller.
    pub(crate) fn new(overlong: Overlong, app: &App, caller: &Caller, headers: &HeaderMap) -> Self {
        Self::of_tier(overlong, app, caller, tier(headers))
    }

    /// Of a request that has no headers.
    pub(crate) fn of_tier(overlong: Overlong, app: &App, caller: &Caller, tier: Tier) -> Self {
        Self {
            overlong,
            empty: app.config.empty_input,
            tier,
            caller: caller.clone(),
        }
    }

    /// Lets work of the model in, where it is metered: every text's task and tokens. Gives its price.
    ///
    /// # Errors
    /// [`ApiError`] where key, limits or credit do not reach so far.
    pub(crate) async fn admit(
        &self,
        model: &Model,
        texts: impl IntoIterator<Item = (Task, usize)>,
    ) -> Result<Option<PicoUsd>, ApiError> {
        let Some(meter) = &self.caller.meter else {
            return Ok(None);
        };
        let mut tasks: Vec<(&str, usize)> = Vec::new();
        for (task, tokens) in texts {
            let name = model.task_name(task);
            match tasks.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += tokens,
                None => tasks.push((name, tokens)),
            }
        }
        tasks.sort_by_key(|(_, tokens)| std::cmp::Reverse(*tokens));
        meter.admit(model, tasks).await.map(Some)
    }
}

/// A field of the request that inputs came from, to name them in errors.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field<'a> {
    /// A field with one text.
    One(&'static str),
    /// A field with a list of so many.
    List(&'static str, usize),
    /// A text of many lines: where each input stands, in words.
    Lines(&'a [String]),
}

/// The name of the input at `index` of those that the fields hold one after the other.
fn named(fields: &[Field], mut index: usize) -> String {
    for field in fields {
        match *field {
            Field::One(name) if index == 0 => return name.to_owned(),
            Field::One(_) => index -= 1,
            Field::List(name, len) if index < len => return format!("{name}[{index}]"),
            Field::List(_, len) => index -= len,
            Field::Lines(lines) if index < lines.len() => return lines[index].clone(),
            Field::Lines(lines) => index -= lines.len(),
        }
    }
    format!("input[{index}]")
}

/// A refusal in the words of the request's fields.
pub(crate) fn refused(error: BatchError, fields: &[Field]) -> ApiError {
    let is_long = matches!(error, BatchError::RequestTooLong { .. });
    if let BatchError::Input { index, source } = error {
        return refused_input(index, &source).param(named(fields, index));
    }
    let refused = ApiError::from(error);
    match fields.last() {
        Some(Field::One(name) | Field::List(name, _)) if is_long => refused.param(*name),
        Some(Field::Lines(_)) if is_long => refused.param("collection"),
        _ => refused,
    }
}

/// Texts that were tokenised, each on its own, and have their room in the queue.
#[derive(Debug)]
pub(crate) struct Texts {
    /// Inputs of the request.
    count: usize,
    /// Those of them that are not left out.
    places: Vec<usize>,
    tokenized: Vec<Tokenized>,
    reservation: Reservation,
    tokenize: Duration,
}

/// Tokenises inputs, each on its own.
///
/// # Errors
/// [`ApiError`] naming the field that is refused.
pub(crate) async fn prepare(
    inputs: Vec<OwnedInput>,
    handling: &Handling,
    service: &Service,
    fields: &[Field<'_>],
) -> Result<Texts, ApiError> {
    let count = inputs.len();
    let (places, inputs) = without_empty(inputs, handling.empty, fields)?;
    let started = Instant::now();
    let tokenized = service.batcher.tokenize(inputs, handling.overlong).await;
    let (tokenized, reservation) = tokenized.map_err(|mut error| {
        if let BatchError::Input { index, .. } = &mut error {
            *index = places[*index];
        }
        refused(error, fields)
    })?;
    Ok(Texts {
        count,
        places,
        tokenized,
        reservation,
        tokenize: started.elapsed(),
    })
}

impl Texts {
    /// What is metered.
    pub(crate) fn tokens(&self) -> usize {
        let texts = self.tokenized.iter();
        texts
            .map(|text| text.prepared.sequence.token_ids.len())
            .sum()
    }

    /// Embeds them up to the row, in the order of the inputs.
    ///
    /// # Errors
    /// [`ApiError`] for work that is not let in, and for a model that failed.
    pub(crate) async fn embed(
        self,
        handling: &Handling,
        service: &Service,
    ) -> Result<Rows, ApiError> {
        let tokens = self.tokens();
        let texts = self.tokenized.iter().map(|text| {
            let sequence = &text.prepared.sequence;
            (sequence.task, sequence.token_ids.len())
        });
        let cost = handling.admit(&service.model, texts).await?;
        let hidden_size = service.model.embedder.config().hidden_size;
        let empty = || Row {
            sum: vec![0.0; hidden_size],
            tokens: 0,
            truncated: false,
            cut_at: None,
        };
        let mut rows: Vec<Row> = std::iter::repeat_with(empty).take(self.count).collect();
        let mut sequences = Vec::with_capacity(self.tokenized.len());
        for (&place, text) in self.places.iter().zip(self.tokenized) {
            let Tokenized { prepared, cut_at } = text;
            let row = &mut rows[place];
            row.tokens = prepared.sequence.token_ids.len();
            row.truncated = prepared.truncated;
            row.cut_at = cut_at;
            sequences.push(prepared.sequence);
        }
        let forwarded = service.batcher.forward(
            sequences,
            self.reservation,
            handling.caller.tenant(),
            handling.tier,
        );
        let forwarded = forwarded.await?;
        for (place, mut sums) in self.places.into_iter().zip(forwarded.pooled) {
            rows[place].sum = sums.swap_remove(0);
        }
        Ok(Rows {
            rows,
            tokens,
            times: StepTimes {
                tokenize: self.tokenize,
                queue: forwarded.queue_time,
                forward: forwarded.forward_time,
            },
            cost,
        })
    }
}

/// Embeds inputs up to the row, each on its own and in their order.
///
/// # Errors
/// [`ApiError`] naming the field that is refused.
pub(crate) async fn embed(
    inputs: Vec<OwnedInput>,
    handling: &Handling,
    service: &Service,
    fields: &[Field<'_>],
) -> Result<Rows, ApiError> {
    let texts = prepare(inputs, handling, service, fields).await?;
    texts.embed(handling, service).await
}

/// The inputs with their places; empty ones that shall be zeros are left out.
fn without_empty(
    inputs: Vec<OwnedInput>,
    empty: EmptyInput,
    fields: &[Field],
) -> Result<(Vec<usize>, Vec<OwnedInput>), ApiError> {
    let mut places = Vec::with_capacity(inputs.len());
    let mut kept = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.into_iter().enumerate() {
        let is_empty = match &input.content {
            OwnedContent::Text(text) => text.is_empty(),
            OwnedContent::TokenIds(token_ids) => token_ids.is_empty(),
        };
        match empty {
            EmptyInput::Error if is_empty => return Err(empty_input(&named(fields, index))),
            EmptyInput::Zero if is_empty => continue,
            EmptyInput::Error | EmptyInput::Zero | EmptyInput::Embed => {}
        }
        places.push(index);
        kept.push(input);
    }
    Ok((places, kept))
}

/// An input without text.
pub(crate) fn empty_input(name: &str) -> ApiError {
    ApiError::invalid_param(
        name,
        format!("`{name}` is empty, expected a text; leave blank documents out"),
    )
}

/// Refuses an empty list and one that is too long.
///
/// # Errors
/// [`ApiError`] naming the field.
pub(crate) fn check_count(field: &'static str, count: usize, max: usize) -> Result<(), ApiError> {
    if count == 0 {
        return Err(ApiError::invalid_param(
            field,
            format!("`{field}` is empty, expected at least one text"),
        ));
    }
    if count > max {
        return Err(ApiError::invalid_param(
            field,
            format!("`{field}` has {count} elements, expected at most {max}"),
        )
        .code("array_above_max_length"));
    }
    Ok(())
}

/// The engine's refusal of a text that was tokenised on its own.
pub(crate) fn refused_text(name: &str, error: &EmbedError) -> ApiError {
    refused_input(0, error).param(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_named_by_the_field_they_came_from() {
        let fields = [Field::One("query"), Field::List("documents", 3)];
        assert_eq!(named(&fields, 0), "query");
        assert_eq!(named(&fields, 1), "documents[0]");
        assert_eq!(named(&fields, 3), "documents[2]");
        assert_eq!(
            named(&[Field::Lines(&["line 3", "line 8"].map(str::to_owned))], 1),
            "line 8"
        );
    }
}
