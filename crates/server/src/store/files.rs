//! Files of accounts: what is known about them. What they hold is not in the database.

use serde::Serialize;

use super::StoreError;
use super::database::{Database, DatabaseError, Row, Value};
use super::keys::random_text;
use super::time::Time;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Requests of a batch.
    Batch,
    /// Answers or errors of a batch.
    BatchOutput,
}

impl Purpose {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
        }
    }

    /// The purpose of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Batch, Self::BatchOutput]
            .into_iter()
            .find(|purpose| purpose.name() == name)
    }
}

/// A file as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its id, and its name in the folder of files.
    pub id: String,
    /// What it is for.
    pub purpose: Purpose,
    /// What its owner called it.
    pub filename: String,
    /// Its size.
    pub bytes: i64,
    /// When it was kept.
    pub created: Time,
    /// When it is deleted by itself.
    pub expires: Option<Time>,
}

const COLUMNS: &str = "id, purpose, filename, bytes, created_ms, expires_ms";

impl StoredFile {
    fn read(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self {
            id: row.text(0)?,
            purpose: Purpose::parse(&row.text(1)?).ok_or(DatabaseError::Column { column: 1 })?,
            filename: row.text(2)?,
            bytes: row.int(3)?,
            created: Time(row.int(4)?),
            expires: row.optional_int(5)?.map(Time),
        })
    }
}

/// A new file's id.
///
/// # Errors
/// [`StoreError::Random`].
pub fn new_id() -> Result<String, StoreError> {
    Ok(format!("file-{}", random_text(24)?))
}

/// Keeps a file of this owner, whose bytes are on the disk already.
///
/// # Errors
/// [`StoreError::FilesFull`] where all files of the owner would have more than `max_bytes`.
pub fn create(
    database: &mut dyn Database,
    owner: &str,
    file: &StoredFile,
    max_bytes: i64,
) -> Result<(), StoreError> {
    let kept = kept_bytes(database, owner)?;
    if kept.saturating_add(file.bytes) > max_bytes {
        return Err(StoreError::FilesFull { kept, max_bytes });
    }
    Ok(insert(database, owner, file)?)
}

/// Bytes of all files of an owner.
///
/// # Errors
/// [`DatabaseError`].
pub fn kept_bytes(database: &mut dyn Database, owner: &str) -> Result<i64, DatabaseError> {
    let sql = "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM files WHERE owner = $1";
    let rows = database.query(sql, &[owner.into()])?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

/// Keeps a file whatever its size: a batch wrote it.
///
/// # Errors
/// [`DatabaseError`].
pub fn insert(
    database: &mut dyn Database,
    owner: &str,
    file: &StoredFile,
) -> Result<(), DatabaseError> {
    let sql = "INSERT INTO files (id, owner, purpose, filename, bytes, created_ms, expires_ms) \
               VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let parameters: [Value; 7] = [
        (&file.id).into(),
        owner.into(),
        file.purpose.name().into(),
        (&file.filename).into(),
        file.bytes.into(),
        file.created.0.into(),
        file.expires.map(|time| time.0).into(),
    ];
    database.execute(sql, &parameters)?;
    Ok(())
}

/// The file of this id, if it is this owner's and not over.
///
/// # Errors
/// [`StoreError::UnknownFile`].
pub fn find(
    database: &mut dyn Database,
    owner: &str,
    id: &str,
    now: Time,
) -> Result<StoredFile, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM files WHERE id = $1 AND owner = $2 \
         AND (expires_ms IS NULL OR expires_ms > $3)"
    );
    let rows = database.query(&sql, &[id.into(), owner.into(), now.0.into()])?;
    match rows.first() {
        Some(row) => Ok(StoredFile::read(row)?),
        None => Err(StoreError::UnknownFile { id: id.to_owned() }),
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The last element of the page before.
    pub after: Option<String>,
    /// Elements at most.
    pub limit: i64,
    /// Oldest first instead of newest first.
    pub is_ascending: bool,
}

