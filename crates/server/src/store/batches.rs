//! Batches: what was asked for, how far it is, and which server works on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::accounts::{Change, audit};
use super::database::{Database, DatabaseError, Row, Value};
use super::files::{self, Listed, Page, Purpose, StoredFile};
use super::keys::random_text;
use super::time::Time;
use crate::metering::PicoUsd;

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    /// Its lines are being checked, or will be.
    Validating,
    /// A line was wrong; nothing ran.
    Failed,
    /// Its lines run.
    InProgress,
    /// All lines were met; its files are being closed.
    Finalizing,
    /// Its files are there.
    Completed,
    /// Its time was over before its lines were.
    Expired,
    /// Its owner does not want it any more; lines that run are still answered.
    Cancelling,
    /// It ended because its owner wanted so.
    Cancelled,
}

impl BatchStatus {
    /// Every status.
    pub const ALL: [Self; 8] = [
        Self::Validating,
        Self::Failed,
        Self::InProgress,
        Self::Finalizing,
        Self::Completed,
        Self::Expired,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it stays so.
    pub fn is_final(self) -> bool {
        match self {
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled => true,
            Self::Validating | Self::InProgress | Self::Finalizing | Self::Cancelling => false,
        }
    }
}

/// What is wrong with a line of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineError {
    /// What programs compare.
    pub code: String,
    /// Its number, from 1; `None` for the file as a whole.
    pub line: Option<u64>,
    /// What people read.
    pub message: String,
    /// The field.
    pub param: Option<String>,
}

/// How far a batch is. Everything up to here is written, counted and paid for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Lines that were answered.
    pub completed: i64,
    /// Lines that ended with an error.
    pub failed: i64,
    /// Tokens of the answered ones.
    pub tokens: i64,
    /// Bytes of the input that were read.
    pub input_bytes: i64,
    /// Bytes of the answers.
    pub output_bytes: i64,
    /// Bytes of the errors.
    pub error_bytes: i64,
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// Its id.
    pub id: String,
    /// The account that pays; empty where there are none.
    pub owner: String,
    /// The key that sent it; `None` where there are none.
    pub key_id: Option<String>,
    /// Its lines.
    pub input_file_id: String,
    /// What its owner wrote on it.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Where it stands.
    pub status: BatchStatus,
    /// When it was sent.
    pub created: Time,
    /// When its time is over.
    pub expires: Time,
    /// When its lines were found right.
    pub in_progress: Option<Time>,
    /// When the last line was met.
    pub finalizing: Option<Time>,
    /// When its owner did not want it any more.
    pub cancelling: Option<Time>,
    /// When it ended.
    pub ended: Option<Time>,
    /// What is wrong with its lines.
    pub errors: Vec<LineError>,
    /// The model of its lines.
    pub model: Option<String>,
    /// Where its answers are written.
    pub output_file_id: String,
    /// Where its errors are written.
    pub error_file_id: String,
    /// How long both are kept once it has ended, in milliseconds; `None` is until someone deletes them.
    pub output_lifetime_ms: Option<i64>,
    /// Its lines, once they were counted.
    pub total: i64,
    /// How far it is.
    pub progress: Progress,
    /// What its lines have cost so far.
    pub cost: PicoUsd,
}

const COLUMNS: &str = "id, owner, key_id, input_file_id, metadata, status, created_ms, expires_ms, \
                       in_progress_ms, finalizing_ms, cancelling_ms, ended_ms, errors, model, output_file_id, \
                       error_file_id, total, completed, failed, tokens, input_bytes, output_bytes, error_bytes, \
                       output_lifetime_ms, cost";

