//! One request to the hub: redirects followed by hand, so that the token stays on the hub and the
//! headers about the file, which come with the redirect, are kept.

use std::{fs, io, time::Duration};

use quintet_engine::weights::hub::HubId;
use secrecy::{ExposeSecret, SecretString};
use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Request, Response, Uri},
    tls::{PemItem, RootCerts, TlsConfig},
};

use super::{
    HubError, Settings,
    address::{Origin, join, shown},
    settings::{NoProxy, ProxySetting},
};

/// A client of one hub. It waits for nobody longer than half a minute.
pub(crate) struct Client {
    endpoint: String,
    origin: Origin,
    token: Option<SecretString>,
    no_proxy: NoProxy,
    direct: Agent,
    http: Option<ProxyAgent>,
    https: Option<ProxyAgent>,
}

struct ProxyAgent {
    agent: Agent,
    /// Host and port.
    name: String,
    variable: &'static str,
}

/// The last answer of a chain of redirects.
pub(crate) struct Reply {
    /// Status, headers and body; the status is 2xx or 416.
    pub(crate) response: Response<Body>,
    /// Where it came from, fit to be shown.
    pub(crate) url: String,
    /// What the hub itself said about the file on the way.
    pub(crate) file: FileHeaders,
}

/// What the hub's headers say about a file.
#[derive(Debug, Default)]
pub(crate) struct FileHeaders {
    /// `X-Repo-Commit`.
    pub(crate) commit: Option<String>,
    /// `X-Linked-Etag`, else `ETag`.
    pub(crate) etag: Option<String>,
    /// `X-Linked-Size`, else `Content-Length` where the hub sends the file itself.
    pub(crate) size_bytes: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Head,
}