/// One page of a list, and whether there is more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The elements.
    pub items: Vec<T>,
    /// Whether others come after them.
    pub has_more: bool,
}

impl<T> Listed<T> {
    /// Of one row more than the page holds, if there is one.
    pub(super) fn of(mut items: Vec<T>, limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(0);
        let has_more = items.len() > limit;
        items.truncate(limit);
        Self { items, has_more }
    }
}

impl Page {
    /// The condition, after others, the order and the limit. Its values follow those that are there.
    pub(super) fn sql(&self, values: &mut Vec<Value>, after: Option<(Time, String)>) -> String {
        let (order, comparison) = if self.is_ascending {
            ("ASC", ">")
        } else {
            ("DESC", "<")
        };
        let after = after.map_or(String::new(), |(created, id)| {
            values.extend([created.0.into(), (&id).into()]);
            let (created, id) = (values.len() - 1, values.len());
            format!("AND (created_ms, id) {comparison} (${created}, ${id})")
        });
        // One more, to see whether there is more.
        values.push(self.limit.saturating_add(1).into());
        let limit = values.len();
        format!("{after} ORDER BY created_ms {order}, id {order} LIMIT ${limit}")
    }
}

/// An owner's files.
///
/// # Errors
/// [`StoreError::UnknownFile`] for a page after a file that is not there.
pub fn list(
    database: &mut dyn Database,
    owner: &str,
    purpose: Option<Purpose>,
    page: &Page,
    now: Time,
) -> Result<Listed<StoredFile>, StoreError> {
    let mut values: Vec<Value> = vec![owner.into(), now.0.into()];
    let after = match &page.after {
        Some(after) => {
            let after = find(database, owner, after, now)?;
            Some((after.created, after.id))
        }
        None => None,
    };
    let purpose = purpose.map_or(String::new(), |purpose| {
        format!("AND purpose = '{}'", purpose.name())
    });
    let page_sql = page.sql(&mut values, after);
    let sql = format!(
        "SELECT {COLUMNS} FROM files WHERE owner = $1 \
         AND (expires_ms IS NULL OR expires_ms > $2) {purpose} {page_sql}"
    );
    let rows = database.query(&sql, &values)?;
    let files: Result<Vec<_>, _> = rows.iter().map(StoredFile::read).collect();
    Ok(Listed::of(files?, page.limit))
}

/// Forgets a file.
///
/// # Errors
/// [`StoreError::UnknownFile`], and [`StoreError::FileInUse`] while a batch reads it.
pub fn delete(
    database: &mut dyn Database,
    owner: &str,
    id: &str,
    now: Time,
) -> Result<(), StoreError> {
    let file = find(database, owner, id, now)?;
    let sql = "SELECT id FROM batches WHERE input_file_id = $1 AND ended_ms IS NULL";
    let reading = database.query(sql, &[(&file.id).into()])?;
    if let Some(row) = reading.first() {
        let batch = row.text(0)?;
        return Err(StoreError::FileInUse { id: file.id, batch });
    }
    database.execute("DELETE FROM files WHERE id = $1", &[(&file.id).into()])?;
    Ok(())
}

/// Forgets files whose time is over and that no batch reads.
///
/// # Errors
/// [`DatabaseError`].
pub fn forget_expired(database: &mut dyn Database, now: Time) -> Result<(), DatabaseError> {
    let sql = "DELETE FROM files WHERE expires_ms <= $1 \
               AND id NOT IN (SELECT input_file_id FROM batches WHERE ended_ms IS NULL)";
    database.execute(sql, &[now.0.into()])?;
    Ok(())
}

/// Whether anything knows a file of this name: an owner, or a batch that writes it.
///
/// # Errors
/// [`DatabaseError`].
pub fn is_known(database: &mut dyn Database, id: &str) -> Result<bool, DatabaseError> {
    let sql = "SELECT id FROM files WHERE id = $1 UNION ALL SELECT id FROM batches \
               WHERE ended_ms IS NULL AND (output_file_id = $1 OR error_file_id = $1)";
    Ok(!database.query(sql, &[id.into()])?.is_empty())
}
