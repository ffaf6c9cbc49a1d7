//! From checked inputs to pooled rows: the steps that every embedding route shares.

use quintet_engine::EmbedError;

use crate::app::Service;
use crate::batcher::{
    BatchError, Overlong, OwnedContent, OwnedInput, Pooled, PooledInputs, StepTimes, Tier,
};
use crate::config::EmptyInput;
use crate::error::{ApiError, refused_input};

/// Rows of a request, before they are cut, scaled and encoded.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    /// What is metered.
    pub(crate) tokens: usize,
    pub(crate) times: StepTimes,
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

/// How texts are met that are too long or empty, and whose turn comes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handling {
    pub(crate) overlong: Overlong,
    pub(crate) empty: EmptyInput,
    pub(crate) tier: Tier,
}

/// A field of the request that inputs came from, to name them in errors.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    /// A field with one text.
    One(&'static str),
    /// A field with a list of so many.
    List(&'static str, usize),
}

/// The name of the input at `index` of those that the fields hold one after the other.
fn named(fields: &[Field], mut index: usize) -> String {
    for field in fields {
        match *field {
            Field::One(name) if index == 0 => return name.to_owned(),
            Field::One(_) => index -= 1,
            Field::List(name, len) if index < len => return format!("{name}[{index}]"),
            Field::List(_, len) => index -= len,
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
        _ => refused,
    }
}

/// Embeds inputs up to the row, each on its own and in their order.
///
/// # Errors
/// [`ApiError`] naming the field that is refused.
pub(crate) async fn embed(
    inputs: Vec<OwnedInput>,
    handling: Handling,
    service: &Service,
    fields: &[Field],
) -> Result<Rows, ApiError> {
    let hidden_size = service.model.embedder.config().hidden_size;
    let empty = || Row {
        sum: vec![0.0; hidden_size],
        tokens: 0,
        truncated: false,
        cut_at: None,
    };
    let mut rows: Vec<Row> = std::iter::repeat_with(empty).take(inputs.len()).collect();
    let (places, inputs) = without_empty(inputs, handling.empty, fields)?;
    let embedded = service
        .batcher
        .embed(inputs, handling.overlong, handling.tier);
    let PooledInputs { pooled, times } = embedded.await.map_err(|mut error| {
        if let BatchError::Input { index, .. } = &mut error {
            *index = places[*index];
        }
        refused(error, fields)
    })?;
    let mut tokens_of_all = 0;
    for (place, pooled) in places.into_iter().zip(pooled) {
        let Pooled {
            sum,
            tokens,
            truncated,
            cut_at,
        } = pooled;
        tokens_of_all += tokens;
        rows[place] = Row {
            sum,
            tokens,
            truncated,
            cut_at,
        };
    }
    Ok(Rows {
        rows,
        tokens: tokens_of_all,
        times,
    })
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
    }
}
