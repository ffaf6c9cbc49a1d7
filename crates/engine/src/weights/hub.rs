//! The model hub's cache on disk: where a model's files lie and how an id finds them.
//!
//! The layout is the one of Python's `huggingface_hub`, so either side reuses what the other
//! fetched:
//!
//! ```text
//! <root>/models--org--name/
//!   blobs/<etag>                     the bytes, named by their hash
//!   refs/<revision>                  a branch or tag: one line, the commit
//!   snapshots/<commit>/<file>        a relative link to ../../blobs/<etag>
//! <root>/.locks/models--org--name/<etag>.lock
//! ```

mod names;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use self::names::{Commit, DEFAULT_REVISION, Etag, HubId, HubIdError, RepoPath};

/// A cache folder, usually `~/.cache/huggingface/hub`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

/// How a file came into a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A relative link to the blob.
    Linked,
    /// The file system makes no links: the blob itself was moved into the snapshot.
    Moved,
    /// The file system makes no links: the snapshot has its own copy.
    Copied,
}

/// A model of which the cache holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// Its id, without a revision.
    pub id: HubId,
    /// Its snapshots, ordered by commit.
    pub snapshots: Vec<CachedSnapshot>,
}

/// One commit of a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedSnapshot {
    /// The commit.
    pub commit: Commit,
    /// The folder with its files.
    pub path: PathBuf,
    /// The branches and tags that point at it, sorted.
    pub revisions: Vec<String>,
    /// Size of its files in bytes, links followed.
    pub size_bytes: u64,
    /// Whether it can be loaded: see [`HubCache::resolve`].
    pub is_complete: bool,
}

impl HubCache {
    /// The cache in `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a model, whatever the revision.
    pub fn repo(&self, id: &HubId) -> PathBuf {
        self.root.join(folder_name(id))
    }

    /// The file with a blob's bytes.
    pub fn blob(&self, id: &HubId, etag: &Etag) -> PathBuf {
        self.repo(id).join("blobs").join(etag.as_str())
    }

    /// The file with the part of a blob that arrived so far.
    pub fn incomplete(&self, id: &HubId, etag: &Etag) -> PathBuf {
        let name = format!("{etag}.incomplete");
        self.repo(id).join("blobs").join(name)
    }

    /// The file whose lock a process holds while it writes a blob.
    pub fn lock(&self, id: &HubId, etag: &Etag) -> PathBuf {
        let name = format!("{etag}.lock");
        self.root.join(".locks").join(folder_name(id)).join(name)
    }

    /// The file that says which commit the id's branch or tag means.
    pub fn reference(&self, id: &HubId) -> PathBuf {
        let revision = id.revision().split('/');
        revision.fold(self.repo(id).join("refs"), |path, part| path.join(part))
    }

    /// The folder with one commit's files.
    pub fn snapshot(&self, id: &HubId, commit: &Commit) -> PathBuf {
        self.repo(id).join("snapshots").join(commit.as_str())
    }

    /// One file of a commit.
    pub fn file(&self, id: &HubId, commit: &Commit, path: &RepoPath) -> PathBuf {
        let parts = path.as_str().split('/');
        parts.fold(self.snapshot(id, commit), |path, part| path.join(part))
    }

    /// The commit that the id's revision means in this cache; a full hash means itself.
    ///
    /// # Errors
    /// [`HubCacheError::NotCached`], [`HubCacheError::UnknownRevision`],
    /// [`HubCacheError::BrokenReference`] or [`HubCacheError::Io`].
    pub fn commit(&self, id: &HubId) -> Result<Commit, HubCacheError> {
        let repo = self.repo(id);
        if !repo.is_dir() {
            return Err(HubCacheError::NotCached {
                id: id.clone(),
                path: repo,
            });
        }
        let reference = self.reference(id);
        match fs::read_to_string(&reference) {
            Ok(text) => Commit::parse(&text).ok_or_else(|| HubCacheError::BrokenReference {
                path: reference,
                found: text.chars().take(60).collect(),
            }),
            Err(error) if is_absent(&error) => {
                Commit::parse(id.revision()).ok_or_else(|| HubCacheError::UnknownRevision {
                    id: id.clone(),
                    path: reference,
                })
            }
            Err(source) => Err(io_error(&reference, source)),
        }
    }

