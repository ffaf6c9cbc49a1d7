//! Where the hub is, who asks and through which proxy, read from the variables that Python's
//! `huggingface_hub` reads.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

/// What the environment says about the model hub.
///
/// Nothing here is checked yet: a wrong address or proxy is an error of the command that needs
/// it, not of every command.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Folder of the cache: `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub(crate) cache: PathBuf,
    /// Address of the hub: `HF_ENDPOINT`, without a slash at the end.
    pub(crate) endpoint: String,
    /// The access token: `HF_TOKEN`, or the file that `hf auth login` writes.
    pub(crate) token: Option<SecretString>,
    /// The variable that forbids the network, when one does.
    pub(crate) offline: Option<&'static str>,
    /// Proxy for `http://` addresses.
    pub(crate) http_proxy: Option<ProxySetting>,
    /// Proxy for `https://` addresses.
    pub(crate) https_proxy: Option<ProxySetting>,
    /// Hosts that are reached without a proxy.
    pub(crate) no_proxy: NoProxy,
    /// Certificates to trust instead of the built-in ones (PEM), with the variable that names
    /// the file.
    pub(crate) certificates: Option<(&'static str, PathBuf)>,
}

/// A proxy's address, which may hold a password, and the variable it came from.
#[derive(Clone, Debug)]
pub(crate) struct ProxySetting {
    /// The variable's name.
    pub(crate) variable: &'static str,
    /// Its value.
    pub(crate) url: SecretString,
}

impl Settings {
    /// Reads the process's environment.
    pub(crate) fn from_env() -> Self {
        Self::from_lookup(|name| match std::env::var(name) {
            Ok(value) => Some(value),
            Err(_) if name == "HOME" => std::env::home_dir()?.into_os_string().into_string().ok(),
            Err(_) => None,
        })
    }

    /// Reads variables through `lookup`; an empty value counts as none.
    pub(crate) fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let first = |names: &[&'static str]| {
            let mut names = names.iter();
            names.find_map(|name| value(name).map(|value| (*name, value)))
        };
        let user_home = PathBuf::from(value("HOME").unwrap_or_default());
        let folder = |text: String| expand_home(&text, &user_home);
        let proxy = |names: &[&'static str]| {
            first(names).map(|(variable, url)| ProxySetting {
                variable,
                url: url.into(),
            })
        };

        let hub_home = match value("HF_HOME") {
            Some(home) => folder(home),
            None => value("XDG_CACHE_HOME")
                .map_or_else(|| user_home.join(".cache"), &folder)
                .join("huggingface"),
        };
        let cache = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
            .map_or_else(|| hub_home.join("hub"), |(_, text)| folder(text));
        let endpoint = value("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        let is_implicit = !value("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|v| is_true(&v));
        let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
            .map(|(_, token)| token)
            .or_else(|| {
                let file = value("HF_TOKEN_PATH").map_or_else(|| hub_home.join("token"), &folder);
                fs::read_to_string(file).ok()
            })
            .map(|token| token.trim().to_owned())
            .filter(|token| is_implicit && !token.is_empty());
        Self {
            cache,
            endpoint: endpoint.trim().trim_end_matches('/').into(),
            token: token.map(SecretString::from),
            offline: first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
                .and_then(|(name, value)| is_true(&value).then_some(name)),
            http_proxy: proxy(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            https_proxy: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            no_proxy: NoProxy::new(
                &first(&["no_proxy", "NO_PROXY"]).map_or_else(String::new, |(_, hosts)| hosts),
            ),
            certificates: first(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
                .map(|(name, text)| (name, folder(text))),
        }
    }
}

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Hosts that are reached without a proxy, as `NO_PROXY` lists them.
#[derive(Clone, Default)]
pub(crate) struct NoProxy {
    rules: Vec<String>,
}

impl NoProxy {
    /// Reads a list with commas: hosts (which mean their sub-domains too, with or without a dot
    /// or `*.` in front), perhaps with a port, or `*` for all.
    pub(crate) fn new(list: &str) -> Self {
        let rules = list.split(',').map(|rule| rule.trim().to_ascii_lowercase());
        Self {
            rules: rules.filter(|rule| !rule.is_empty()).collect(),
        }
    }