impl StoredBatch {
    fn read(row: &Row) -> Result<Self, DatabaseError> {
        let time = |column| Ok::<_, DatabaseError>(row.optional_int(column)?.map(Time));
        let status = row.text(5)?;
        Ok(Self {
            id: row.text(0)?,
            owner: row.text(1)?,
            key_id: row.optional_text(2)?,
            input_file_id: row.text(3)?,
            metadata: json(row, 4)?,
            status: BatchStatus::ALL
                .into_iter()
                .find(|known| known.name() == status)
                .ok_or(DatabaseError::Column { column: 5 })?,
            created: Time(row.int(6)?),
            expires: Time(row.int(7)?),
            in_progress: time(8)?,
            finalizing: time(9)?,
            cancelling: time(10)?,
            ended: time(11)?,
            errors: json(row, 12)?.unwrap_or_default(),
            model: row.optional_text(13)?,
            output_file_id: row.text(14)?,
            error_file_id: row.text(15)?,
            total: row.int(16)?,
            progress: Progress {
                completed: row.int(17)?,
                failed: row.int(18)?,
                tokens: row.int(19)?,
                input_bytes: row.int(20)?,
                output_bytes: row.int(21)?,
                error_bytes: row.int(22)?,
            },
            output_lifetime_ms: row.optional_int(23)?,
            cost: PicoUsd(row.int(24)?),
        })
    }
}

fn json<T: for<'de> Deserialize<'de>>(
    row: &Row,
    column: usize,
) -> Result<Option<T>, DatabaseError> {
    let Some(text) = row.optional_text(column)? else {
        return Ok(None);
    };
    let read = serde_json::from_str(&text);
    read.map(Some).map_err(|_| DatabaseError::Column { column })
}

/// What a batch is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBatch {
    /// The account that pays; empty where there are none.
    pub owner: String,
    /// The key that sends it.
    pub key_id: Option<String>,
    /// Its lines.
    pub input_file_id: String,
    /// What its owner writes on it.
    pub metadata: Option<BTreeMap<String, String>>,
    /// How long it may take, in milliseconds.
    pub window_ms: i64,
    /// How long what it writes is kept once it has ended, in milliseconds; `None` is until someone
    /// deletes it.
    pub output_lifetime_ms: Option<i64>,
}

/// Accepts a batch. An owner may have `max_open` that have not ended.
///
/// # Errors
/// [`StoreError::UnknownFile`], [`StoreError::Purpose`] and [`StoreError::TooManyBatches`].
pub fn create(
    database: &mut dyn Database,
    new: &NewBatch,
    max_open: i64,
    now: Time,
) -> Result<StoredBatch, StoreError> {
    let file = files::find(database, &new.owner, &new.input_file_id, now)?;
    if file.purpose != Purpose::Batch {
        let (id, found) = (file.id, file.purpose);
        return Err(StoreError::Purpose { id, found });
    }
    let sql = "SELECT COUNT(*) FROM batches WHERE owner = $1 AND ended_ms IS NULL";
    let open = database.query(sql, &[(&new.owner).into()])?;
    if open.first().map_or(Ok(0), |row| row.int(0))? >= max_open {
        return Err(StoreError::TooManyBatches { max: max_open });
    }
    let id = format!("batch_{}", random_text(24)?);
    let metadata = new.metadata.as_ref();
    let metadata = metadata.and_then(|metadata| serde_json::to_string(metadata).ok());
    let sql = "INSERT INTO batches (id, owner, key_id, input_file_id, metadata, status, created_ms, expires_ms, \
               output_file_id, error_file_id, output_lifetime_ms) \
               VALUES ($1, $2, $3, $4, $5, 'validating', $6, $7, $8, $9, $10)";
    let parameters: [Value; 10] = [
        (&id).into(),
        (&new.owner).into(),
        new.key_id.as_ref().into(),
        (&new.input_file_id).into(),
        metadata.as_ref().into(),
        now.0.into(),
        now.0.saturating_add(new.window_ms).into(),
        (&files::new_id()?).into(),
        (&files::new_id()?).into(),
        new.output_lifetime_ms.into(),
    ];
    database.execute(sql, &parameters)?;
    find(database, &new.owner, &id)
}

