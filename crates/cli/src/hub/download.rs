//! One file into the cache: locked, resumed, tried again, checked, and only then put in place.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read},
    path::Path,
    time::Duration,
};

use quintet_engine::weights::hub::{Commit, Etag, HubCache, HubId};

use super::{
    Backoff, Client, HubError, api,
    api::RemoteFile,
    client::{Reply, read_error},
    part::Part,
};

/// Hears how a download goes.
pub(crate) trait Progress {
    /// A file begins, of which `present` bytes are there already.
    fn start(&mut self, file: &RemoteFile, present: u64);
    /// The bytes of the file that are on disk now; less than before when it begins anew.
    fn position(&mut self, bytes: u64);
    /// Something to tell the user.
    fn note(&mut self, text: &str);
}

/// What was done for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was in the cache.
    Present,
    /// It was downloaded.
    Downloaded {
        /// Bytes that an earlier try had left.
        resumed_from_bytes: u64,
        /// Bytes that came over the network.
        received_bytes: u64,
    },
}

/// Downloads files of one commit.
pub(crate) struct Download<'a> {
    /// The hub.
    pub(crate) client: &'a Client,
    /// Where files go.
    pub(crate) cache: &'a HubCache,
    /// The model.
    pub(crate) id: &'a HubId,
    /// Its commit.
    pub(crate) commit: &'a Commit,
    /// When to try again.
    pub(crate) backoff: &'a Backoff<'a>,
}

const BUFFER_BYTES: usize = 256 << 10;

/// After a cut, tries are counted anew once this much came: a poor line gets through, a server
/// that cuts at every byte does not hold us for ever.
const FRESH_START_BYTES: u64 = 1 << 20;

impl Download<'_> {
    /// Whether the snapshot has the file, or a blob for it.
    pub(crate) fn has(&self, file: &RemoteFile) -> bool {
        let path = self.cache.file(self.id, self.commit, &file.path);
        has_length(&path, file.size_bytes) || self.has_blob(file)
    }

    /// Brings the file into the snapshot.
    ///
    /// # Errors
    /// [`HubError`]; what arrived stays in the cache and the next call continues it, unless its
    /// hash is wrong.
    pub(crate) fn fetch(
        &self,
        file: &RemoteFile,
        progress: &mut dyn Progress,
    ) -> Result<Outcome, HubError> {
        let path = self.cache.file(self.id, self.commit, &file.path);
        if has_length(&path, file.size_bytes) {
            return Ok(Outcome::Present);
        }
        let blob = self.cache.blob(self.id, &file.etag);
        create_parent(&blob)?;
        let _lock = self.lock(file, progress)?;
        // Whoever had the lock may have brought it.
        if has_length(&path, file.size_bytes) {
            return Ok(Outcome::Present);
        }
        let (outcome, is_new) = match self.has_blob(file) {
            true => (Outcome::Present, false),
            false => (self.fetch_blob(file, &blob, progress)?, true),
        };
        self.cache
            .place(self.id, self.commit, &file.path, &file.etag, is_new)?;
        Ok(outcome)
    }

    fn has_blob(&self, file: &RemoteFile) -> bool {
        has_length(&self.cache.blob(self.id, &file.etag), file.size_bytes)
    }

    /// Keeps other processes, Python's among them, from writing the same blob.
    fn lock(&self, file: &RemoteFile, progress: &mut dyn Progress) -> Result<File, HubError> {
        let path = self.cache.lock(self.id, &file.etag);
        create_parent(&path)?;
        let options = File::options().create(true).append(true).open(&path);
        let lock = options.map_err(|source| HubError::File {
            action: "open",
            path: path.clone(),
            source,
        })?;
        let failed = |source| HubError::File {
            action: "lock",
            path: path.clone(),
            source,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note(&format!(
                    "{}: another process is downloading it, waiting",
                    file.path
                ));
                lock.lock().map_err(failed)?;
            }
            // Some network file systems have no locks; the hash tells when two writers met.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(lock)
    }

    fn fetch_blob(
        &self,
        file: &RemoteFile,
        blob: &Path,
        progress: &mut dyn Progress,
    ) -> Result<Outcome, HubError> {
        let path = self.cache.incomplete(self.id, &file.etag);
        let mut part = Part::open(path, file)?;
        let mut resumed_from_bytes = part.len;
        let mut received_bytes = 0;
        progress.start(file, part.len);
        loop {
            self.fill(file, &mut part, &mut received_bytes, progress)?;
            let found = part.digest();
            if found == file.etag.as_str() {
                break;
            }
            part.remove()?;
            if resumed_from_bytes == 0 {
                return Err(HubError::WrongHash {
                    url: self.url(file),
                    kind: file.hash_name(),
                    found,
                    expected: file.etag.to_string(),
                });
            }
            progress.note(&format!(
                "{}: the part from an earlier download is damaged, starting over",
                file.path
            ));
            part = Part::open(self.cache.incomplete(self.id, &file.etag), file)?;
            resumed_from_bytes = 0;
            progress.position(0);
        }
        part.finish(blob)?;
        Ok(Outcome::Downloaded {
            resumed_from_bytes,
            received_bytes,
        })
    }

    /// Asks until the part has its full length.
    fn fill(
        &self,
        file: &RemoteFile,
        part: &mut Part,
        received_bytes: &mut u64,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        let mut failures = 0;
        while part.len < file.size_bytes {
            let before = *received_bytes;
            let Err(error) = self.receive(file, part, received_bytes, progress) else {
                continue;
            };
            if *received_bytes - before >= FRESH_START_BYTES {
                failures = 0;
            }
            failures += 1;
            let Some(delay) = self.backoff.delay(&error, failures) else {
                return Err(error);
            };
            progress.note(&retry_note(&error, failures, delay, part.len));
            (self.backoff.sleep)(delay);
        }
        Ok(())
    }

    /// One request, its bytes appended to the part.
    fn receive(
        &self,
        file: &RemoteFile,
        part: &mut Part,
        received_bytes: &mut u64,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        let reply = self.client.get(&self.url(file), part.len)?;
        self.check_headers(file, &reply)?;
        let offset = part.len;
        match reply.response.status().as_u16() {
            206 => check_range(&reply, offset, file.size_bytes)?,
            416 => {
                part.restart()?;
                progress.position(0);
                return Err(HubError::Resume {
                    url: reply.url,
                    offset,
                    reason: "HTTP 416, the file has no such byte".into(),
                });
            }
            // The server sends the whole file, asked or not.
            _ if offset > 0 => {
                part.restart()?;
                progress.position(0);
            }
            _ => {}
        }
        let announced = reply.response.body().content_length();
        if let Some(announced) = announced.filter(|bytes| part.len + bytes != file.size_bytes) {
            return Err(HubError::WrongSize {
                url: reply.url,
                found: part.len + announced,
                expected: file.size_bytes,
            });
        }
        let Reply { response, url, .. } = reply;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let source = match body.read(&mut buffer) {
                Ok(0) if part.len == file.size_bytes => return Ok(()),
                Ok(0) => None,
                Ok(count) => {
                    let found = part.len + count as u64;
                    if found > file.size_bytes {
                        part.remove()?;
                        return Err(HubError::WrongSize {
                            url,
                            found,
                            expected: file.size_bytes,
                        });
                    }
                    part.append(&buffer[..count])?;
                    *received_bytes += count as u64;
                    progress.position(part.len);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => read_error(error),
            };
            return Err(HubError::Cut {
                url,
                received: part.len,
                expected: file.size_bytes,
                source,
            });
        }
    }

    /// What the hub says about the file must fit its list, before gigabytes are fetched.
    fn check_headers(&self, file: &RemoteFile, reply: &Reply) -> Result<(), HubError> {
        let headers = &reply.file;
        let commit = headers.commit.as_deref().and_then(Commit::parse);
        if let Some(found) = commit.filter(|found| found != self.commit) {
            return Err(HubError::WrongCommit {
                url: reply.url.clone(),
                found: found.to_string(),
                expected: self.commit.to_string(),
            });
        }
        let etag = headers.etag.as_deref().and_then(Etag::parse);
        let is_comparable = |found: &Etag| found.is_sha256() && file.etag.is_sha256();
        if let Some(found) = etag.filter(|found| is_comparable(found) && *found != file.etag) {
            return Err(HubError::WrongHash {
                url: self.url(file),
                kind: file.hash_name(),
                found: found.to_string(),
                expected: file.etag.to_string(),
            });
        }
        Ok(())
    }

    fn url(&self, file: &RemoteFile) -> String {
        api::file_url(self.client.endpoint(), self.id, self.commit, &file.path)
    }
}

