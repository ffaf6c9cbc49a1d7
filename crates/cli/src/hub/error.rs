//! Everything that can go wrong between the command line and a model in the cache.

use std::{io, path::PathBuf, time::Duration};

use quintet_engine::weights::hub::{HubCacheError, HubIdError};
use thiserror::Error;

/// Why a model could not be fetched.
///
/// Addresses in it carry neither query nor user name, and no variant holds the token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum HubError {
    /// The model's name is none.
    #[error(transparent)]
    Id(#[from] HubIdError),
    /// The id names one revision and the option another.
    #[error("two revisions are given: `{in_id}` in the id and `{option}` by --revision")]
    TwoRevisions {
        /// The one after the `@`.
        in_id: String,
        /// The option's value.
        option: String,
    },
    /// The cache cannot be read or written.
    #[error(transparent)]
    Cache(#[from] HubCacheError),
    /// The user has not said that the licence is fine.
    #[error("the licence of `{repo}` ({license}) is not accepted; nothing was downloaded")]
    LicenseNotAccepted {
        /// The model.
        repo: String,
        /// The licence's name.
        license: String,
        /// The command that accepts it.
        command: String,
    },
    /// The environment forbids the network.
    #[error("{variable} is set, and the cache in `{cache}` cannot serve `{id}`", cache = cache.display())]
    Offline {
        /// The variable.
        variable: &'static str,
        /// The model.
        id: String,
        /// The cache folder.
        cache: PathBuf,
        /// What the cache lacks.
        source: Box<HubCacheError>,
    },
    /// The hub's address is none.
    #[error(
        "HF_ENDPOINT is no address of a hub: {reason}, expected `https://host` or `http://host`"
    )]
    Endpoint {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The proxy's address is none. The address is not shown: it may hold a password.
    #[error("{variable} is no address of a proxy, expected `http://host:port`")]
    ProxyUrl {
        /// The variable.
        variable: &'static str,
    },
    /// The file with certificates cannot be used.
    #[error("{variable} names `{path}`, expected a file with PEM certificates", path = path.display())]
    Certificates {
        /// The variable.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it cannot be read, when that is the reason.
        source: Option<io::Error>,
    },
    /// The token has characters that no token has.
    #[error("the access token cannot be sent: it has characters other than visible ASCII")]
    Token,
    /// No connection to the hub.
    #[error("cannot reach `{url}`")]
    Connect {
        /// The address.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The proxy is not reached, or refuses.
    #[error("cannot reach `{url}` through the proxy `{proxy}` (from {variable})")]
    Proxy {
        /// The address.
        url: String,
        /// Host and port of the proxy.
        proxy: String,
        /// The variable that names it.
        variable: &'static str,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// 401: the token is missing or wrong.
    #[error(
        "the hub refuses `{url}` without a valid token (HTTP {status}){}",
        said(message)
    )]
    Unauthorized {
        /// The address.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The hub's own words.
        message: Option<String>,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The model asks for an agreement with its owner, which this user has not made.
    #[error(
        "the model is gated: `{url}` is refused (HTTP {status}){}",
        said(message)
    )]
    Gated {
        /// The address.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The model's page, where access is asked for.
        page: String,
        /// The hub's own words.
        message: Option<String>,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// 404, or 401 for a name that the hub does not know.
    #[error("the hub has no {what} at `{url}` (HTTP {status}){}", said(message))]
    NotFound {
        /// Model, revision or file.
        what: &'static str,
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// The hub's own words.
        message: Option<String>,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// 429.
    #[error("the hub limits requests to `{url}` (HTTP 429){}", said(message))]
    RateLimited {
        /// The address.
        url: String,
        /// What the hub asks to wait.
        retry_after: Option<Duration>,
        /// The hub's own words.
        message: Option<String>,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// Any other status.
    #[error("`{url}` answered HTTP {status}, expected 200{}", said(message))]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// What the server asks to wait.
        retry_after: Option<Duration>,
        /// The server's own words.
        message: Option<String>,
    },
    /// A redirect that leads nowhere.
    #[error("`{url}` redirects to {target}, expected the address of a file")]
    Redirect {
        /// The address.
        url: String,
        /// Where to, or what is wrong with it.
        target: String,
    },
    /// A web page where data was expected, as from a captive portal.
    #[error("`{url}` answered with a web page (`{content_type}`), expected {expected}")]
    Html {
        /// The address.
        url: String,
        /// Its content type.
        content_type: String,
        /// JSON or a file's bytes.
        expected: &'static str,
    },
    /// An answer that is no JSON of the expected form.
    #[error("the answer of `{url}` is not the list of a model's files")]
    Json {
        /// The address.
        url: String,
        /// The first thing wrong.
        source: serde_json::Error,
    },
    /// The answer lacks something.
    #[error("the answer of `{url}` has no {field}")]
    Missing {
        /// The address.
        url: String,
        /// What it lacks.
        field: String,
    },
    /// The repository has no weights that the engine reads.
    #[error(
        "`{repo}` has no weights that can be used, expected `*.safetensors` with `config.json`, \
         or `*.gguf` in F32, F16, BF16 or Q8_0; found {found}"
    )]
    NoWeights {
        /// The model.
        repo: String,
        /// Files that hold weights in other formats.
        found: String,
    },
    /// The server's copy belongs to another commit.
    #[error("`{url}` serves commit `{found}`, expected `{expected}`")]
    WrongCommit {
        /// The address.
        url: String,
        /// The commit in the answer.
        found: String,
        /// The commit asked for.
        expected: String,
    },
    /// The file has another length than the hub's list says.
    #[error("`{url}` has {found} bytes, expected {expected}")]
    WrongSize {
        /// The address.
        url: String,
        /// Bytes announced or received.
        found: u64,
        /// Bytes in the list.
        expected: u64,
    },
    /// The bytes are not the ones that the hub lists. They were removed from the cache.
    #[error("`{url}` has {kind} {found}, expected {expected}; the file was removed")]
    WrongHash {
        /// The address.
        url: String,
        /// SHA-256 or git blob id.
        kind: &'static str,
        /// The hash of what came.
        found: String,
        /// The hash in the list.
        expected: String,
    },
    /// The connection broke in mid-file.
    #[error("the connection to `{url}` broke after {received} of {expected} bytes")]
    Cut {
        /// The address.
        url: String,
        /// Bytes on disk.
        received: u64,
        /// Bytes of the whole file.
        expected: u64,
        /// Why, when the operating system says.
        source: Option<io::Error>,
    },
    /// The part that a resumed download continues does not fit the server's file.
    #[error("`{url}` cannot be continued at byte {offset}: {reason}")]
    Resume {
        /// The address.
        url: String,
        /// Bytes on disk.
        offset: u64,
        /// The server's answer.
        reason: String,
    },
    /// No space left.
    #[error("no space left for `{path}`: {written} of {expected} bytes are written", path = path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Bytes on disk.
        written: u64,
        /// Bytes of the whole file.
        expected: u64,
        /// The system's words.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} `{path}`", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The result cannot be written.
    #[error("cannot write the result")]
    Output {
        /// Why.
        #[from]
        source: io::Error,
    },
}

