//! Names on the model hub, checked once so that they are safe as parts of a path.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// The revision meant when an id names none.
pub const DEFAULT_REVISION: &str = "main";

/// A model on the hub: `org/name`, or `org/name@revision`.
///
/// The parts hold only what the hub allows in a name, so they are safe as parts of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubId {
    org: String,
    name: String,
    revision: Option<String>,
}

impl HubId {
    /// Reads `org/name` or `org/name@revision`.
    ///
    /// # Errors
    /// [`HubIdError`] when the text has another shape or a character that the hub forbids.
    pub fn parse(text: &str) -> Result<Self, HubIdError> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let shape = || HubIdError::Shape { found: text.into() };
        let (org, name) = repo.split_once('/').ok_or_else(shape)?;
        if name.contains('/') {
            return Err(shape());
        }
        for part in [org, name] {
            if !is_hub_name(part) {
                return Err(HubIdError::Name {
                    found: text.into(),
                    part: part.into(),
                });
            }
        }
        let id = Self {
            org: org.into(),
            name: name.into(),
            revision: None,
        };
        match revision {
            Some(revision) => id.at(revision),
            None => Ok(id),
        }
    }

    /// The same model at another branch, tag or commit.
    ///
    /// # Errors
    /// [`HubIdError::Revision`] when the text cannot be the name of a branch or commit.
    pub fn at(&self, revision: &str) -> Result<Self, HubIdError> {
        if !is_git_ref(revision) {
            return Err(HubIdError::Revision {
                found: revision.into(),
            });
        }
        Ok(Self {
            revision: Some(revision.into()),
            ..self.clone()
        })
    }

    /// The owner, as in `jinaai`.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// Owner and name without the revision, as in `jinaai/jina-embeddings-v3`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// The branch, tag or commit asked for; [`DEFAULT_REVISION`] when the id names none.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// The name without its owner, as in `jina-embeddings-v3`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

impl FromStr for HubId {
    type Err = HubIdError;

    fn from_str(text: &str) -> Result<Self, HubIdError> {
        Self::parse(text)
    }
}

/// The full hash of a commit: 40 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit(String);

impl Commit {
    /// `None` when the text is no full commit hash; white space around it is dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        (text.len() == 40 && is_lower_hex(text)).then(|| Self(text.into()))
    }

    /// The 40 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hash that names a blob: SHA-256 of a large file, the git blob id of a small one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Etag(String);

impl Etag {
    /// Reads the hash or an HTTP header that holds it (`"…"`, `W/"…"`).
    ///
    /// `None` when it is neither 40 nor 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        (matches!(text.len(), 40 | 64) && is_lower_hex(text)).then(|| Self(text.into()))
    }

    /// The digits: 64 for SHA-256, 40 for a git blob id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the hash is the SHA-256 of the bytes.
    pub fn is_sha256(&self) -> bool {
        self.0.len() == 64
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file's path inside its repository, with `/` between the parts; it cannot leave the folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoPath(String);

impl RepoPath {
    /// `None` when the path is absolute, has an empty, `.` or `..` part, a backslash, a colon or
    /// a control character.
    pub fn parse(text: &str) -> Option<Self> {
        let part_is_safe = |part: &str| !part.is_empty() && part != "." && part != "..";
        let character_is_safe = |c: char| !c.is_control() && !matches!(c, '\\' | ':');
        (text.split('/').all(part_is_safe) && text.chars().all(character_is_safe))
            .then(|| Self(text.into()))
    }

    /// The path as the hub writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether the file lies in the repository's top folder.
    pub fn is_top_level(&self) -> bool {
        !self.0.contains('/')
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no hub id.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubIdError {
    /// Not two parts with one `/`.
    #[error("`{found}` is no hub id, expected `org/name` or `org/name@revision`")]
    Shape {
        /// The text.
        found: String,
    },
    /// A part that the hub does not allow.
    #[error(
        "`{part}` in hub id `{found}` is no name, expected 1 to 96 letters, digits, `-`, `_` or \
         `.`, no `-` or `.` at the ends, no `--`, `..` or `.git`"
    )]
    Name {
        /// The text.
        found: String,
        /// Its wrong part.
        part: String,
    },
    /// A revision that git would refuse.
    #[error("`{found}` is no revision, expected a branch, a tag or a commit hash")]
    Revision {
        /// The revision.
        found: String,
    },
}

impl HubIdError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Shape { .. } | Self::Name { .. } => {
                "write it as the hub does, for example `jinaai/jina-embeddings-v3`".into()
            }
            Self::Revision { .. } => {
                "leave it out for `main`, or copy the commit from the model's page on the hub"
                    .into()
            }
        }
    }
}