/// The batch of this id, if it is this owner's.
///
/// # Errors
/// [`StoreError::UnknownBatch`].
pub fn find(database: &mut dyn Database, owner: &str, id: &str) -> Result<StoredBatch, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM batches WHERE id = $1 AND owner = $2");
    match database.query(&sql, &[id.into(), owner.into()])?.first() {
        Some(row) => Ok(StoredBatch::read(row)?),
        None => Err(StoreError::UnknownBatch { id: id.to_owned() }),
    }
}

/// An owner's batches.
///
/// # Errors
/// [`StoreError::UnknownBatch`] for a page after a batch that is not there.
pub fn list(
    database: &mut dyn Database,
    owner: &str,
    page: &Page,
) -> Result<Listed<StoredBatch>, StoreError> {
    let mut values: Vec<Value> = vec![owner.into()];
    let after = match &page.after {
        Some(after) => {
            let after = find(database, owner, after)?;
            Some((after.created, after.id))
        }
        None => None,
    };
    let page_sql = page.sql(&mut values, after);
    let sql = format!("SELECT {COLUMNS} FROM batches WHERE owner = $1 {page_sql}");
    let rows = database.query(&sql, &values)?;
    let batches: Result<Vec<_>, _> = rows.iter().map(StoredBatch::read).collect();
    Ok(Listed::of(batches?, page.limit))
}

/// Batches that a person looks at: those of one account, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only this account's.
    pub owner: Option<String>,
    /// Only those that have not ended.
    pub is_open: bool,
}

/// The batches of a selection.
///
/// # Errors
/// [`StoreError::UnknownBatch`] for a page after a batch that is not there.
pub fn select(
    database: &mut dyn Database,
    selection: &Selection,
    page: &Page,
) -> Result<Listed<StoredBatch>, StoreError> {
    let mut values: Vec<Value> = Vec::new();
    let mut condition = match selection.is_open {
        true => "ended_ms IS NULL".to_owned(),
        false => "1 = 1".to_owned(),
    };
    if let Some(owner) = &selection.owner {
        values.push(owner.into());
        condition.push_str(" AND owner = $1");
    }
    let after = match &page.after {
        Some(id) => Some((created(database, selection, id)?, id.clone())),
        None => None,
    };
    let page_sql = page.sql(&mut values, after);
    let sql = format!("SELECT {COLUMNS} FROM batches WHERE {condition} {page_sql}");
    let rows = database.query(&sql, &values)?;
    let batches: Result<Vec<_>, _> = rows.iter().map(StoredBatch::read).collect();
    Ok(Listed::of(batches?, page.limit))
}

/// When a batch was sent. It may have ended since the page was asked for that ends with it.
fn created(
    database: &mut dyn Database,
    selection: &Selection,
    id: &str,
) -> Result<Time, StoreError> {
    let rows = database.query(
        "SELECT created_ms, owner FROM batches WHERE id = $1",
        &[id.into()],
    )?;
    if let Some(row) = rows.first() {
        let owner = row.text(1)?;
        if selection.owner.as_ref().is_none_or(|only| *only == owner) {
            return Ok(Time(row.int(0)?));
        }
    }
    Err(StoreError::UnknownBatch { id: id.to_owned() })
}

/// Notes that the owner does not want a batch any more.
///
/// # Errors
/// [`StoreError::UnknownBatch`], and [`StoreError::BatchEnded`] for one that is over.
pub fn cancel(
    database: &mut dyn Database,
    owner: &str,
    id: &str,
    now: Time,
) -> Result<StoredBatch, StoreError> {
    let batch = find(database, owner, id)?;
    if batch.status.is_final() || batch.status == BatchStatus::Finalizing {
        let (id, status) = (batch.id, batch.status);
        return Err(StoreError::BatchEnded { id, status });
    }
    let sql = "UPDATE batches SET status = 'cancelling', cancelling_ms = COALESCE(cancelling_ms, $2) \
               WHERE id = $1";
    database.execute(sql, &[(&batch.id).into(), now.0.into()])?;
    find(database, owner, id)
}