    /// The snapshot folder that a model can be loaded from.
    ///
    /// A snapshot counts when the links of `config.json` and of a `.safetensors` file in its top
    /// folder lead to files, or that of a `.gguf` file, which holds its own configuration.
    ///
    /// # Errors
    /// Those of [`HubCache::commit`], and [`HubCacheError::Incomplete`] when a file is missing.
    pub fn resolve(&self, id: &HubId) -> Result<PathBuf, HubCacheError> {
        let commit = self.commit(id)?;
        let snapshot = self.snapshot(id, &commit);
        match missing_file(&snapshot)? {
            None => Ok(snapshot),
            Some(missing) => Err(HubCacheError::Incomplete {
                id: id.clone(),
                snapshot,
                missing,
            }),
        }
    }

    /// Every model in the cache, ordered by id; empty when the folder does not exist.
    ///
    /// Entries that are no models of the form `org/name` are left out.
    ///
    /// # Errors
    /// [`HubCacheError::Io`] when a folder cannot be read.
    pub fn models(&self) -> Result<Vec<CachedModel>, HubCacheError> {
        let mut models = Vec::new();
        for folder in file_names(&self.root)? {
            let Some(id) = id_of_folder(&folder) else {
                continue;
            };
            if self.repo(&id).is_dir() {
                let snapshots = self.snapshots(&id)?;
                models.push(CachedModel { id, snapshots });
            }
        }
        models.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(models)
    }

    /// The snapshots of one model, ordered by commit; empty when there are none.
    ///
    /// # Errors
    /// [`HubCacheError::Io`] when a folder cannot be read.
    pub fn snapshots(&self, id: &HubId) -> Result<Vec<CachedSnapshot>, HubCacheError> {
        let references = references(&self.repo(id).join("refs"), "")?;
        let mut snapshots = Vec::new();
        for name in file_names(&self.repo(id).join("snapshots"))? {
            let Some(commit) = Commit::parse(&name) else {
                continue;
            };
            let path = self.snapshot(id, &commit);
            let mut revisions: Vec<String> = references
                .iter()
                .filter(|(_, target)| *target == commit)
                .map(|(revision, _)| revision.clone())
                .collect();
            revisions.sort();
            snapshots.push(CachedSnapshot {
                size_bytes: size_of_folder(&path)?,
                is_complete: missing_file(&path)?.is_none(),
                commit,
                path,
                revisions,
            });
        }
        snapshots.sort_by(|a, b| a.commit.cmp(&b.commit));
        Ok(snapshots)
    }

    /// Puts a blob into a snapshot: a relative link, or the bytes where links cannot be made.
    ///
    /// `is_new` says that no other snapshot can use the blob yet, so that it may be moved instead
    /// of copied. What stood at the place before is replaced.
    ///
    /// # Errors
    /// [`HubCacheError::Io`] when the folder cannot be written.
    pub fn place(
        &self,
        id: &HubId,
        commit: &Commit,
        path: &RepoPath,
        etag: &Etag,
        is_new: bool,
    ) -> Result<Placement, HubCacheError> {
        self.place_with(symlink, id, commit, path, etag, is_new)
    }