/// The hub's rule for owners and names, as in `huggingface_hub.utils.validate_repo_id`.
fn is_hub_name(part: &str) -> bool {
    let at_end = |c: char| matches!(c, '-' | '.');
    (1..=96).contains(&part.len())
        && part
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && !part.starts_with(at_end)
        && !part.ends_with(at_end)
        && !part.contains("--")
        && !part.contains("..")
        && !part.ends_with(".git")
}

/// The rules of `git check-ref-format` that keep a revision a relative path.
fn is_git_ref(revision: &str) -> bool {
    let part_is_fine = |part: &str| !part.is_empty() && !part.starts_with('.');
    let character_is_fine =
        |c: char| !c.is_control() && !c.is_whitespace() && !"\\~^:?*[@{<>|\"".contains(c);
    revision.len() <= 255
        && revision.split('/').all(part_is_fine)
        && revision.chars().all(character_is_fine)
        && !revision.starts_with('-')
        && !revision.contains("..")
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA256: &str = "5b55dd1322ab7d62e62e3ee7626700b8e3d3e63238dc74fc2bb816542366e0a4";

    fn id(text: &str) -> HubId {
        HubId::parse(text).unwrap()
    }

    fn path(text: &str) -> RepoPath {
        RepoPath::parse(text).unwrap()
    }

    #[test]
    fn an_id_has_an_owner_a_name_and_perhaps_a_revision() {
        let plain = id("jinaai/jina-embeddings-v3");
        assert_eq!(plain.revision(), "main");
        assert_eq!(plain.to_string(), "jinaai/jina-embeddings-v3");
        let pinned = id("jinaai/jina-embeddings-v3@refs/pr/7");
        assert_eq!(pinned.revision(), "refs/pr/7");
        assert_eq!(pinned.repo(), "jinaai/jina-embeddings-v3");
        assert_eq!(pinned.org(), "jinaai");
        assert_eq!(pinned.to_string(), "jinaai/jina-embeddings-v3@refs/pr/7");
        assert_eq!("a/b_c.d-e".parse::<HubId>().unwrap().repo(), "a/b_c.d-e");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "name", "a/b/c", "/b", "a/", "a b/c", "ä/c"] {
            assert!(HubId::parse(text).is_err(), "{text}");
        }
        for text in ["../x", "a/..", "a/b--c", "-a/b", "a/b.", "a/b.git"] {
            let error = HubId::parse(text).unwrap_err();
            assert!(matches!(error, HubIdError::Name { .. }), "{text}");
        }
        for text in ["a/b@", "a/b@../x", "a/b@/x", "a/b@x y", "a/b@.x", "a/b@x@y"] {
            let error = HubId::parse(text).unwrap_err();
            assert!(matches!(error, HubIdError::Revision { .. }), "{text}");
            assert!(!error.hint().is_empty());
        }
        assert!(HubId::parse(&format!("a/{}", "b".repeat(97))).is_err());
    }

    #[test]
    fn etags_come_bare_quoted_or_weak() {
        for text in [
            SHA256.into(),
            format!("\"{SHA256}\""),
            format!("W/\"{SHA256}\""),
        ] {
            assert_eq!(Etag::parse(&text).unwrap().as_str(), SHA256);
        }
        assert!(Etag::parse(SHA256).unwrap().is_sha256());
        assert!(!Etag::parse(&"a".repeat(40)).unwrap().is_sha256());
        for text in ["", "abc", "../../../../etc/passwd", &SHA256.to_uppercase()] {
            assert_eq!(Etag::parse(text), None);
        }
    }

    #[test]
    fn a_path_cannot_leave_its_repository() {
        assert_eq!(path("1_Pooling/config.json").file_name(), "config.json");
        assert!(path("config.json").is_top_level());
        assert!(!path("a/b").is_top_level());
        for text in [
            "", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\\b", "C:a", "a\nb",
        ] {
            assert_eq!(RepoPath::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_stays_inside(text in ".*") {
            if let Some(path) = RepoPath::parse(&text) {
                let mut parts = std::path::Path::new(path.as_str()).components();
                prop_assert!(parts.all(|part| matches!(part, std::path::Component::Normal(_))));
            }
            if let Some(etag) = Etag::parse(&text) {
                prop_assert_eq!(Etag::parse(etag.as_str()), Some(etag));
            }
            prop_assert!(Commit::parse(&text).is_none_or(|commit| commit.as_str().len() == 40));
            if let Ok(id) = HubId::parse(&text) {
                prop_assert_eq!(HubId::parse(&id.to_string()), Ok(id));
            }
        }

        #[test]
        fn ids_are_read_as_they_are_written(
            text in "[a-z0-9][a-z0-9_.-]{0,8}/[a-z0-9][a-z0-9_.-]{0,8}(@[a-z0-9./-]{1,9})?"
        ) {
            if let Ok(id) = HubId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