/// The same by somebody at a page, with a line in the trail.
///
/// # Errors
/// Those of [`cancel`].
pub fn cancel_noted(
    database: &mut dyn Database,
    change: Change<'_>,
    owner: &str,
    id: &str,
) -> Result<StoredBatch, StoreError> {
    let batch = cancel(database, owner, id, change.now)?;
    audit(database, change, "batches.cancel", id, owner)?;
    Ok(batch)
}

/// A server's word that it works on a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// A number of its own.
    pub runner: i64,
    /// For how long without a sign of life, in milliseconds.
    pub patience_ms: i64,
}

/// The batches that nobody works on, oldest first; those to be checked before those to be run.
///
/// # Errors
/// [`DatabaseError`].
pub fn waiting(database: &mut dyn Database, now: Time) -> Result<Vec<StoredBatch>, DatabaseError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM batches WHERE ended_ms IS NULL AND (runner IS NULL OR runner_until_ms <= $1) \
         ORDER BY CASE status WHEN 'validating' THEN 0 ELSE 1 END, created_ms, id LIMIT 1000"
    );
    let rows = database.query(&sql, &[now.0.into()])?;
    rows.iter().map(StoredBatch::read).collect()
}

/// Takes a batch, if nobody has it. Gives it as it is now.
///
/// # Errors
/// [`DatabaseError`].
pub fn take(
    database: &mut dyn Database,
    id: &str,
    lease: Lease,
    now: Time,
) -> Result<Option<StoredBatch>, DatabaseError> {
    let sql = "UPDATE batches SET runner = $2, runner_until_ms = $3 WHERE id = $1 AND ended_ms IS NULL \
               AND (runner IS NULL OR runner_until_ms <= $4)";
    let until = now.0.saturating_add(lease.patience_ms);
    let parameters: [Value; 4] = [id.into(), lease.runner.into(), until.into(), now.0.into()];
    if database.execute(sql, &parameters)? == 0 {
        return Ok(None);
    }
    held(database, id, lease)
}

/// The batch, if this server still has it.
///
/// # Errors
/// [`DatabaseError`].
pub fn held(
    database: &mut dyn Database,
    id: &str,
    lease: Lease,
) -> Result<Option<StoredBatch>, DatabaseError> {
    let sql = format!("SELECT {COLUMNS} FROM batches WHERE id = $1 AND runner = $2");
    let rows = database.query(&sql, &[id.into(), lease.runner.into()])?;
    rows.first().map(StoredBatch::read).transpose()
}

/// Says that this server still works on a batch. Gives it as it is now, `None` where another has it.
///
/// # Errors
/// [`DatabaseError`].
pub fn renew(
    database: &mut dyn Database,
    id: &str,
    lease: Lease,
    now: Time,
) -> Result<Option<StoredBatch>, DatabaseError> {
    let sql = "UPDATE batches SET runner_until_ms = $3 WHERE id = $1 AND runner = $2";
    let until = now.0.saturating_add(lease.patience_ms);
    database.execute(sql, &[id.into(), lease.runner.into(), until.into()])?;
    held(database, id, lease)
}

/// Lets go of everything that this server works on.
///
/// # Errors
/// [`DatabaseError`].
pub fn leave(database: &mut dyn Database, runner: i64) -> Result<(), DatabaseError> {
    let sql = "UPDATE batches SET runner = NULL WHERE runner = $1";
    database.execute(sql, &[runner.into()])?;
    Ok(())
}

/// Lets go of one batch, to be taken again.
///
/// # Errors
/// [`DatabaseError`].
pub fn release(database: &mut dyn Database, id: &str, runner: i64) -> Result<(), DatabaseError> {
    let sql = "UPDATE batches SET runner = NULL WHERE id = $1 AND runner = $2";
    database.execute(sql, &[id.into(), runner.into()])?;
    Ok(())
}

/// What checking found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// So many lines for this model, all right.
    Right {
        /// Lines.
        total: i64,
        /// The model.
        model: String,
    },
    /// What is wrong.
    Wrong(Vec<LineError>),
}

