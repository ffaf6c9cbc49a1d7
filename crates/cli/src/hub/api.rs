//! The hub's list of a model's files, with their sizes and hashes.

use quintet_engine::weights::hub::{Commit, Etag, HubId, RepoPath};
use serde::Deserialize;

use super::{
    Client, HubError, License,
    address::escaped,
    selection::{self, Selection},
};

/// A model at one commit, with the files that the engine reads.
#[derive(Debug)]
pub(crate) struct RemoteModel {
    /// The model, with the revision asked for.
    pub(crate) id: HubId,
    /// The commit that the revision means today.
    pub(crate) commit: Commit,
    /// What the repository says about its licence.
    pub(crate) license: License,
    /// Whether its owner lets only some people download it.
    pub(crate) is_gated: bool,
    /// Files to have, small ones first.
    pub(crate) files: Vec<RemoteFile>,
    /// Files of the repository that are left alone.
    pub(crate) skipped: usize,
}

/// A file on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Where it lies in the repository.
    pub(crate) path: RepoPath,
    /// Its length.
    pub(crate) size_bytes: u64,
    /// The hash of its bytes.
    pub(crate) etag: Etag,
}

impl RemoteModel {
    /// Asks the hub for the model's files.
    ///
    /// # Errors
    /// [`HubError`] of the request; [`HubError::NoWeights`] when the engine can read none of them.
    pub(crate) fn fetch(client: &Client, id: &HubId) -> Result<Self, HubError> {
        let revision = escaped(id.revision(), false);
        let endpoint = client.endpoint();
        let url = format!(
            "{endpoint}/api/models/{}/revision/{revision}?blobs=true",
            id.repo()
        );
        let text = client.json(&url)?;
        let url = url.split('?').next().unwrap_or_default();
        let listing = Listing::parse(&text, url)?;
        let Selection { files, skipped } = selection::select(&id.repo(), listing.files)?;
        let mut complete = Vec::with_capacity(files.len());
        for file in files {
            complete.push(file.complete(client, id, &listing.commit)?);
        }
        complete.sort_by(|a, b| (a.size_bytes, &a.path).cmp(&(b.size_bytes, &b.path)));
        Ok(Self {
            id: id.clone(),
            commit: listing.commit,
            license: listing.license,
            is_gated: listing.is_gated,
            files: complete,
            skipped,
        })
    }

    /// Length of all files together.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }
}

impl RemoteFile {
    /// Which hash its etag is.
    pub(crate) fn hash_name(&self) -> &'static str {
        if self.etag.is_sha256() {
            "SHA-256"
        } else {
            "git blob id"
        }
    }
}

/// Where a file is fetched from.
pub(crate) fn file_url(endpoint: &str, id: &HubId, commit: &Commit, path: &RepoPath) -> String {
    let path = escaped(path.as_str(), true);
    format!("{endpoint}/{}/resolve/{commit}/{path}", id.repo())
}

/// A file as the list has it; mirrors leave out sizes and hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedFile {
    /// Where it lies in the repository.
    pub(crate) path: RepoPath,
    /// Its length.
    pub(crate) size_bytes: Option<u64>,
    /// The hash of its bytes.
    pub(crate) etag: Option<Etag>,
}

impl ListedFile {
    /// Asks for the file itself where the list leaves something out.
    fn complete(
        self,
        client: &Client,
        id: &HubId,
        commit: &Commit,
    ) -> Result<RemoteFile, HubError> {
        let Self {
            path,
            mut size_bytes,
            mut etag,
        } = self;
        let url = file_url(client.endpoint(), id, commit, &path);
        if size_bytes.is_none() || etag.is_none() {
            let headers = client.head(&url)?;
            size_bytes = size_bytes.or(headers.size_bytes);
            etag = etag.or_else(|| Etag::parse(&headers.etag?));
        }
        let missing = |what: &str| HubError::Missing {
            url: url.clone(),
            field: format!("{what} of the file to check it by"),
        };
        Ok(RemoteFile {
            size_bytes: size_bytes.ok_or_else(|| missing("length"))?,
            etag: etag.ok_or_else(|| missing("SHA-256 or git blob id"))?,
            path,
        })
    }
}

#[derive(Debug)]
struct Listing {
    commit: Commit,
    license: License,
    is_gated: bool,
    files: Vec<ListedFile>,
}

impl Listing {
    fn parse(text: &str, url: &str) -> Result<Self, HubError> {
        let wire: WireModel = serde_json::from_str(text).map_err(|source| HubError::Json {
            url: url.into(),
            source,
        })?;
        let commit = Commit::parse(&wire.sha).ok_or_else(|| HubError::Missing {
            url: url.into(),
            field: "commit of 40 digits in `sha`".into(),
        })?;
        // A path that could leave the snapshot is none of the files that are looked for.
        let files = wire.siblings.into_iter().filter_map(|file| {
            let lfs = file.lfs.unwrap_or_default();
            let etag = lfs.sha256.or(lfs.oid).or(file.blob_id);
            Some(ListedFile {
                path: RepoPath::parse(&file.rfilename)?,
                size_bytes: lfs.size.or(file.size),
                etag: etag.and_then(|text| Etag::parse(&text)),
            })
        });
        Ok(Self {
            commit,
            license: License {
                id: license(&wire.card_data, &wire.tags),
            },
            is_gated: !matches!(
                wire.gated,
                serde_json::Value::Null | serde_json::Value::Bool(false)
            ),
            files: files.collect(),
        })
    }
}

