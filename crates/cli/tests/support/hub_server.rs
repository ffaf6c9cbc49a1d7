//! A small model hub on 127.0.0.1: the hub itself, the "CDN" on another port that large files
//! redirect to, and faults on request.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A file of the repository; a large one is kept in LFS, as the hub does.
#[derive(Clone)]
pub(crate) struct HubFile {
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_large: bool,
}

impl HubFile {
    pub(crate) fn small(path: &str, text: &str) -> Self {
        Self {
            path: path.into(),
            bytes: text.into(),
            is_large: false,
        }
    }

    /// Bytes that differ from place to place, so that a mix-up shows.
    pub(crate) fn large(path: &str, len: usize) -> Self {
        let mut state = len as u32 | 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        Self {
            path: path.into(),
            bytes: (0..len).map(next).collect(),
            is_large: true,
        }
    }

    pub(crate) fn git_id(&self) -> String {
        let mut hash = Sha1::new_with_prefix(format!("blob {}\0", self.bytes.len()));
        hash.update(&self.bytes);
        format!("{:x}", hash.finalize())
    }

    pub(crate) fn sha256(&self) -> String {
        format!("{:x}", Sha256::digest(&self.bytes))
    }

    /// The name of its blob.
    pub(crate) fn etag(&self) -> String {
        match self.is_large {
            true => self.sha256(),
            false => self.git_id(),
        }
    }
}

/// Who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Hub,
    Cdn,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) place: Place,
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What goes wrong.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The same, and then the server waits for the client to go away.
    Stall(usize),
    /// One byte of the body is another.
    Corrupt,
    /// The body has one byte less, and its length says so.
    Shorten,
    /// The body comes without a length, with one byte more.
    Lengthen,
    /// The whole file comes although a part was asked for.
    IgnoreRange,
    /// The file is said to be of another commit.
    OtherCommit,
    /// Another answer: status, headers, body.
    Answer(u16, &'static [(&'static str, &'static str)], &'static str),
}

struct Planned {
    place: Place,
    path: &'static str,
    times: usize,
    fault: Fault,
}

/// The state of the hub.
struct State {
    files: Mutex<Vec<HubFile>>,
    planned: Mutex<Vec<Planned>>,
    seen: Mutex<Vec<Seen>>,
    has_hashes: Mutex<bool>,
    cdn: String,
}

/// A running hub. Its threads end with the test process.
pub(crate) struct HubServer {
    pub(crate) endpoint: String,
    state: Arc<State>,
}

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const REPO: &str = "jinaai/jina-embeddings-v3";
/// A former name of the repository.
pub(crate) const OLD_REPO: &str = "jinaai/old-name";
/// Part of the addresses of the CDN, which nobody should print.
pub(crate) const SIGNATURE: &str = "5igna7ure";

impl HubServer {
    pub(crate) fn start(files: Vec<HubFile>) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let cdn = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let endpoint = address(&hub);
        let state = Arc::new(State {
            files: Mutex::new(files),
            planned: Mutex::default(),
            seen: Mutex::default(),
            has_hashes: Mutex::new(true),
            cdn: address(&cdn),
        });
        for (listener, place) in [(hub, Place::Hub), (cdn, Place::Cdn)] {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that goes away is part of the tests.
                    thread::spawn(move || state.serve(place, stream).ok());
                }
            });
        }
        Self { endpoint, state }
    }

    /// Lets the next `times` requests at `place` whose path contains `path` fail.
    pub(crate) fn plan(&self, place: Place, path: &'static str, times: usize, fault: Fault) {
        self.state.planned.lock().unwrap().push(Planned {
            place,
            path,
            times,
            fault,
        });
    }

    /// Forgets faults that were not needed.
    pub(crate) fn heal(&self) {
        self.state.planned.lock().unwrap().clear();
    }

    /// Leaves sizes and hashes out of the list, as some mirrors do.
    pub(crate) fn forget_hashes(&self) {
        *self.state.has_hashes.lock().unwrap() = false;
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.seen.lock().unwrap())
    }

    pub(crate) fn file(&self, path: &str) -> HubFile {
        let files = self.state.files.lock().unwrap();
        files.iter().find(|file| file.path == path).unwrap().clone()
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    has_length: bool,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            has_length: true,
        }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn json(value: &serde_json::Value) -> Self {
        Self::new(200, value.to_string()).with("Content-Type", "application/json")
    }
}