impl HubError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Id(error) => error.hint(),
            Self::Cache(error) => error.hint(),
            Self::TwoRevisions { .. } => "give the revision once".into(),
            Self::LicenseNotAccepted { command, .. } => {
                format!("when its terms fit your use, run `{command}`")
            }
            Self::Offline { variable, id, .. } => {
                format!("unset {variable} and run `quintet pull {id}`, or copy the cache here")
            }
            Self::Endpoint { .. } => "unset HF_ENDPOINT for https://huggingface.co".into(),
            Self::ProxyUrl { variable } => format!("correct or unset {variable}"),
            Self::Certificates { variable, .. } => format!("correct or unset {variable}"),
            Self::Token => "copy the token again, see HF_TOKEN or the token file in HF_HOME".into(),
            Self::Connect { source, .. } => connect_hint(source).into(),
            Self::Proxy { source, .. } if is_certificate(source) => CERTIFICATE_HINT.into(),
            Self::Proxy { variable, .. } => {
                format!("check the address and password in {variable}, or add the host to NO_PROXY")
            }
            Self::Unauthorized { has_token, .. } => token_hint(*has_token).into(),
            Self::Gated {
                page, has_token, ..
            } => {
                let token = token_hint(*has_token);
                format!("ask for access on {page}; {token}")
            }
            Self::NotFound {
                what, has_token, ..
            } => not_found_hint(what, *has_token).into(),
            Self::RateLimited {
                retry_after,
                has_token,
                ..
            } => {
                let wait = match retry_after {
                    Some(wait) => format!("try again in {} s", wait.as_secs()),
                    None => "try again in a few minutes".into(),
                };
                let token = if *has_token {
                    ""
                } else {
                    "; a token in HF_TOKEN has a higher limit"
                };
                format!("{wait}{token}")
            }
            Self::Status { status, .. } if *status >= 500 => {
                "the server has a problem of its own: try again later".into()
            }
            Self::Status { .. } | Self::Redirect { .. } | Self::Missing { .. } => {
                ENDPOINT_HINT.into()
            }
            Self::Html { .. } => {
                "a proxy or a sign-in page stands in between, or HF_ENDPOINT is no hub".into()
            }
            Self::Json { .. } => ENDPOINT_HINT.into(),
            Self::NoWeights { .. } => {
                "pull the original instead: `quintet pull jinaai/jina-embeddings-v3`".into()
            }
            Self::WrongCommit { .. } | Self::WrongSize { .. } | Self::WrongHash { .. } => {
                "try again; when it happens again, the server or a proxy changes the files".into()
            }
            Self::Cut { .. } | Self::Resume { .. } => {
                "run the same command again: it continues where this one stopped".into()
            }
            Self::DiskFull { .. } => {
                "make space, or name a folder on another disk in HF_HUB_CACHE; \
                 the same command then continues"
                    .into()
            }
            Self::File { .. } => {
                "check the permissions, or name another folder in HF_HUB_CACHE".into()
            }
            Self::Output { .. } => return None,
        };
        Some(hint)
    }

    /// 1 when the user can put it right, 2 when a server or the machine is broken.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Redirect { .. }
            | Self::Json { .. }
            | Self::Missing { .. }
            | Self::WrongCommit { .. }
            | Self::WrongSize { .. }
            | Self::WrongHash { .. }
            | Self::Cut { .. }
            | Self::Resume { .. }
            | Self::Output { .. } => 2,
            Self::Status { status, .. } => 1 + u8::from(*status >= 500),
            Self::File { source, .. } | Self::Cache(HubCacheError::Io { source, .. }) => {
                let by_the_user = matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                );
                if by_the_user { 1 } else { 2 }
            }
            Self::Id(_)
            | Self::TwoRevisions { .. }
            | Self::Cache(_)
            | Self::LicenseNotAccepted { .. }
            | Self::Offline { .. }
            | Self::Endpoint { .. }
            | Self::ProxyUrl { .. }
            | Self::Certificates { .. }
            | Self::Token
            | Self::Connect { .. }
            | Self::Proxy { .. }
            | Self::Unauthorized { .. }
            | Self::Gated { .. }
            | Self::NotFound { .. }
            | Self::RateLimited { .. }
            | Self::Html { .. }
            | Self::NoWeights { .. }
            | Self::DiskFull { .. } => 1,
        }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        if let Self::Connect { source, .. } | Self::Proxy { source, .. } = self {
            return is_passing(source);
        }
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Cut { .. }
                | Self::Resume { .. }
                | Self::Status {
                    status: 408 | 500 | 502 | 503 | 504,
                    ..
                }
        )
    }

    /// How long the server asks to wait before the next request.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        if let Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } = self {
            *retry_after
        } else {
            None
        }
    }

    /// A failed write, with a full disk told apart.
    pub(crate) fn write(path: PathBuf, written: u64, expected: u64, source: io::Error) -> Self {
        let is_full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        if is_full {
            Self::DiskFull {
                path,
                written,
                expected,
                source,
            }
        } else {
            Self::File {
                action: "write",
                path,
                source,
            }
        }
    }
}