const USER_AGENT: &str = concat!("quintet/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// For the headers of an answer, and for each read of its body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 10;
/// Lists of files are a few hundred kilobytes at most.
const MOST_JSON_BYTES: u64 = 64 << 20;
const MOST_MESSAGE_BYTES: u64 = 8 << 10;

impl Client {
    /// A client with the environment's address, token, proxies and certificates.
    ///
    /// # Errors
    /// [`HubError::Endpoint`], [`HubError::ProxyUrl`], [`HubError::Certificates`] or
    /// [`HubError::Token`] when one of them cannot be used.
    pub(crate) fn new(settings: &Settings) -> Result<Self, HubError> {
        let origin = Origin::of_endpoint(&settings.endpoint)?;
        let is_visible = |token: &SecretString| {
            let mut bytes = token.expose_secret().bytes();
            bytes.all(|byte| byte.is_ascii_graphic())
        };
        if !settings.token.as_ref().is_none_or(is_visible) {
            return Err(HubError::Token);
        }
        let tls = tls(settings)?;
        let via = |setting: &Option<ProxySetting>| -> Result<Option<ProxyAgent>, HubError> {
            let Some(setting) = setting else {
                return Ok(None);
            };
            let variable = setting.variable;
            let proxy = Proxy::new(setting.url.expose_secret())
                .map_err(|_| HubError::ProxyUrl { variable })?;
            Ok(Some(ProxyAgent {
                name: format!("{}:{}", proxy.host(), proxy.port()),
                agent: agent(tls.clone(), Some(proxy)),
                variable,
            }))
        };
        Ok(Self {
            endpoint: settings.endpoint.clone(),
            origin,
            token: settings.token.clone(),
            no_proxy: settings.no_proxy.clone(),
            http: via(&settings.http_proxy)?,
            https: via(&settings.https_proxy)?,
            direct: agent(tls, None),
        })
    }

    /// The hub's address.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The page that describes a model to people.
    pub(crate) fn page(&self, id: &HubId) -> String {
        format!("{}/{}", self.endpoint, id.repo())
    }

    /// Whether requests to the hub carry a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The text of an answer that should be JSON.
    pub(crate) fn json(&self, url: &str) -> Result<String, HubError> {
        let mut reply = self.follow(Method::Get, url, None)?;
        let content_type = content_type(reply.response.headers());
        let body = reply.response.body_mut();
        let text = body.with_config().limit(MOST_JSON_BYTES).read_to_string();
        let text = text.map_err(|error| HubError::Connect {
            url: reply.url.clone(),
            source: Box::new(error),
        })?;
        if is_html(&content_type) || text.trim_start().starts_with('<') {
            return Err(HubError::Html {
                url: reply.url,
                content_type,
                expected: "JSON",
            });
        }
        Ok(text)
    }

    /// What the hub says about a file without sending it.
    pub(crate) fn head(&self, url: &str) -> Result<FileHeaders, HubError> {
        Ok(self.follow(Method::Head, url, None)?.file)
    }

    /// A file's bytes, from `offset` on where the server can.
    pub(crate) fn get(&self, url: &str, offset: u64) -> Result<Reply, HubError> {
        let reply = self.follow(Method::Get, url, (offset > 0).then_some(offset))?;
        let content_type = content_type(reply.response.headers());
        if is_html(&content_type) {
            return Err(HubError::Html {
                url: reply.url,
                content_type,
                expected: "a file of the model",
            });
        }
        Ok(reply)
    }

    fn follow(&self, method: Method, url: &str, offset: Option<u64>) -> Result<Reply, HubError> {
        let mut url = url.to_owned();
        let mut file = FileHeaders::default();
        for _ in 0..=MOST_REDIRECTS {
            let (target, is_hub) = self.target(&url)?;
            let response = self.send(method, &target, is_hub, offset)?;
            let shown = shown(&target);
            let status = response.status();
            if is_hub {
                file.add(response.headers(), status.is_redirection());
            }
            if status.is_success() || status.as_u16() == 416 {
                return Ok(Reply {
                    response,
                    url: shown,
                    file,
                });
            }
            if !status.is_redirection() {
                return Err(self.refusal(response, shown));
            }
            let location = header(response.headers(), "location").unwrap_or_default();
            url = join(&target, &location).ok_or_else(|| HubError::Redirect {
                url: shown.clone(),
                target: "no address".into(),
            })?;
            // The hub's headers name the file; where it lies need not be asked.
            if method == Method::Head && self.target(&url).is_ok_and(|(_, is_hub)| !is_hub) {
                return Ok(Reply {
                    response,
                    url: shown,
                    file,
                });
            }
            if target.scheme_str() == Some("https") && !url.starts_with("https://") {
                return Err(HubError::Redirect {
                    url: shown,
                    target: "an address without encryption".into(),
                });
            }
        }
        Err(HubError::Redirect {
            url: url.split('?').next().unwrap_or_default().into(),
            target: format!("another address more than {MOST_REDIRECTS} times"),
        })
    }

    /// The address, and whether it is the hub's own, which alone may see the token.
    fn target(&self, url: &str) -> Result<(Uri, bool), HubError> {
        let bad = || HubError::Redirect {
            url: url.split('?').next().unwrap_or_default().into(),
            target: "no address of a web server".into(),
        };
        let target: Uri = url.parse().map_err(|_| bad())?;
        let origin = Origin::of(&target).ok_or_else(bad)?;
        let is_hub = origin == self.origin;
        Ok((target, is_hub))
    }

    fn send(
        &self,
        method: Method,
        target: &Uri,
        is_hub: bool,
        offset: Option<u64>,
    ) -> Result<Response<Body>, HubError> {
        let mut request = match method {
            Method::Get => Request::get(target),
            Method::Head => Request::head(target),
        };
        if let (true, Some(token)) = (is_hub, &self.token) {
            let value = format!("Bearer {}", token.expose_secret());
            request = request.header("authorization", value);
        }
        if let Some(offset) = offset {
            request = request.header("range", format!("bytes={offset}-"));
        }
        let proxy = self.proxy(target);
        let agent = proxy.map_or(&self.direct, |proxy| &proxy.agent);
        let answer = match request.body(()) {
            Ok(request) => agent.run(request),
            Err(error) => Err(ureq::Error::Http(error)),
        };
        answer.map_err(|error| {
            let source = Box::new(error);
            let url = shown(target);
            match proxy {
                Some(proxy) => HubError::Proxy {
                    url,
                    proxy: proxy.name.clone(),
                    variable: proxy.variable,
                    source,
                },
                None => HubError::Connect { url, source },
            }
        })
    }

    fn proxy(&self, target: &Uri) -> Option<&ProxyAgent> {
        let origin = Origin::of(target)?;
        let proxy = match origin.is_https {
            true => self.https.as_ref()?,
            false => self.http.as_ref()?,
        };
        (!self.no_proxy.contains(&origin.host, origin.port)).then_some(proxy)
    }

    /// The error that a status means, by the hub's `X-Error-Code` first.
    fn refusal(&self, response: Response<Body>, url: String) -> HubError {
        let status = response.status().as_u16();
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let retry_after = retry_after(response.headers());
        let message = self.message(response);
        let has_token = self.has_token();
        let not_found = |what, url, message| HubError::NotFound {
            what,
            url,
            status,
            message,
            has_token,
        };
        match (code.as_str(), status) {
            ("GatedRepo", _) => HubError::Gated {
                page: self.page_of(&url),
                url,
                status,
                message,
                has_token,
            },
            ("RepoNotFound", _) => not_found("model", url, message),
            ("RevisionNotFound", _) => not_found("revision", url, message),
            ("EntryNotFound", _) => not_found("file", url, message),
            (_, 401 | 403) => HubError::Unauthorized {
                url,
                status,
                message,
                has_token,
            },
            (_, 404 | 410) => not_found("model or revision", url, message),
            (_, 429) => HubError::RateLimited {
                url,
                retry_after,
                message,
                has_token,
            },
            _ => HubError::Status {
                url,
                status,
                retry_after,
                message,
            },
        }
    }

    fn page_of(&self, url: &str) -> String {
        let path = url.strip_prefix(&self.endpoint).unwrap_or_default();
        let path = path.strip_prefix("/api/models").unwrap_or(path);
        let repo: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match repo[..] {
            [org, name, ..] => format!("{}/{org}/{name}", self.endpoint),
            _ => self.endpoint.clone(),
        }
    }

    /// The server's own words in one short line, without the token should it repeat it.
    fn message(&self, mut response: Response<Body>) -> Option<String> {
        let from_header = header(response.headers(), "x-error-message");
        let text = from_header.or_else(|| {
            let body = response.body_mut().with_config();
            let text = body.limit(MOST_MESSAGE_BYTES).read_to_string().ok()?;
            let json: serde_json::Value = serde_json::from_str(&text).ok()?;
            Some(json.get("error")?.as_str()?.to_owned())
        })?;
        let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        text.retain(|c| !c.is_control());
        if let Some(token) = &self.token {
            text = text.replace(token.expose_secret(), "***");
        }
        let text: String = text.chars().take(300).collect();
        (!text.is_empty()).then_some(text)
    }
}

impl FileHeaders {
    /// The first answer that states something counts: a later one may be about a copy.
    fn add(&mut self, headers: &HeaderMap, is_redirect: bool) {
        let size = header(headers, "x-linked-size").or_else(|| {
            let length = header(headers, "content-length");
            length.filter(|_| !is_redirect)
        });
        let etag = header(headers, "x-linked-etag")
            .or_else(|| header(headers, "etag").filter(|_| !is_redirect));
        self.commit = self.commit.take().or(header(headers, "x-repo-commit"));
        self.etag = self.etag.take().or(etag);
        self.size_bytes = self.size_bytes.or(size.and_then(|text| text.parse().ok()));
    }
}

fn agent(tls: TlsConfig, proxy: Option<Proxy>) -> Agent {
    let config = Agent::config_builder()
        .tls_config(tls)
        .proxy(proxy)
        .user_agent(USER_AGENT)
        // The bytes on the wire must be the bytes of the file.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .build();
    Agent::new_with_config(config)
}

fn tls(settings: &Settings) -> Result<TlsConfig, HubError> {
    let Some((variable, path)) = &settings.certificates else {
        return Ok(TlsConfig::default());
    };
    let unusable = |source| HubError::Certificates {
        variable,
        path: path.clone(),
        source,
    };
    let pem = fs::read(path).map_err(|source| unusable(Some(source)))?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| unusable(None))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(unusable(None));
    }
    let roots = RootCerts::from(certificates);
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned())
}

