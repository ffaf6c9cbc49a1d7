//! The lines of a batch: read one by one from the file, and checked before any of them runs.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use super::{ENDPOINT, JobLimits};
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, shortened};
use crate::model::Model;
use crate::routes::embeddings::check;
use crate::store::batches::{Checked, LineError};
use crate::wire::embeddings::EmbeddingsRequest;

/// Bytes of a line beside its body.
const ENVELOPE_BYTES: usize = 4096;
/// Characters of a `custom_id`.
const MAX_ID_CHARS: usize = 512;
/// Errors that are told; the others are probably the same.
const MAX_ERRORS: usize = 100;

/// A line as it stands in the file.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    /// Where the next one begins.
    pub(super) end: u64,
}

/// The lines of a file, blank ones left out.
#[derive(Debug)]
pub(super) struct Lines {
    reader: BufReader<File>,
    position: u64,
    max_bytes: usize,
    /// Lines read so far, blank ones counted.
    number: u64,
}

impl Lines {
    /// From this byte on, where a line begins.
    pub(super) fn open(path: &Path, start: u64, max_body_bytes: usize) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(Self {
            reader: BufReader::with_capacity(1 << 16, file),
            position: start,
            max_bytes: max_body_bytes.saturating_add(ENVELOPE_BYTES),
            number: 0,
        })
    }

    /// The next line, cut behind the limit: then it is no JSON any more.
    pub(super) fn read(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let limit = self.max_bytes as u64 + 1;
            let mut read = (&mut self.reader)
                .take(limit)
                .read_until(b'\n', &mut bytes)? as u64;
            if read == 0 {
                return Ok(None);
            }
            if read == limit && bytes.last() != Some(&b'\n') {
                read += self.reader.skip_until(b'\n')? as u64;
            }
            self.position += read;
            self.number += 1;
            if !bytes.trim_ascii().is_empty() {
                let end = self.position;
                return Ok(Some(Line { bytes, end }));
            }
        }
    }
}

/// What stands around a request.
#[derive(Debug, Deserialize)]
struct Envelope {
    custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    body: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct WithBody {
    body: EmbeddingsRequest,
}

/// What a line asks for.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) custom_id: String,
    pub(super) request: EmbeddingsRequest,
}

/// The `custom_id` of a line that was checked before.
pub(super) fn custom_id(line: &[u8]) -> String {
    let read = serde_json::from_slice::<Envelope>(line).ok();
    read.and_then(|envelope| envelope.custom_id)
        .unwrap_or_default()
}

impl Task {
    /// Reads a line; the request by the same rules as the live route's.
    pub(super) fn parse(line: &[u8]) -> Result<Self, LineError> {
        let envelope: Envelope = serde_json::from_slice(line).map_err(|error| {
            let message = error.to_string();
            let message = format!("This line is no request in JSON: {}", shortened(&message));
            wrong("invalid_json_line", None, message)
        })?;
        let missing = |name: &str| {
            let message = format!("The field `{name}` is missing");
            wrong("missing_required_parameter", Some(name), message)
        };
        let custom_id = envelope.custom_id.ok_or_else(|| missing("custom_id"))?;
        let chars = custom_id.chars().count();
        if !(1..=MAX_ID_CHARS).contains(&chars) {
            let message =
                format!("`custom_id` has {chars} characters, expected 1 to {MAX_ID_CHARS}");
            return Err(wrong("invalid_custom_id", Some("custom_id"), message));
        }
        let method = envelope.method.ok_or_else(|| missing("method"))?;
        if method != "POST" {
            let message = format!("`method` is `{}`, expected `POST`", shortened(&method));
            return Err(wrong("invalid_method", Some("method"), message));
        }
        let url = envelope.url.ok_or_else(|| missing("url"))?;
        if url != ENDPOINT {
            let message = format!(
                "`url` is `{}`, expected the batch's endpoint `{ENDPOINT}`",
                shortened(&url)
            );
            return Err(wrong("invalid_url", Some("url"), message));
        }
        if envelope.body.is_none() {
            return Err(missing("body"));
        }
        let WithBody { body: request } = body::parse(line).map_err(|error| of_body(&error))?;
        Ok(Self { custom_id, request })
    }
}