    fn place_with(
        &self,
        symlink: impl Fn(&Path, &Path) -> io::Result<()>,
        id: &HubId,
        commit: &Commit,
        path: &RepoPath,
        etag: &Etag,
        is_new: bool,
    ) -> Result<Placement, HubCacheError> {
        let file = self.file(id, commit, path);
        let blob = self.blob(id, etag);
        create_parent(&file)?;
        match fs::remove_file(&file) {
            Err(error) if !is_absent(&error) => return Err(io_error(&file, error)),
            _ => {}
        }
        let depth = path.as_str().split('/').count();
        let mut target: PathBuf = std::iter::repeat_n("..", depth + 1).collect();
        target.extend(["blobs", etag.as_str()]);
        match symlink(&target, &file) {
            Ok(()) => return Ok(Placement::Linked),
            // Another process placed the same file in the meantime.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && file.is_file() => {
                return Ok(Placement::Linked);
            }
            Err(_) => {}
        }
        let placement = if is_new {
            fs::rename(&blob, &file).map(|()| Placement::Moved)
        } else {
            fs::copy(&blob, &file).map(|_| Placement::Copied)
        };
        placement.map_err(|source| io_error(&file, source))
    }

    /// Lets the id's branch or tag mean `commit`; does nothing when the revision is the commit or
    /// already means it.
    ///
    /// The file is replaced in one step: a reader never sees half of it.
    ///
    /// # Errors
    /// [`HubCacheError::Io`] when the folder cannot be written.
    pub fn point(&self, id: &HubId, commit: &Commit) -> Result<(), HubCacheError> {
        if id.revision() == commit.as_str() {
            return Ok(());
        }
        let reference = self.reference(id);
        if fs::read_to_string(&reference).is_ok_and(|found| found == commit.as_str()) {
            return Ok(());
        }
        create_parent(&reference)?;
        let mut temporary = reference.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        fs::write(&temporary, commit.as_str()).map_err(|source| io_error(&temporary, source))?;
        fs::rename(&temporary, &reference).map_err(|source| io_error(&reference, source))
    }

    /// Makes the cache folder and marks it as one that backups can skip (`CACHEDIR.TAG`).
    ///
    /// # Errors
    /// [`HubCacheError::Io`] when the folder cannot be made; a missing mark is no error.
    pub fn create(&self) -> Result<(), HubCacheError> {
        fs::create_dir_all(&self.root).map_err(|source| io_error(&self.root, source))?;
        let tag = fs::File::create_new(self.root.join("CACHEDIR.TAG"));
        if let Ok(mut tag) = tag {
            // A convenience for backups only; the cache works without it.
            let _ = tag.write_all(CACHE_TAG.as_bytes());
        }
        Ok(())
    }
}

/// The first line is fixed by <https://bford.info/cachedir/>.
const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file marks a cache folder of models from a model hub.\n\
    # For information about cache directory tags see https://bford.info/cachedir/\n";

/// Why a model was not found in the cache, or could not be put there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubCacheError {
    /// The cache has no folder for the model.
    #[error("model `{id}` is not in the cache: no folder `{path}`", path = path.display())]
    NotCached {
        /// The model.
        id: HubId,
        /// Where it would lie.
        path: PathBuf,
    },
    /// The model is there, but the branch, tag or commit is not.
    #[error(
        "revision `{revision}` of model `{repo}` is not in the cache: no file `{path}`",
        revision = id.revision(),
        repo = id.repo(),
        path = path.display()
    )]
    UnknownRevision {
        /// The model with its revision.
        id: HubId,
        /// The reference looked for.
        path: PathBuf,
    },
    /// A reference that holds no commit.
    #[error("`{path}` holds `{found}`, expected a commit of 40 digits", path = path.display())]
    BrokenReference {
        /// The reference.
        path: PathBuf,
        /// The start of its text.
        found: String,
    },
    /// A snapshot that cannot be loaded.
    #[error("the snapshot of model `{id}` has no {missing}: `{path}`", path = snapshot.display())]
    Incomplete {
        /// The model.
        id: HubId,
        /// Its folder.
        snapshot: PathBuf,
        /// What was looked for.
        missing: &'static str,
    },
    /// The operating system refused.
    #[error("cannot use `{path}` in the model cache", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HubCacheError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotCached { id, .. }
            | Self::UnknownRevision { id, .. }
            | Self::Incomplete { id, .. } => format!("fetch it with `quintet pull {id}`"),
            Self::BrokenReference { path, .. } => {
                format!("delete `{}` and pull the model again", path.display())
            }
            Self::Io { path, .. } => format!(
                "check the permissions of `{}`, or name another folder in HF_HUB_CACHE",
                path.display()
            ),
        }
    }
}