impl State {
    fn serve(&self, place: Place, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if path.is_empty() {
            return Ok(());
        }
        let mut seen = Seen {
            place,
            method: method.into(),
            path: path.into(),
            headers: Vec::new(),
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            let name = name.to_ascii_lowercase();
            seen.headers.push((name, value.into()));
        }
        self.seen.lock().unwrap().push(seen.clone());

        let fault = self.next_fault(place, &seen.path);
        if matches!(fault, Some(Fault::IgnoreRange)) {
            seen.headers.retain(|(name, _)| name != "range");
        }
        let mut answer = match place {
            Place::Hub => self.hub(&seen),
            Place::Cdn => self.cdn(&seen),
        };
        let mut sent = usize::MAX;
        let mut stalls = false;
        match fault {
            Some(Fault::Cut(bytes)) => sent = bytes,
            Some(Fault::Stall(bytes)) => (sent, stalls) = (bytes, true),
            Some(Fault::Corrupt) => answer.body[0] ^= 1,
            Some(Fault::Shorten) => answer.body.truncate(answer.body.len() - 1),
            Some(Fault::Lengthen) => {
                answer.body.push(0);
                answer.has_length = false;
            }
            Some(Fault::OtherCommit) => {
                answer.headers.retain(|(name, _)| name != "X-Repo-Commit");
                answer = answer.with("X-Repo-Commit", "f".repeat(40));
            }
            Some(Fault::Answer(status, headers, body)) => {
                answer = Answer::new(status, body);
                for (name, value) in headers {
                    answer = answer.with(name, *value);
                }
            }
            Some(Fault::IgnoreRange) | None => {}
        }
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if answer.has_length {
            head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if seen.method != "HEAD" {
            stream.write_all(&answer.body[..answer.body.len().min(sent)])?;
        }
        stream.flush()?;
        if stalls {
            reader.read_to_end(&mut Vec::new())?;
        }
        Ok(())
    }

    fn next_fault(&self, place: Place, path: &str) -> Option<Fault> {
        let mut planned = self.planned.lock().unwrap();
        let mut planned = planned.iter_mut();
        let planned = planned
            .find(|plan| plan.times > 0 && plan.place == place && path.contains(plan.path))?;
        planned.times -= 1;
        Some(planned.fault.clone())
    }

    fn hub(&self, seen: &Seen) -> Answer {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        if path.contains(OLD_REPO) {
            let moved = seen.path.replace(OLD_REPO, REPO);
            return Answer::new(307, "").with("Location", moved);
        }
        let files = self.files.lock().unwrap().clone();
        let api = path.strip_prefix("/api/models/").unwrap_or("");
        if let Some(revision) = api.strip_prefix(&format!("{REPO}/revision/")) {
            if !["main", "v1", COMMIT].contains(&revision) {
                return refused(404, "RevisionNotFound", "Invalid rev id");
            }
            return Answer::json(&self.listing(&files, query.contains("blobs=true")));
        }
        if api.starts_with(&format!("{REPO}/tree/")) {
            return Answer::json(&tree(&files));
        }
        let Some(rest) = path.strip_prefix(&format!("/{REPO}/resolve/")) else {
            return refused(404, "RepoNotFound", "Repository not found");
        };
        let (_, name) = rest.split_once('/').unwrap_or((rest, ""));
        let Some(file) = files.iter().find(|file| file.path == name) else {
            return refused(404, "EntryNotFound", "Entry not found");
        };
        let answer = if file.is_large {
            let location = format!("{}/{}?signature={SIGNATURE}", self.cdn, file.sha256());
            Answer::new(302, "")
                .with("Location", location)
                .with("X-Linked-Etag", format!("\"{}\"", file.sha256()))
                .with("X-Linked-Size", file.bytes.len().to_string())
                .with("ETag", "\"the-redirects-own\"")
        } else {
            let etag = format!("\"{}\"", file.git_id());
            ranged(seen, &file.bytes).with("ETag", etag)
        };
        answer.with("X-Repo-Commit", COMMIT)
    }

    fn cdn(&self, seen: &Seen) -> Answer {
        let files = self.files.lock().unwrap();
        let hash = seen.path.trim_start_matches('/').split('?').next();
        match files
            .iter()
            .find(|file| Some(file.sha256().as_str()) == hash)
        {
            Some(file) => ranged(seen, &file.bytes).with("ETag", "\"s3-part-1\""),
            None => Answer::new(404, ""),
        }
    }

    fn listing(&self, files: &[HubFile], has_blobs: bool) -> serde_json::Value {
        let has_hashes = has_blobs && *self.has_hashes.lock().unwrap();
        let siblings = files.iter().map(|file| {
            let mut entry = json!({"rfilename": file.path});
            if has_hashes {
                entry["size"] = json!(file.bytes.len());
                entry["blobId"] = json!(file.git_id());
            }
            if has_hashes && file.is_large {
                entry["blobId"] = json!("9".repeat(40));
                entry["lfs"] = json!({
                    "sha256": file.sha256(), "size": file.bytes.len(), "pointerSize": 134
                });
            }
            entry
        });
        json!({
            "_id": "1", "id": REPO, "modelId": REPO, "sha": COMMIT, "private": false,
            "gated": false, "disabled": false, "tags": ["license:cc-by-nc-4.0"], "downloads": 0,
            "cardData": {"license": "cc-by-nc-4.0"}, "siblings": siblings.collect::<Vec<_>>(),
        })
    }
}

fn tree(files: &[HubFile]) -> serde_json::Value {
    let entries = files.iter().map(|file| {
        let size = file.bytes.len();
        let mut entry =
            json!({"type": "file", "path": file.path, "oid": file.git_id(), "size": size});
        if file.is_large {
            entry["lfs"] = json!({"oid": file.sha256(), "size": size, "pointerSize": 134});
        }
        entry
    });
    entries.collect()
}

fn refused(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status, json!({"error": message}).to_string())
        .with("Content-Type", "application/json")
        .with("X-Error-Code", code)
        .with("X-Error-Message", message)
}

fn ranged(seen: &Seen, bytes: &[u8]) -> Answer {
    let first = seen
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'))
        .and_then(|first| first.parse::<usize>().ok());
    let total = bytes.len();
    match first {
        None => Answer::new(200, bytes),
        Some(first) if first >= total => {
            Answer::new(416, "").with("Content-Range", format!("bytes */{total}"))
        }
        Some(first) => {
            let range = format!("bytes {first}-{}/{total}", total - 1);
            Answer::new(206, &bytes[first..]).with("Content-Range", range)
        }
    }
}
