//! What stands behind `?`.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;

use crate::error::{ApiError, shortened};

/// It, or why it cannot be read.
pub(super) type Asked<T> = Result<Query<T>, QueryRejection>;

/// In our own words where it cannot be read.
///
/// # Errors
/// 400.
pub(super) fn asked<T>(query: Asked<T>) -> Result<T, ApiError> {
    let read = query.map(|Query(value)| value);
    read.map_err(|error| ApiError::invalid(shortened(&error.body_text()).into_owned()))
}