/// The card's `license` (a name or several), else the tag that the hub makes of it.
fn license(card: &serde_json::Value, tags: &[String]) -> Option<String> {
    let field = card.get("license");
    let names: Vec<&str> = match field.and_then(serde_json::Value::as_array) {
        Some(names) => names.iter().filter_map(serde_json::Value::as_str).collect(),
        None => field
            .and_then(serde_json::Value::as_str)
            .into_iter()
            .collect(),
    };
    let from_tag = || {
        let mut tags = tags.iter();
        tags.find_map(|tag| Some(tag.strip_prefix("license:")?.to_owned()))
    };
    if names.is_empty() {
        from_tag()
    } else {
        Some(names.join(", "))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireModel {
    sha: String,
    siblings: Vec<WireFile>,
    #[serde(default)]
    card_data: serde_json::Value,
    #[serde(default)]
    gated: serde_json::Value,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireFile {
    rfilename: String,
    size: Option<u64>,
    /// Of the file itself, or of its LFS pointer when `lfs` is there.
    blob_id: Option<String>,
    lfs: Option<WireLfs>,
}

#[derive(Default, Deserialize)]
struct WireLfs {
    sha256: Option<String>,
    /// The same hash, under the name that the hub's tree listing uses.
    oid: Option<String>,
    size: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn listing(rest: &str) -> Listing {
        Listing::parse(&format!("{{\"sha\": \"{SHA}\", {rest}}}"), "u").unwrap()
    }

    #[test]
    fn a_large_file_has_its_sha256_and_a_small_one_its_blob_id() {
        let (blob, sha256) = ("a".repeat(40), "b".repeat(64));
        let listing = listing(&format!(
            r#""siblings": [
                {{"rfilename": "config.json", "blobId": "{blob}", "size": 5}},
                {{"rfilename": "model.safetensors", "blobId": "{blob}", "size": 135,
                  "lfs": {{"sha256": "{sha256}", "size": 99, "pointerSize": 135}}}},
                {{"rfilename": "other", "blobId": "{blob}", "lfs": {{"oid": "{sha256}"}}}},
                {{"rfilename": "../../etc/passwd", "blobId": "{blob}"}},
                {{"rfilename": "bare"}}
            ]"#
        ));
        let found: Vec<_> = listing
            .files
            .iter()
            .map(|file| {
                let etag = file.etag.as_ref().map(Etag::as_str);
                (file.path.as_str(), file.size_bytes, etag)
            })
            .collect();
        let expected = [
            ("config.json", Some(5), Some(blob.as_str())),
            ("model.safetensors", Some(99), Some(sha256.as_str())),
            ("other", None, Some(sha256.as_str())),
            ("bare", None, None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_licence_is_the_cards_or_the_tags() {
        let of = |rest: &str| listing(&format!("\"siblings\": []{rest}")).license.id;
        let card = r#", "cardData": {"license": "cc-by-nc-4.0"}, "tags": ["license:mit"]"#;
        assert_eq!(of(card).as_deref(), Some("cc-by-nc-4.0"));
        let several = r#", "cardData": {"license": ["mit", "apache-2.0"]}"#;
        assert_eq!(of(several).as_deref(), Some("mit, apache-2.0"));
        let tag = r#", "cardData": null, "tags": ["x", "license:mit"]"#;
        assert_eq!(of(tag).as_deref(), Some("mit"));
        assert_eq!(of(""), None);
    }

    #[test]
    fn gates_are_false_or_a_word() {
        let of = |gated: &str| listing(&format!("\"siblings\": []{gated}")).is_gated;
        assert!(!of("") && !of(", \"gated\": false"));
        assert!(of(", \"gated\": \"auto\"") && of(", \"gated\": true"));
    }

    #[test]
    fn an_answer_of_another_form_is_an_error() {
        for (text, code) in [("[]", 2), ("{\"sha\": \"main\", \"siblings\": []}", 2)] {
            let error = Listing::parse(text, "u").unwrap_err();
            assert_eq!(error.exit_code(), code);
            assert!(error.hint().unwrap().contains("HF_ENDPOINT"));
        }
    }

    #[test]
    fn addresses_are_escaped() {
        let id = HubId::parse("org/name").unwrap();
        let path = RepoPath::parse("a b/c.json").unwrap();
        assert_eq!(
            file_url("https://h", &id, &Commit::parse(SHA).unwrap(), &path),
            format!("https://h/org/name/resolve/{SHA}/a%20b/c.json")
        );
    }
}