/// Reads all lines and says what is wrong with them. Blocks.
pub(super) fn validate(
    path: &Path,
    limits: JobLimits,
    app: &App,
    caller: &Caller,
    model: &Model,
) -> io::Result<Checked> {
    let mut lines = Lines::open(path, 0, app.config.limits.body_bytes)?;
    let mut errors: Vec<LineError> = Vec::new();
    // Hashes: of 50,000 ids, whatever their length, 1.6 MB.
    let mut ids: HashSet<[u8; 32]> = HashSet::new();
    let (mut total, mut inputs) = (0, 0);
    while let Some(line) = lines.read()? {
        total += 1;
        if total > limits.lines {
            let message = format!("The file has more than {} requests", limits.lines);
            errors.push(wrong("too_many_requests", None, message));
            break;
        }
        let checked = Task::parse(&line.bytes).and_then(|task| {
            if !ids.insert(Sha256::digest(&task.custom_id).into()) {
                let message = format!(
                    "The custom_id `{}` stands in a line before",
                    shortened(&task.custom_id)
                );
                return Err(wrong("duplicate_custom_id", Some("custom_id"), message));
            }
            let read = check(task.request, &app.config, caller, model);
            read.map_err(|error| of_body(&error))
        });
        match checked {
            Ok(count) => inputs += count,
            Err(error) => errors.push(LineError {
                line: Some(lines.number),
                ..error
            }),
        }
        if errors.len() == MAX_ERRORS {
            break;
        }
    }
    if total == 0 {
        let message = "The file has no requests".to_owned();
        errors.push(wrong("empty_file", None, message));
    }
    if inputs > limits.inputs {
        let message = format!(
            "The requests have {inputs} inputs, expected at most {}",
            limits.inputs
        );
        errors.push(wrong("too_many_inputs", None, message));
    }
    Ok(if errors.is_empty() {
        Checked::Right {
            total: i64::try_from(total).unwrap_or(i64::MAX),
            model: model.id().to_owned(),
        }
    } else {
        Checked::Wrong(errors)
    })
}

pub(super) fn wrong(code: &str, param: Option<&str>, message: String) -> LineError {
    LineError {
        code: code.to_owned(),
        line: None,
        message,
        param: param.map(str::to_owned),
    }
}

/// The live route's refusal of a body.
fn of_body(error: &ApiError) -> LineError {
    let param = error.field().map(|field| format!("body.{field}"));
    wrong(
        error.log_code(),
        param.as_deref().or(Some("body")),
        error.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn blank_lines_are_left_out_and_long_ones_cut() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let long = "x".repeat(3 * ENVELOPE_BYTES);
        write!(file, "one\r\n\n  \n{long}\nlast").unwrap();
        let mut lines = Lines::open(file.path(), 0, 0).unwrap();
        let one = lines.read().unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.end), (&b"one\r\n"[..], 5));
        let cut = lines.read().unwrap().unwrap();
        assert_eq!(cut.bytes.len(), ENVELOPE_BYTES + 1);
        assert_eq!(lines.number, 4);
        // From where the cut one ends, the rest is read as well.
        let mut rest = Lines::open(file.path(), cut.end, 0).unwrap();
        assert_eq!(rest.read().unwrap().unwrap().bytes, b"last");
        assert!(rest.read().unwrap().is_none());
    }

    #[test]
    fn a_line_says_what_is_wrong_with_it() {
        let code = |line: &str| Task::parse(line.as_bytes()).unwrap_err().code;
        let with = |id: &str, method: &str, url: &str, body: &str| {
            format!(r#"{{"custom_id":{id},"method":"{method}","url":"{url}","body":{body}}}"#)
        };
        let body = r#"{"input":"a"}"#;
        assert!(Task::parse(with(r#""a""#, "POST", ENDPOINT, body).as_bytes()).is_ok());
        assert_eq!(code("{"), "invalid_json_line");
        assert_eq!(code("{}"), "missing_required_parameter");
        assert_eq!(
            code(&with("1", "POST", ENDPOINT, body)),
            "invalid_json_line"
        );
        assert_eq!(
            code(&with(r#""""#, "POST", ENDPOINT, body)),
            "invalid_custom_id"
        );
        assert_eq!(
            code(&with(r#""a""#, "GET", ENDPOINT, body)),
            "invalid_method"
        );
        assert_eq!(
            code(&with(r#""a""#, "POST", "/v1/rerank", body)),
            "invalid_url"
        );
        assert_eq!(code(&with(r#""a""#, "POST", ENDPOINT, "3")), "invalid_body");
        assert_eq!(
            code(&with(r#""a""#, "POST", ENDPOINT, "null")),
            "missing_required_parameter"
        );
    }
}