/// Notes what checking found, and lets go of the batch. Whoever cancelled it meanwhile is heard.
///
/// # Errors
/// [`DatabaseError`].
pub fn checked(
    database: &mut dyn Database,
    id: &str,
    lease: Lease,
    found: &Checked,
    now: Time,
) -> Result<(), DatabaseError> {
    let mut parameters: Vec<Value> = vec![id.into(), lease.runner.into(), now.0.into()];
    let sql = match found {
        Checked::Right { total, model } => {
            parameters.extend([(*total).into(), model.into()]);
            "UPDATE batches SET total = $4, model = $5, in_progress_ms = $3, runner = NULL, \
             status = CASE status WHEN 'validating' THEN 'in_progress' ELSE status END \
             WHERE id = $1 AND runner = $2"
        }
        Checked::Wrong(errors) => {
            let errors = serde_json::to_string(errors).unwrap_or_default();
            parameters.push((&errors).into());
            "UPDATE batches SET errors = $4, ended_ms = $3, runner = NULL, status = 'failed' \
             WHERE id = $1 AND runner = $2"
        }
    };
    database.execute(sql, &parameters)?;
    Ok(())
}

/// Notes how far a batch is, and what the lines cost that brought it there.
///
/// # Errors
/// [`DatabaseError`].
pub fn advance(
    database: &mut dyn Database,
    id: &str,
    progress: &Progress,
    cost: PicoUsd,
) -> Result<(), DatabaseError> {
    let sql = "UPDATE batches SET completed = $2, failed = $3, tokens = $4, input_bytes = $5, output_bytes = $6, \
               error_bytes = $7, cost = cost + $8 WHERE id = $1";
    let parameters: [Value; 8] = [
        id.into(),
        progress.completed.into(),
        progress.failed.into(),
        progress.tokens.into(),
        progress.input_bytes.into(),
        progress.output_bytes.into(),
        progress.error_bytes.into(),
        cost.0.into(),
    ];
    database.execute(sql, &parameters)?;
    Ok(())
}

/// Notes that all lines were met. From now on it cannot be cancelled.
///
/// # Errors
/// [`DatabaseError`].
pub fn finalize(
    database: &mut dyn Database,
    id: &str,
    lease: Lease,
    now: Time,
) -> Result<(), DatabaseError> {
    let sql = "UPDATE batches SET finalizing_ms = $3, status = 'finalizing' \
               WHERE id = $1 AND runner = $2 AND status = 'in_progress'";
    database.execute(sql, &[id.into(), lease.runner.into(), now.0.into()])?;
    Ok(())
}

/// Ends a batch and keeps its files for its owner.
///
/// # Errors
/// [`DatabaseError`].
pub fn end(
    database: &mut dyn Database,
    batch: &StoredBatch,
    lease: Lease,
    status: BatchStatus,
    now: Time,
) -> Result<bool, DatabaseError> {
    let sql = "UPDATE batches SET status = $3, ended_ms = $4, runner = NULL WHERE id = $1 AND runner = $2";
    let parameters: [Value; 4] = [
        (&batch.id).into(),
        lease.runner.into(),
        status.name().into(),
        now.0.into(),
    ];
    if database.execute(sql, &parameters)? == 0 {
        return Ok(false);
    }
    let written = [
        (&batch.output_file_id, batch.progress.output_bytes, "output"),
        (&batch.error_file_id, batch.progress.error_bytes, "error"),
    ];
    let lifetime = batch.output_lifetime_ms;
    for (file_id, bytes, what) in written.into_iter().filter(|(_, bytes, _)| *bytes > 0) {
        let file = StoredFile {
            id: file_id.clone(),
            purpose: Purpose::BatchOutput,
            filename: format!("{}_{what}.jsonl", batch.id),
            bytes,
            created: now,
            expires: lifetime.map(|ms| Time(now.0.saturating_add(ms))),
        };
        files::insert(database, &batch.owner, &file)?;
    }
    Ok(true)
}