/// Tells of a failure that is tried again.
pub(crate) fn retry_note(error: &HubError, failures: u32, delay: Duration, present: u64) -> String {
    let from = match present {
        0 => String::new(),
        bytes => format!(" from byte {bytes}"),
    };
    let asked = match error.retry_after() {
        Some(asked) => format!(" (the server asks for {} s)", asked.as_secs()),
        None => String::new(),
    };
    format!(
        "{error}; try {failures} of {retries} again{from} in {seconds} s{asked}",
        retries = super::backoff::RETRIES,
        seconds = delay.as_secs_f64(),
    )
}

/// A 206 must hold the bytes asked for, of a file of the right length.
fn check_range(reply: &Reply, offset: u64, size_bytes: u64) -> Result<(), HubError> {
    let headers = reply.response.headers();
    let found = headers
        .get("content-range")
        .and_then(|value| value.to_str().ok());
    let wrong = |reason: String| HubError::Resume {
        url: reply.url.clone(),
        offset,
        reason,
    };
    let Some(found) = found else {
        return Err(wrong("HTTP 206 without Content-Range".into()));
    };
    let range = found.strip_prefix("bytes ").unwrap_or(found);
    let (bytes, total) = range.split_once('/').unwrap_or((range, "*"));
    let first = bytes.split('-').next().and_then(|text| text.parse().ok());
    if first != Some(offset) {
        return Err(wrong(format!("the server sends `{found}`")));
    }
    match total.parse() {
        Ok(found) if found != size_bytes => Err(HubError::WrongSize {
            url: reply.url.clone(),
            found,
            expected: size_bytes,
        }),
        _ => Ok(()),
    }
}

fn has_length(path: &Path, size_bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size_bytes)
}

fn create_parent(path: &Path) -> Result<(), HubError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent).map_err(|source| HubError::File {
        action: "make the folder",
        path: parent.into(),
        source,
    })
}