const ENDPOINT_HINT: &str = "check that HF_ENDPOINT is a model hub, or unset it";

fn said(message: &Option<String>) -> String {
    match message {
        Some(message) => format!(", saying `{message}`"),
        None => String::new(),
    }
}

fn token_hint(has_token: bool) -> &'static str {
    if has_token {
        "check that the token in HF_TOKEN (or the token file) is valid and may read this model"
    } else {
        "make a token at https://huggingface.co/settings/tokens and set it in HF_TOKEN"
    }
}

fn not_found_hint(what: &str, has_token: bool) -> &'static str {
    match (what, has_token) {
        ("revision", _) => "check --revision: a branch, a tag or a commit; leave it out for `main`",
        ("file", _) => "the repository changed meanwhile: run the command again",
        (_, true) => "check the spelling of the id, and that the token may read a private model",
        (_, false) => "check the spelling of the id; a private model needs a token in HF_TOKEN",
    }
}

/// Whether a failed connection is worth another try; a wrong certificate, a wrong name or a
/// proxy that refuses is not.
fn is_passing(error: &ureq::Error) -> bool {
    if let ureq::Error::Io(error) = error {
        return matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::TimedOut
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
        );
    }
    matches!(
        error,
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed
    )
}

fn connect_hint(error: &ureq::Error) -> &'static str {
    if is_certificate(error) {
        CERTIFICATE_HINT
    } else {
        "check the network and the name in HF_ENDPOINT; behind a proxy, set HTTPS_PROXY"
    }
}