/// The folder of a model. Names never hold `--`, so that it can be read back.
fn folder_name(id: &HubId) -> String {
    format!("models--{}--{}", id.org(), id.name())
}

fn id_of_folder(folder: &str) -> Option<HubId> {
    let (org, name) = folder.strip_prefix("models--")?.split_once("--")?;
    HubId::parse(&format!("{org}/{name}")).ok()
}

fn io_error(path: &Path, source: io::Error) -> HubCacheError {
    HubCacheError::Io {
        path: path.into(),
        source,
    }
}

fn create_parent(path: &Path) -> Result<(), HubCacheError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(|source| io_error(parent, source)),
        None => Ok(()),
    }
}

/// What a snapshot lacks to be loaded, `None` when nothing.
fn missing_file(snapshot: &Path) -> Result<Option<&'static str>, HubCacheError> {
    let names = file_names(snapshot)?;
    let has = |wanted: &dyn Fn(&str) -> bool| {
        let mut names = names.iter();
        names.any(|name| wanted(name) && snapshot.join(name).is_file())
    };
    if has(&|name| name.ends_with(".gguf")) {
        return Ok(None);
    }
    if !has(&|name| name == "config.json") {
        return Ok(Some("`config.json`"));
    }
    let has_weights = has(&|name| name.ends_with(".safetensors"));
    Ok((!has_weights).then_some("weights (`*.safetensors` or `*.gguf`)"))
}

/// Branches and tags with their commits, those in sub-folders (`refs/pr/1`) included.
fn references(folder: &Path, prefix: &str) -> Result<Vec<(String, Commit)>, HubCacheError> {
    let mut found = Vec::new();
    for name in file_names(folder)? {
        let path = folder.join(&name);
        let revision = format!("{prefix}{name}");
        if path.is_dir() {
            found.extend(references(&path, &format!("{revision}/"))?);
        } else if let Some(commit) = fs::read_to_string(&path)
            .ok()
            .and_then(|text| Commit::parse(&text))
        {
            found.push((revision, commit));
        }
    }
    Ok(found)
}