fn content_type(headers: &HeaderMap) -> String {
    header(headers, "content-type").unwrap_or_default()
}

fn is_html(content_type: &str) -> bool {
    content_type.to_ascii_lowercase().starts_with("text/html")
}

/// Seconds from `Retry-After`, else from the hub's `RateLimit: "api";r=0;t=55`. A date is not
/// read: the backoff's own wait serves as well.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let plain = header(headers, "retry-after").and_then(|text| text.parse().ok());
    let window = || {
        let text = header(headers, "ratelimit")?;
        let mut fields = text.split(';').map(str::trim);
        let seconds = fields.find_map(|field| field.strip_prefix("t="))?;
        seconds.parse().ok()
    };
    plain.or_else(window).map(Duration::from_secs)
}

/// The failure of a read in mid-body, as the operating system told it.
pub(crate) fn read_error(error: io::Error) -> Option<io::Error> {
    (error.kind() != io::ErrorKind::UnexpectedEof).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::from_lookup(|name| {
            let mut variables = variables.iter();
            let found = variables.find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_token_is_for_the_hubs_own_address() {
        let client = Client::new(&settings(&[("HF_ENDPOINT", "https://hub.example")])).unwrap();
        let is_hub = |url: &str| client.target(url).unwrap().1;
        assert!(is_hub("https://hub.example/x") && is_hub("https://HUB.example:443/x"));
        for other in [
            "http://hub.example/x",
            "https://hub.example:8443/x",
            "https://cdn.hub.example/x",
            "https://hub.example.evil/x",
            "https://hub.example@evil/x",
        ] {
            assert!(!is_hub(other), "{other}");
        }
        assert!(client.target("ftp://hub.example/x").is_err());
    }

    #[test]
    fn settings_that_cannot_be_used_are_named_without_their_secrets() {
        let cases = [
            (("HF_ENDPOINT", "huggingface.co"), "HF_ENDPOINT"),
            (("HF_ENDPOINT", "https://me:secret@h"), "HF_ENDPOINT"),
            (("HTTPS_PROXY", "gopher://me:secret@h"), "HTTPS_PROXY"),
            (("HF_TOKEN", "secret\u{e4}"), "token"),
            (("SSL_CERT_FILE", "/none"), "SSL_CERT_FILE"),
        ];
        for (variable, expected) in cases {
            let Err(error) = Client::new(&settings(&[variable])) else {
                panic!("{variable:?} was taken");
            };
            let text = format!("{error} {error:?} {:?}", error.hint());
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("secret"), "{text}");
            assert_eq!(error.exit_code(), 1);
        }
    }

    #[test]
    fn waits_come_from_either_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert("ratelimit", "\"api\";r=0;t=55".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(55)));
        headers.insert("retry-after", "7".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
    }
}