    /// Whether `host` is in the list.
    pub(crate) fn contains(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        self.rules.iter().any(|rule| {
            let (rule, rule_port) = match rule.rsplit_once(':') {
                Some((name, text)) if !name.contains(':') => (name, text.parse::<u16>().ok()),
                _ => (rule.as_str(), None),
            };
            let name = rule.strip_prefix('*').unwrap_or(rule);
            let name = name.strip_prefix('.').unwrap_or(name);
            let is_inside = || {
                let front = host.strip_suffix(name);
                front.is_some_and(|front| front.is_empty() || front.ends_with('.'))
            };
            rule_port.is_none_or(|wanted| wanted == port) && (name.is_empty() || is_inside())
        })
    }
}

impl fmt::Debug for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.rules).finish()
    }
}

fn is_true(value: &str) -> bool {
    matches!(
        value.trim().to_ascii_uppercase().as_str(),
        "1" | "ON" | "YES" | "TRUE"
    )
}

fn expand_home(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None if text == "~" => home.into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::from_lookup(|name| {
            let mut variables = variables.iter();
            let found = variables.find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn token(settings: &Settings) -> Option<&str> {
        settings.token.as_ref().map(ExposeSecret::expose_secret)
    }

    #[test]
    fn the_cache_lies_where_python_looks_for_it() {
        let cases: [(&[(&str, &str)], &str); 7] = [
            (&[("HOME", "/u")], "/u/.cache/huggingface/hub"),
            (
                &[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (&[("HOME", "/u"), ("HF_HOME", "~/h")], "/u/h/hub"),
            (
                &[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/old",
            ),
            (
                &[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")],
                "/c",
            ),
            (&[("HOME", "/u"), ("HF_HUB_CACHE", "~")], "/u"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "")], "/h/hub"),
        ];
        for (variables, expected) in cases {
            assert_eq!(settings(variables).cache, PathBuf::from(expected));
        }
    }

    #[test]
    fn the_token_comes_from_a_variable_or_else_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(token(&settings(&[("HF_HOME", home)])), None);
        fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(token(&settings(&[("HF_HOME", home)])), Some("hf_file"));
        let other = folder.path().join("other");
        fs::write(&other, "hf_other").unwrap();
        let variables = [
            ("HF_HOME", home),
            ("HF_TOKEN_PATH", other.to_str().unwrap()),
        ];
        assert_eq!(token(&settings(&variables)), Some("hf_other"));
        let variables = [("HF_HOME", home), ("HF_TOKEN", " hf_env ")];
        assert_eq!(token(&settings(&variables)), Some("hf_env"));
        let variables = [
            ("HF_TOKEN", "hf_env"),
            ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ];
        assert_eq!(token(&settings(&variables)), None);
    }

    #[test]
    fn secrets_are_not_in_the_debug_text() {
        let settings = settings(&[
            ("HF_TOKEN", "hf_secret"),
            ("HTTPS_PROXY", "http://user:secret@proxy:1"),
        ]);
        let text = format!("{settings:?}");
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn the_rest_has_the_usual_defaults() {
        let plain = settings(&[]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.offline, None);
        assert!(plain.http_proxy.is_none() && plain.https_proxy.is_none());
        let set = settings(&[
            ("HF_ENDPOINT", "https://mirror.example/hf/"),
            ("HF_HUB_OFFLINE", "yes"),
            ("ALL_PROXY", "http://all"),
            ("HTTPS_PROXY", "http://one"),
        ]);
        assert_eq!(set.endpoint, "https://mirror.example/hf");
        assert_eq!(set.offline, Some("HF_HUB_OFFLINE"));
        assert_eq!(set.https_proxy.unwrap().variable, "HTTPS_PROXY");
        assert_eq!(set.http_proxy.unwrap().variable, "ALL_PROXY");
        assert_eq!(settings(&[("HF_HUB_OFFLINE", "0")]).offline, None);
    }

    #[test]
    fn no_proxy_means_a_host_and_what_is_below_it() {
        let rules = NoProxy::new("localhost, .corp.example,*.lab.example,api.example:8443, ::1");
        for host in [
            "localhost",
            "corp.example",
            "A.Corp.Example",
            "x.lab.example",
            "::1",
        ] {
            assert!(rules.contains(host, 443), "{host}");
        }
        assert!(rules.contains("api.example", 8443));
        assert!(!rules.contains("api.example", 443));
        for host in ["notcorp.example", "huggingface.co", "localhost.evil"] {
            assert!(!rules.contains(host, 443), "{host}");
        }
        assert!(NoProxy::new("*").contains("anything", 1));
        assert!(!NoProxy::new("").contains("anything", 1));
    }
}