/// Names in a folder that are valid Unicode; empty when there is no such folder.
fn file_names(folder: &Path) -> Result<Vec<String>, HubCacheError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(source) => return Err(io_error(folder, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| io_error(folder, source))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

fn size_of_folder(folder: &Path) -> Result<u64, HubCacheError> {
    let mut size_bytes = 0;
    for name in file_names(folder)? {
        let path = folder.join(name);
        // Follows links; a broken one has no bytes.
        size_bytes += match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => size_of_folder(&path)?,
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        };
    }
    Ok(size_bytes)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const SHA256: &str = "5b55dd1322ab7d62e62e3ee7626700b8e3d3e63238dc74fc2bb816542366e0a4";

    fn id(text: &str) -> HubId {
        HubId::parse(text).unwrap()
    }

    fn commit() -> Commit {
        Commit::parse(COMMIT).unwrap()
    }

    fn path(text: &str) -> RepoPath {
        RepoPath::parse(text).unwrap()
    }

    fn etag(digit: char) -> Etag {
        Etag::parse(&digit.to_string().repeat(40)).unwrap()
    }

    /// A cache with one model whose `files` are blobs and links, without a reference.
    fn cache_with(files: &[&str]) -> (tempfile::TempDir, HubCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path().join("hub"));
        let id = id("org/name");
        for (name, digit) in files.iter().zip("0123456789".chars()) {
            let blob = cache.blob(&id, &etag(digit));
            fs::create_dir_all(blob.parent().unwrap()).unwrap();
            fs::write(&blob, name).unwrap();
            cache
                .place(&id, &commit(), &path(name), &etag(digit), true)
                .unwrap();
        }
        (folder, cache)
    }

    #[test]
    fn paths_are_those_of_the_python_library() {
        let cache = HubCache::new("hub");
        let id = id("jinaai/jina-embeddings-v3@refs/pr/1");
        let etag = Etag::parse(SHA256).unwrap();
        let repo = "hub/models--jinaai--jina-embeddings-v3";
        assert_eq!(
            cache.blob(&id, &etag),
            PathBuf::from(format!("{repo}/blobs/{SHA256}"))
        );
        assert_eq!(
            cache.incomplete(&id, &etag),
            PathBuf::from(format!("{repo}/blobs/{SHA256}.incomplete"))
        );
        assert_eq!(
            cache.reference(&id),
            PathBuf::from(format!("{repo}/refs/refs/pr/1"))
        );
        assert_eq!(
            cache.file(&id, &commit(), &path("separation/adapter_config.json")),
            PathBuf::from(format!(
                "{repo}/snapshots/{COMMIT}/separation/adapter_config.json"
            ))
        );
        assert_eq!(
            cache.lock(&id, &etag),
            PathBuf::from(format!(
                "hub/.locks/models--jinaai--jina-embeddings-v3/{SHA256}.lock"
            ))
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_are_relative_and_as_deep_as_their_file() {
        let (_folder, cache) = cache_with(&["config.json", "a/b/adapter_config.json"]);
        let id = id("org/name");
        let top = cache.file(&id, &commit(), &path("config.json"));
        assert_eq!(
            fs::read_link(&top).unwrap(),
            PathBuf::from(format!("../../blobs/{}", "0".repeat(40)))
        );
        let deep = cache.file(&id, &commit(), &path("a/b/adapter_config.json"));
        assert_eq!(
            fs::read_link(&deep).unwrap(),
            PathBuf::from(format!("../../../../blobs/{}", "1".repeat(40)))
        );
        assert_eq!(fs::read_to_string(deep).unwrap(), "a/b/adapter_config.json");
    }

    #[test]
    fn where_links_fail_a_new_blob_is_moved_and_an_old_one_copied() {
        let (_folder, cache) = cache_with(&["config.json"]);
        let (id, etag) = (id("org/name"), etag('0'));
        let blob = cache.blob(&id, &etag);
        let refuse = |_: &Path, _: &Path| Err(io::ErrorKind::Unsupported.into());

        let copied = cache.place_with(refuse, &id, &commit(), &path("a"), &etag, false);
        assert_eq!(copied.unwrap(), Placement::Copied);
        assert!(blob.is_file());

        let moved = cache.place_with(refuse, &id, &commit(), &path("b"), &etag, true);
        assert_eq!(moved.unwrap(), Placement::Moved);
        assert!(!blob.exists());
        for name in ["a", "b"] {
            let file = cache.file(&id, &commit(), &path(name));
            assert_eq!(fs::read_to_string(file).unwrap(), "config.json");
        }
    }

    #[test]
    fn placing_a_file_replaces_the_old_one() {
        let (_folder, cache) = cache_with(&["config.json", "other"]);
        let id = id("org/name");
        let file = path("config.json");
        cache
            .place(&id, &commit(), &file, &etag('1'), false)
            .unwrap();
        let text = fs::read_to_string(cache.file(&id, &commit(), &file)).unwrap();
        assert_eq!(text, "other");
    }

    #[test]
    fn a_model_is_found_by_branch_and_by_commit() {
        let (_folder, cache) = cache_with(&["config.json", "model.safetensors"]);
        let by_commit = id(&format!("org/name@{COMMIT}"));
        let snapshot = cache.resolve(&by_commit).unwrap();
        assert!(snapshot.join("model.safetensors").is_file());
        cache.point(&by_commit, &commit()).unwrap();
        assert!(!cache.repo(&by_commit).join("refs").exists());

        let by_branch = id("org/name");
        assert!(matches!(
            cache.resolve(&by_branch).unwrap_err(),
            HubCacheError::UnknownRevision { .. }
        ));
        cache.point(&by_branch, &commit()).unwrap();
        assert_eq!(cache.resolve(&by_branch).unwrap(), snapshot);
        let pull_request = id("org/name@refs/pr/1");
        cache.point(&pull_request, &commit()).unwrap();
        assert_eq!(cache.resolve(&pull_request).unwrap(), snapshot);
        assert_eq!(
            fs::read_dir(cache.repo(&by_branch).join("refs"))
                .unwrap()
                .count(),
            2,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_snapshot_without_its_files_does_not_count() {
        let wanted = [
            (&["model.safetensors"][..], "`config.json`"),
            (&["config.json"][..], "weights"),
            (&["config.json", "sub/model.safetensors"][..], "weights"),
        ];
        for (files, missing) in wanted {
            let (_folder, cache) = cache_with(files);
            let error = cache.resolve(&id(&format!("org/name@{COMMIT}")));
            let text = error.unwrap_err().to_string();
            assert!(text.contains(missing), "{text}");
        }
        let (_folder, cache) = cache_with(&["model-f16.gguf"]);
        assert!(cache.resolve(&id(&format!("org/name@{COMMIT}"))).is_ok());
    }

    #[test]
    fn a_link_to_nowhere_does_not_count() {
        let (_folder, cache) = cache_with(&["config.json", "model.safetensors"]);
        let id = id(&format!("org/name@{COMMIT}"));
        fs::remove_file(cache.blob(&id, &etag('1'))).unwrap();
        let error = cache.resolve(&id).unwrap_err();
        assert!(matches!(error, HubCacheError::Incomplete { .. }));
        assert!(error.hint().contains("quintet pull org/name@"));
    }

    #[test]
    fn a_reference_must_hold_a_commit() {
        let (_folder, cache) = cache_with(&["config.json", "model.safetensors"]);
        let id = id("org/name");
        let reference = cache.reference(&id);
        fs::create_dir_all(reference.parent().unwrap()).unwrap();
        fs::write(&reference, "<html>").unwrap();
        let error = cache.resolve(&id).unwrap_err();
        assert!(error.to_string().contains("`<html>`"), "{error}");
        fs::write(&reference, format!("{COMMIT}\n")).unwrap();
        assert!(cache.resolve(&id).is_ok());
    }

    #[test]
    fn an_absent_cache_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path().join("none"));
        assert_eq!(cache.models().unwrap(), []);
        let error = cache.resolve(&id("org/name")).unwrap_err();
        assert!(matches!(error, HubCacheError::NotCached { .. }));
        assert_eq!(error.hint(), "fetch it with `quintet pull org/name`");
    }

    #[test]
    fn models_lists_what_is_there_and_skips_the_rest() {
        let (_folder, cache) = cache_with(&["config.json", "model.safetensors", "a/b"]);
        cache.create().unwrap();
        cache.create().unwrap();
        for stranger in [
            "datasets--a--b",
            "models--single",
            "models--a--b--c",
            ".locks",
        ] {
            fs::create_dir_all(cache.root().join(stranger)).unwrap();
        }
        cache.point(&id("org/name"), &commit()).unwrap();
        cache.point(&id("org/name@refs/pr/1"), &commit()).unwrap();
        let models = cache.models().unwrap();
        assert_eq!(models.len(), 1);
        assert_eq!(models[0].id, id("org/name"));
        let snapshot = &models[0].snapshots[0];
        assert_eq!(snapshot.commit, commit());
        assert_eq!(snapshot.revisions, ["main", "refs/pr/1"]);
        assert!(snapshot.is_complete);
        let bytes = "config.json".len() + "model.safetensors".len() + "a/b".len();
        assert_eq!(snapshot.size_bytes, bytes as u64);
        let tag = fs::read_to_string(cache.root().join("CACHEDIR.TAG")).unwrap();
        assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
    }
}