/// TLS trouble comes wrapped in an error of the socket.
fn is_certificate(error: &ureq::Error) -> bool {
    if let ureq::Error::Io(error) = error {
        error.kind() == io::ErrorKind::InvalidData
    } else {
        matches!(error, ureq::Error::Rustls(_) | ureq::Error::Tls(_))
    }
}

const CERTIFICATE_HINT: &str =
    "when your network puts in its own certificates, name their file (PEM) in SSL_CERT_FILE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_other_failures() {
        let full = HubError::write("part".into(), 5, 9, io::ErrorKind::StorageFull.into());
        assert_eq!(
            full.to_string(),
            "no space left for `part`: 5 of 9 bytes are written"
        );
        assert_eq!(full.exit_code(), 1);
        assert!(full.hint().unwrap().contains("HF_HUB_CACHE"));
        let denied = HubError::write("part".into(), 5, 9, io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.to_string(), "cannot write `part`");
        assert_eq!(denied.exit_code(), 1);
        let other = HubError::write("part".into(), 5, 9, io::Error::other("broken"));
        assert_eq!(other.exit_code(), 2);
    }

    #[test]
    fn only_passing_trouble_is_tried_again() {
        let status = |status| HubError::Status {
            url: "u".into(),
            status,
            retry_after: None,
            message: None,
        };
        assert!(status(503).is_passing() && !status(501).is_passing() && !status(400).is_passing());
        let connect = |source| HubError::Connect {
            url: "u".into(),
            source: Box::new(source),
        };
        assert!(connect(io::Error::from(io::ErrorKind::ConnectionReset).into()).is_passing());
        assert!(!connect(ureq::Error::HostNotFound).is_passing());
        assert!(!connect(io::Error::from(io::ErrorKind::InvalidData).into()).is_passing());
    }
}
