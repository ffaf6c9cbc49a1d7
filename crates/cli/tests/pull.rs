//! `quintet pull` against a hub on 127.0.0.1: what it puts into the cache, and what it does when
//! the network, the server or the user gets in the way.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

#[path = "support/hub_server.rs"]
mod hub_server;
#[path = "support/proxy.rs"]
mod proxy;

use hub_server::{COMMIT, Fault, HubFile, HubServer, OLD_REPO, Place, REPO, SIGNATURE};
use proxy::Proxy;

const TOKEN: &str = "hf_thisIsTheSecret";
const WEIGHTS: &str = "model.safetensors";
/// Larger than the buffers of the client and the sockets together.
const WEIGHTS_BYTES: usize = 5 << 20;

/// What `pull` takes of the repository.
const WANTED: [&str; 8] = [
    "1_Pooling/config.json",
    "LICENSE",
    "README.md",
    "config.json",
    WEIGHTS,
    "retrieval_query/adapter_config.json",
    "retrieval_query/adapter_model.safetensors",
    "tokenizer.json",
];

fn repository() -> Vec<HubFile> {
    vec![
        HubFile::small(".gitattributes", "*.safetensors filter=lfs\n"),
        HubFile::small(
            "1_Pooling/config.json",
            "{\"pooling_mode_mean_tokens\": true}\n",
        ),
        HubFile::small("LICENSE", ""),
        HubFile::small("README.md", "# jina-embeddings-v3\n"),
        HubFile::small("config.json", "{\"hidden_size\": 8}\n"),
        HubFile::large(WEIGHTS, WEIGHTS_BYTES),
        HubFile::large("onnx/model.onnx", 1000),
        HubFile::large("pytorch_model.bin", 2000),
        HubFile::small("retrieval_query/adapter_config.json", "{\"r\": 4}\n"),
        HubFile::large("retrieval_query/adapter_model.safetensors", 70_000),
        HubFile::large("tokenizer.json", 300_000),
    ]
}

/// A hub, and a home with an empty cache.
struct World {
    hub: HubServer,
    home: tempfile::TempDir,
}

struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl World {
    fn new() -> Self {
        Self::with(repository())
    }

    fn with(files: Vec<HubFile>) -> Self {
        Self {
            hub: HubServer::start(files),
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quintet"));
        command
            .args(["pull", "--retry-delay-ms", "0"])
            .args(arguments)
            .env_clear()
            .env("HF_HOME", self.home.path())
            .env("HF_ENDPOINT", &self.hub.endpoint)
            .envs(variables.iter().copied());
        command
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Done {
        let output = self.command(arguments, variables).output().unwrap();
        Done {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// A run with the licence accepted.
    fn pull(&self, variables: &[(&str, &str)]) -> Done {
        self.run(&["--accept-license"], variables)
    }

    fn repo(&self) -> PathBuf {
        self.home
            .path()
            .join("hub/models--jinaai--jina-embeddings-v3")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    fn blob(&self, path: &str) -> PathBuf {
        self.repo().join("blobs").join(self.hub.file(path).etag())
    }

    fn incomplete(&self, path: &str) -> PathBuf {
        let name = format!("{}.incomplete", self.hub.file(path).etag());
        self.repo().join("blobs").join(name)
    }

    /// Everything that was asked for is there, and nothing else.
    fn assert_complete(&self) {
        for path in WANTED {
            let bytes = fs::read(self.snapshot().join(path)).unwrap();
            assert!(bytes == self.hub.file(path).bytes, "{path}");
        }
        let mut blobs: Vec<String> = names(&self.repo().join("blobs"));
        blobs.sort();
        let mut expected: Vec<String> = WANTED.map(|path| self.hub.file(path).etag()).into();
        expected.sort();
        assert_eq!(blobs, expected);
        let reference = fs::read_to_string(self.repo().join("refs/main")).unwrap();
        assert_eq!(reference, COMMIT);
    }

    /// Requests for files, as (who, path without query, Range).
    fn downloads(&self) -> Vec<(Place, String, Option<String>)> {
        let seen = self.hub.seen().into_iter();
        seen.filter(|request| !request.path.starts_with("/api/"))
            .map(|request| {
                let path = request.path.split('?').next().unwrap().to_owned();
                (
                    request.place,
                    path,
                    request.header("range").map(str::to_owned),
                )
            })
            .collect()
    }
}

impl Done {
    fn assert(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}", self.stderr);
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "no `{text}` in:\n{}",
                self.stderr
            );
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for secret in [TOKEN, SIGNATURE] {
            assert!(!self.stderr.contains(secret), "{}", self.stderr);
            assert!(!self.stdout.contains(secret), "{}", self.stdout);
        }
        if code != 0 {
            assert!(self.stderr.contains("hint: "), "{}", self.stderr);
        }
        self
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    entries.map(|entry| name(entry.unwrap())).collect()
}

#[test]
fn the_licence_is_shown_before_anything_is_downloaded() {
    let world = World::new();
    let done = world.run(&[], &[]).assert(
        1,
        &[
            "CC BY-NC 4.0",
            "not commercial",
            "Jina AI",
            "model.safetensors",
            "5.24 MB",
            "8 files, 5.61 MB; to download: 5.61 MB",
            "hint: when its terms fit your use, run `quintet pull jinaai/jina-embeddings-v3 \
             --accept-license`",
        ],
    );
    assert_eq!(done.stdout, "");
    assert_eq!(world.downloads(), []);
    assert!(!world.home.path().join("hub").exists());
}

#[test]
fn a_pull_fills_the_hubs_own_cache() {
    let world = World::new();
    let done = world
        .pull(&[])
        .assert(0, &["8 downloaded", "SHA-256 right"]);
    assert_eq!(done.stdout.trim_end(), world.snapshot().to_str().unwrap());
    world.assert_complete();
    let tag = fs::read_to_string(world.home.path().join("hub/CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: "));
    for unwanted in ["onnx", "pytorch_model.bin", ".gitattributes"] {
        assert!(!world.snapshot().join(unwanted).exists(), "{unwanted}");
    }
    #[cfg(unix)]
    {
        let link = fs::read_link(world.snapshot().join(WEIGHTS)).unwrap();
        let sha256 = world.hub.file(WEIGHTS).sha256();
        assert_eq!(link, PathBuf::from(format!("../../blobs/{sha256}")));
        let path = "retrieval_query/adapter_config.json";
        let link = fs::read_link(world.snapshot().join(path)).unwrap();
        let id = world.hub.file(path).git_id();
        assert_eq!(link, PathBuf::from(format!("../../../blobs/{id}")));
    }
}

#[test]
fn a_second_pull_downloads_nothing() {
    let world = World::new();
    world.pull(&[]).assert(0, &[]);
    world.hub.seen();
    // Nothing is downloaded, so nothing need be accepted.
    for arguments in [&["--accept-license"][..], &[]] {
        let done = world.run(arguments, &[]);
        let done = done.assert(0, &["in the cache", "0 downloaded", "8 already there"]);
        assert_eq!(done.stdout.trim_end(), world.snapshot().to_str().unwrap());
        assert_eq!(world.downloads(), []);
    }
    world.assert_complete();
}

#[test]
fn a_missing_link_is_made_again_from_its_blob() {
    let world = World::new();
    world.pull(&[]).assert(0, &[]);
    world.hub.seen();
    fs::remove_file(world.snapshot().join("config.json")).unwrap();
    fs::write(world.blob("tokenizer.json"), "short").unwrap();
    world.pull(&[]).assert(0, &["1 downloaded"]);
    assert_eq!(
        world.downloads().len(),
        2,
        "the hub and the CDN for one file"
    );
    world.assert_complete();
}

#[test]
fn a_cut_is_continued_where_it_was() {
    let world = World::new();
    world.hub.plan(Place::Cdn, "", 1, Fault::Cut(100_000));
    let sha256 = world.hub.file(WEIGHTS).sha256();
    let weights: &'static str = String::leak(sha256);
    world.hub.plan(Place::Cdn, weights, 2, Fault::Cut(2 << 20));
    let texts = [
        "broke after 2097152 of 5242880 bytes",
        "again from byte 4194304",
    ];
    world.pull(&[]).assert(0, &texts);
    world.assert_complete();
    let ranges: Vec<_> = world
        .downloads()
        .into_iter()
        .filter(|(place, path, _)| *place == Place::Cdn && path.contains(weights))
        .map(|(_, _, range)| range.unwrap_or_default())
        .collect();
    assert_eq!(ranges, ["", "bytes=2097152-", "bytes=4194304-"]);
}

#[test]
fn after_too_many_cuts_the_next_pull_continues() {
    let world = World::new();
    let sha256: &'static str = String::leak(world.hub.file(WEIGHTS).sha256());
    world.hub.plan(Place::Cdn, sha256, 100, Fault::Cut(1000));
    let texts = [
        "try 5 of 5 again",
        "error: the connection to",
        "broke after 6000 of 5242880 bytes",
        "hint: run the same command again",
    ];
    world.pull(&[]).assert(2, &texts);
    assert_eq!(fs::metadata(world.incomplete(WEIGHTS)).unwrap().len(), 6000);
    assert!(
        !world.repo().join("refs").exists(),
        "half a model is not `main`"
    );
    world.hub.heal();
    world.hub.seen();
    let done = world.run(&["--accept-license", "--json"], &[]);
    let done = done.assert(0, &["model.safetensors: continuing at 6.00 kB"]);
    world.assert_complete();
    let first = world.downloads().remove(0);
    assert_eq!(first.2.as_deref(), Some("bytes=6000-"));
    let summary: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(summary["downloaded_bytes"], WEIGHTS_BYTES - 6000);
    let statuses: BTreeMap<&str, &str> = summary["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            (
                file["path"].as_str().unwrap(),
                file["status"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(statuses[WEIGHTS], "resumed");
    assert_eq!(statuses["config.json"], "present");
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_what_came() {
    let world = World::new();
    let sha256: &'static str = String::leak(world.hub.file(WEIGHTS).sha256());
    world.hub.plan(Place::Cdn, sha256, 1, Fault::Stall(1 << 20));
    let mut child = world
        .command(&["--accept-license"], &[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let part = world.incomplete(WEIGHTS);
    while fs::metadata(&part).map_or(0, |metadata| metadata.len()) < 1 << 20 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    assert!(!child.wait().unwrap().success());
    world.hub.seen();
    world.pull(&[]).assert(0, &["continuing at 1.05 MB"]);
    world.assert_complete();
    let last = world.downloads().pop().unwrap();
    assert_eq!(last.2.as_deref(), Some("bytes=1048576-"));
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let world = World::new();
    let sha256: &'static str = String::leak(world.hub.file(WEIGHTS).sha256());
    world.hub.plan(Place::Cdn, sha256, 1, Fault::Cut(3_000_000));
    world.hub.plan(Place::Cdn, sha256, 1, Fault::IgnoreRange);
    world.pull(&[]).assert(0, &[]);
    world.assert_complete();
}

#[test]
fn a_wrong_hash_is_told_and_the_file_removed() {
    let sha256: &'static str = String::leak(World::new().hub.file(WEIGHTS).sha256());
    let cases = [
        (WEIGHTS, Place::Cdn, sha256, "SHA-256"),
        ("README.md", Place::Hub, "/README.md", "git blob id"),
    ];
    for (path, place, address, kind) in cases {
        let world = World::new();
        world.hub.plan(place, address, 1, Fault::Corrupt);
        let mut changed = world.hub.file(path);
        let expected = changed.etag();
        changed.bytes[0] ^= 1;
        let found = changed.etag();
        let text = format!("{path}` has {kind} {found}, expected {expected}; the file was removed");
        world.pull(&[]).assert(2, &[&text]);
        for etag in [found, expected] {
            let blobs = world.repo().join("blobs");
            assert!(!blobs.join(&etag).exists());
            assert!(!blobs.join(format!("{etag}.incomplete")).exists());
        }
        assert!(!world.repo().join("refs").exists());
        world.pull(&[]).assert(0, &[]);
        world.assert_complete();
    }
}

#[test]
fn a_damaged_part_is_fetched_again_from_its_start() {
    let world = World::new();
    let part = world.incomplete(WEIGHTS);
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    for garbage in [
        vec![7; 1000],
        vec![7; WEIGHTS_BYTES],
        vec![7; WEIGHTS_BYTES + 1],
    ] {
        fs::write(&part, garbage).unwrap();
        world.pull(&[]).assert(0, &[]);
        world.assert_complete();
        fs::remove_file(world.blob(WEIGHTS)).unwrap();
    }
}

#[test]
fn a_wrong_length_is_told() {
    let cases = [
        (Fault::Shorten, "has 5242879 bytes, expected 5242880"),
        (Fault::Lengthen, "has 5242881 bytes, expected 5242880"),
    ];
    for (fault, text) in cases {
        let world = World::new();
        let sha256: &'static str = String::leak(world.hub.file(WEIGHTS).sha256());
        world.hub.plan(Place::Cdn, sha256, 9, fault);
        world.pull(&[]).assert(2, &[text, "hint: try again"]);
        assert!(!world.blob(WEIGHTS).exists());
        world.hub.heal();
        world.pull(&[]).assert(0, &[]);
        world.assert_complete();
    }
}

#[test]
fn files_of_another_commit_are_refused() {
    let world = World::new();
    world
        .hub
        .plan(Place::Hub, "/tokenizer.json", 1, Fault::OtherCommit);
    let expected = format!("serves commit `{}`, expected `{COMMIT}`", "f".repeat(40));
    world.pull(&[]).assert(2, &[&expected]);
}

#[test]
fn refusals_say_what_to_do() {
    let json = "{\"error\": \"Some words of the hub\"}";
    let gated = Fault::Answer(403, &[("X-Error-Code", "GatedRepo")], json);
    let page = "hint: ask for access on http://127.0.0.1";
    type Variables = &'static [(&'static str, &'static str)];
    let cases: [(&'static str, Fault, Variables, &[&str]); 6] = [
        (
            "/api/",
            Fault::Answer(401, &[], json),
            &[],
            &["HTTP 401", "`Some words of the hub`", "set it in HF_TOKEN"],
        ),
        (
            "/api/",
            Fault::Answer(401, &[], "{\"error\": \"bad hf_thisIsTheSecret\"}"),
            &[("HF_TOKEN", TOKEN)],
            &["HTTP 401", "`bad ***`", "check that the token in HF_TOKEN"],
        ),
        (
            "/resolve/",
            gated.clone(),
            &[],
            &["the model is gated", page, "HF_TOKEN"],
        ),
        (
            "/resolve/",
            gated,
            &[("HF_TOKEN", TOKEN)],
            &[
                "HTTP 403",
                page,
                "/jinaai/jina-embeddings-v3; check that the token",
            ],
        ),
        (
            "/api/",
            Fault::Answer(404, &[], "not found"),
            &[],
            &[
                "has no model or revision at",
                "HTTP 404",
                "check the spelling",
            ],
        ),
        (
            "/resolve/",
            Fault::Answer(418, &[], ""),
            &[],
            &["HTTP 418, expected 200", "HF_ENDPOINT"],
        ),
    ];
    for (path, fault, variables, texts) in cases {
        let world = World::new();
        world.hub.plan(Place::Hub, path, 9, fault);
        world.pull(variables).assert(1, texts);
    }
}

#[test]
fn unknown_models_and_revisions_are_told_apart() {
    let world = World::new();
    let done = world.run(&["jinaai/no-such-model"], &[]);
    done.assert(
        1,
        &[
            "the hub has no model at",
            "/api/models/jinaai/no-such-model",
            "HTTP 404",
        ],
    );
    let done = world.run(&["--revision", "v9"], &[]);
    done.assert(1, &["the hub has no revision at", "hint: check --revision"]);
    let done = world.run(&["jina-embeddings-v3"], &[]);
    done.assert(
        1,
        &["`jina-embeddings-v3` is no hub id, expected `org/name`"],
    );
    let done = world.run(&["a/b@v1", "--revision", "v2"], &[]);
    done.assert(1, &["two revisions"]);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let busy = Fault::Answer(429, &[("Retry-After", "7")], "");
    for (place, path) in [
        (Place::Hub, "/api/"),
        (Place::Hub, "/resolve/"),
        (Place::Cdn, ""),
    ] {
        let world = World::new();
        world.hub.plan(place, path, 2, busy.clone());
        world.hub.plan(place, path, 2, Fault::Answer(503, &[], ""));
        let texts = [
            "HTTP 429",
            "(the server asks for 7 s)",
            "HTTP 503",
            "try 4 of 5 again",
        ];
        world.pull(&[]).assert(0, &texts);
        world.assert_complete();
    }
}

#[test]
fn a_hub_that_stays_busy_is_left_alone() {
    let world = World::new();
    let busy = Fault::Answer(429, &[("Retry-After", "7")], "");
    world.hub.plan(Place::Hub, "/api/", 99, busy);
    let texts = [
        "error: the hub limits requests",
        "hint: try again in 7 s; a token in HF_TOKEN",
    ];
    world.pull(&[]).assert(1, &texts);
    assert_eq!(world.hub.seen().len(), 6);

    let world = World::new();
    let closed = Fault::Answer(429, &[("Retry-After", "3600")], "");
    world.hub.plan(Place::Hub, "/api/", 99, closed);
    world.pull(&[]).assert(1, &["hint: try again in 3600 s"]);
    assert_eq!(world.hub.seen().len(), 1, "nobody waits for an hour");

    let world = World::new();
    world
        .hub
        .plan(Place::Hub, "/resolve/", 99, Fault::Answer(500, &[], ""));
    world
        .pull(&[])
        .assert(2, &["answered HTTP 500", "hint: the server has a problem"]);
}

#[test]
fn web_pages_are_no_models() {
    let html = &[("Content-Type", "text/html; charset=utf-8")];
    let page = Fault::Answer(200, html, "<!DOCTYPE html><title>Sign in</title>");
    let cases = [
        (
            "/api/",
            page.clone(),
            "with a web page (`text/html; charset=utf-8`), expected JSON",
        ),
        ("/resolve/", page, "expected a file of the model"),
        (
            "/api/",
            Fault::Answer(200, &[], "<html>"),
            "with a web page",
        ),
    ];
    for (path, fault, text) in cases {
        let world = World::new();
        world.hub.plan(Place::Hub, path, 9, fault);
        world
            .pull(&[])
            .assert(1, &[text, "hint: a proxy or a sign-in page"]);
    }
    for body in ["[1, 2]", "{\"sha\": 5}", ""] {
        let world = World::new();
        world
            .hub
            .plan(Place::Hub, "/api/", 9, Fault::Answer(200, &[], body));
        world
            .pull(&[])
            .assert(2, &["is not the list of a model's files", "HF_ENDPOINT"]);
    }
}

#[test]
fn a_repository_without_usable_weights_is_refused() {
    let world = World::with(vec![
        HubFile::small("config.json", "{}"),
        HubFile::large("pytorch_model.bin", 10),
    ]);
    let done = world.pull(&[]);
    done.assert(
        1,
        &[
            "has no weights that can be used",
            "found `pytorch_model.bin`",
        ],
    );
}

#[test]
fn gguf_is_taken_where_there_are_no_safetensors() {
    let world = World::with(vec![
        HubFile::large("jina-embeddings-v3-Q4_K_M.gguf", 10),
        HubFile::large("jina-embeddings-v3-F16.gguf", 20),
        HubFile::large("lora-separation-jina-embeddings-v3-F16.gguf", 30),
    ]);
    world.pull(&[]).assert(0, &["2 files"]);
    let mut files = names(&world.snapshot());
    files.sort();
    let expected = [
        "jina-embeddings-v3-F16.gguf",
        "lora-separation-jina-embeddings-v3-F16.gguf",
    ];
    assert_eq!(files, expected);
}

#[test]
fn offline_means_the_cache_only() {
    let world = World::new();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let texts = [
        "HF_HUB_OFFLINE is set",
        "cannot serve",
        "is not in the cache",
        "hint: unset",
    ];
    world.pull(&offline).assert(1, &texts);
    assert!(world.hub.seen().is_empty());
    world.pull(&[]).assert(0, &[]);
    world.hub.seen();
    let done = world.run(&[], &offline).assert(0, &["using the cache"]);
    assert_eq!(done.stdout.trim_end(), world.snapshot().to_str().unwrap());
    assert!(world.hub.seen().is_empty());
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let bearer = format!("Bearer {TOKEN}");
    let world = World::new();
    fs::write(world.home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    world.pull(&[]).assert(0, &[]);
    let seen = world.hub.seen();
    let at = |place| seen.iter().filter(move |request| request.place == place);
    assert!(at(Place::Hub).all(|request| request.header("authorization") == Some(&bearer)));
    assert_eq!(at(Place::Cdn).count(), 3);
    assert!(at(Place::Cdn).all(|request| request.header("authorization").is_none()));

    let world = World::new();
    world.pull(&[]).assert(0, &[]);
    let seen = world.hub.seen();
    assert!(
        seen.iter()
            .all(|request| request.header("authorization").is_none())
    );
    let agent = seen[0].header("user-agent").unwrap();
    assert!(agent.starts_with("quintet/"), "{agent}");
}

#[test]
fn a_renamed_model_is_followed_on_the_hub() {
    let world = World::new();
    let done = world.run(&[OLD_REPO, "--accept-license"], &[("HF_TOKEN", TOKEN)]);
    done.assert(0, &[]);
    let seen = world.hub.seen();
    let hub = seen.iter().filter(|request| request.place == Place::Hub);
    assert!(hub.clone().any(|request| request.path.contains(OLD_REPO)));
    assert!(hub.clone().any(|request| request.path.contains(REPO)));
    assert!(
        hub.clone()
            .all(|request| request.header("authorization").is_some())
    );
    let repo = world.home.path().join("hub/models--jinaai--old-name");
    assert!(repo.join("snapshots").join(COMMIT).join(WEIGHTS).is_file());
}

#[test]
fn endless_redirects_end() {
    let world = World::new();
    let again = Fault::Answer(302, &[("Location", "/api/again")], "");
    world.hub.plan(Place::Hub, "/api/", 99, again);
    world.pull(&[]).assert(2, &["more than 10 times"]);
}

#[test]
fn requests_go_through_the_proxy_but_for_the_hosts_without() {
    let world = World::new();
    let hub = world.hub.endpoint.strip_prefix("http://").unwrap();
    let proxy = Proxy::start(hub.to_owned(), None);
    let address = format!("http://user:pass@{}", proxy.address);
    let variables = [
        ("HF_ENDPOINT", "http://hub.invalid"),
        ("HTTP_PROXY", address.as_str()),
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
        ("NO_PROXY", "localhost,127.0.0.1"),
        ("HF_TOKEN", TOKEN),
    ];
    world
        .pull(&variables)
        .assert(0, &["from http://hub.invalid"]);
    world.assert_complete();
    let heads = proxy.seen();
    assert!(!heads.is_empty());
    for head in heads {
        assert!(head.starts_with("CONNECT hub.invalid:80 "), "{head}");
        let head = head.to_ascii_lowercase();
        // user:pass
        assert!(
            head.contains("proxy-authorization: basic dxnlcjpwyxnz"),
            "{head}"
        );
        assert!(!head.contains("bearer"), "{head}");
    }
    assert!(
        world
            .hub
            .seen()
            .iter()
            .any(|request| request.place == Place::Cdn)
    );
}

#[test]
fn a_proxy_that_does_not_work_is_named_without_its_password() {
    let world = World::new();
    let refusing = Proxy::start(String::new(), Some("407 Proxy Authentication Required"));
    for address in [refusing.address.as_str(), "127.0.0.1:9"] {
        let url = format!("http://user:pa55word@{address}");
        let done = world.pull(&[("http_proxy", url.as_str())]);
        let named = format!("through the proxy `{address}` (from http_proxy)");
        let done = done.assert(1, &[&named, "hint: check the address and password"]);
        assert!(!done.stderr.contains("pa55word"), "{}", done.stderr);
        assert!(
            done.stderr.contains("407") || address.ends_with(":9"),
            "{}",
            done.stderr
        );
    }
    let done = world.pull(&[("ALL_PROXY", "nonsense://user:pa55word@x")]);
    let done = done.assert(1, &["ALL_PROXY is no address of a proxy"]);
    assert!(!done.stderr.contains("pa55word"), "{}", done.stderr);
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    let world = World::new();
    let done = world.pull(&[("HF_ENDPOINT", "http://127.0.0.1:9")]);
    let texts = [
        "cannot reach `http://127.0.0.1:9/api/models",
        "hint: check the network",
    ];
    done.assert(1, &texts);
    let done = world.pull(&[("HF_ENDPOINT", "huggingface.co")]);
    done.assert(1, &["HF_ENDPOINT is no address of a hub"]);
}

#[test]
fn a_revision_gets_its_own_reference() {
    let world = World::new();
    let done = world.run(&["--revision", "v1", "--accept-license"], &[]);
    done.assert(0, &["at v1 (commit 0123456789abcdef"]);
    assert_eq!(names(&world.repo().join("refs")), ["v1"]);
    let model = format!("{REPO}@{COMMIT}");
    world.run(&[&model], &[]).assert(0, &["8 already there"]);
    assert_eq!(names(&world.repo().join("refs")), ["v1"]);
}

#[test]
fn json_tells_a_script_everything() {
    let world = World::new();
    let done = world.run(&["--json"], &[]);
    let done = done.assert(1, &["--json --accept-license`"]);
    let summary: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(summary["status"], "license_not_accepted");
    assert_eq!(summary["license"], "cc-by-nc-4.0");
    let done = world
        .run(&["--json", "--accept-license"], &[])
        .assert(0, &[]);
    let summary: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(summary["status"], "complete");
    assert_eq!(summary["model"], REPO);
    assert_eq!(summary["revision"], "main");
    assert_eq!(summary["commit"], COMMIT);
    assert_eq!(summary["snapshot"], world.snapshot().to_str().unwrap());
    assert_eq!(summary["total_bytes"], summary["downloaded_bytes"]);
    let files = summary["files"].as_array().unwrap();
    let mut paths: Vec<_> = files
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, WANTED);
    assert!(files.iter().all(|file| file["status"] == "downloaded"));
}

#[test]
fn two_pulls_at_once_download_once() {
    let world = World::new();
    let etag = world.hub.file(WEIGHTS).etag();
    let locks = world
        .home
        .path()
        .join("hub/.locks/models--jinaai--jina-embeddings-v3");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{etag}.lock"))).unwrap();
    lock.lock().unwrap();
    let mut child = world
        .command(&["--accept-license"], &[])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let waiting = "model.safetensors: another process is downloading it, waiting";
    assert!(lines.any(|line| line.unwrap().contains(waiting)));
    // The holder of the lock finishes its work.
    fs::write(world.blob(WEIGHTS), &world.hub.file(WEIGHTS).bytes).unwrap();
    drop(lock);
    assert!(lines.any(|line| line.unwrap().contains("(5.24 MB): already in the cache")));
    assert!(child.wait().unwrap().success());
    let downloads = world.downloads();
    let fetched: Vec<_> = downloads.iter().map(|(_, path, _)| path.as_str()).collect();
    assert!(
        fetched
            .iter()
            .all(|path| !path.ends_with("/model.safetensors")),
        "{fetched:?}"
    );
    assert!(
        fetched.iter().all(|path| !path.contains(&etag)),
        "{fetched:?}"
    );
    world.assert_complete();
}

#[test]
fn a_mirror_without_hashes_in_its_list_is_asked_for_each_file() {
    let world = World::new();
    world.hub.forget_hashes();
    world.pull(&[]).assert(0, &[]);
    world.assert_complete();

    let world = World::new();
    world.hub.forget_hashes();
    world
        .hub
        .plan(Place::Hub, "/resolve/", 99, Fault::Answer(200, &[], "{}"));
    world
        .pull(&[])
        .assert(2, &["has no SHA-256 or git blob id of the file"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let world = World::new();
    let file = world.home.path().join("a file");
    fs::write(&file, "").unwrap();
    let cache = file.join("hub");
    let done = world.pull(&[("HF_HUB_CACHE", cache.to_str().unwrap())]);
    done.assert(
        1,
        &[
            "a file/hub` in the model cache",
            "hint: check the permissions",
        ],
    );
}

/// Python's own library finds what we pulled, and we find what it pulled.
#[test]
fn pythons_huggingface_hub_shares_the_cache() {
    let python = std::env::var("QUINTET_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_library = Command::new(&python)
        .args(["-c", "import huggingface_hub"])
        .stderr(Stdio::null())
        .status();
    if !has_library.is_ok_and(|status| status.success()) {
        eprintln!(
            "skipped: `{python}` cannot import huggingface_hub (name one in QUINTET_TEST_PYTHON)"
        );
        return;
    }
    let run = |world: &World, script: &str| {
        let output = Command::new(&python)
            .args(["-c", script, REPO])
            .env("HF_HOME", world.home.path())
            .env("HF_ENDPOINT", &world.hub.endpoint)
            .env("HF_HUB_DISABLE_XET", "1")
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_HUB_OFFLINE")
            .env("NO_PROXY", "127.0.0.1")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };

    // Ours, seen by Python.
    let world = World::new();
    world.pull(&[]).assert(0, &[]);
    let found = run(
        &world,
        "import sys, huggingface_hub as h\n\
         print(h.snapshot_download(sys.argv[1], local_files_only=True))",
    );
    assert_eq!(Path::new(&found), world.snapshot());
    let found = run(
        &world,
        "import sys, huggingface_hub as h\n\
         print(h.try_to_load_from_cache(sys.argv[1], 'model.safetensors'))",
    );
    assert_eq!(Path::new(&found), world.snapshot().join(WEIGHTS));
    world.hub.seen();
    run(
        &world,
        "import sys, huggingface_hub as h\n\
         print(h.snapshot_download(sys.argv[1], allow_patterns=['*.safetensors', '*.json'],\n\
         ignore_patterns=['onnx/*']))",
    );
    let fetched = world.downloads();
    assert!(
        fetched.iter().all(|(place, _, _)| *place == Place::Hub),
        "{fetched:?}"
    );

    // Python's, seen by us.
    let world = World::new();
    let made = run(
        &world,
        "import sys, huggingface_hub as h\n\
         print(h.snapshot_download(sys.argv[1], ignore_patterns=['onnx/*', '*.bin', '.git*']))",
    );
    assert_eq!(Path::new(&made), world.snapshot());
    world.hub.seen();
    world
        .run(&[], &[])
        .assert(0, &["8 already there", "0 downloaded"]);
    assert_eq!(world.downloads(), []);
    world.run(&[], &[("HF_HUB_OFFLINE", "1")]).assert(0, &[]);
    let cache = quintet_engine::weights::hub::HubCache::new(world.home.path().join("hub"));
    let models = cache.models().unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].id.repo(), REPO);
    assert!(models[0].snapshots[0].is_complete);
    assert_eq!(models[0].snapshots[0].revisions, ["main"]);
    assert_eq!(cache.resolve(&models[0].id).unwrap(), world.snapshot());
}
