//! What `quintet serve` can be told, and where: a flag beats the environment, the environment beats
//! the file, the file beats the default.
//!
//! All three are read into one table by the options' names, so that an option is written down once.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::ValueParser;
use clap::{ArgAction, Args};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::failure::UserError;
use crate::settings::Settings;

/// Options of the server. In a file and in the environment (`QUINTET_LISTEN`) they have the same names.
#[derive(Args, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServeOptions {
    /// Model: a hub id that was pulled, a directory, or a .safetensors or .gguf file
    #[arg(long, short, value_name = "ID|PATH", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Threads of the model [default: all cores]
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<usize>,
    /// Model id in requests and answers; the first is in answers. May be repeated [default: the
    /// model's own name]
    #[arg(long, value_name = "ID", help_heading = "Model")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) model_id: Vec<String>,
    /// Take the model into service only if it gives the reference's answers in this file, as
    /// `quintet verify --goldens`
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goldens: Option<PathBuf>,
    /// Folder of TOML files about models, over the built-in catalogue: descriptions, prices, licences
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) catalogue: Option<PathBuf>,
    /// Charge for weights under this licence, which does not allow commercial use, because their owner
    /// allows you to
    #[arg(long, value_name = "LICENSE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) acknowledge_license: Option<String>,

    /// Address and port to listen on, or unix:PATH for a socket [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<String>,
    /// Key that callers must send; better in a file or in QUINTET_API_KEY, other users see flags
    #[arg(long, value_name = "KEY", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
    /// File whose first line is the key
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Let anyone who reaches the address call
    #[arg(long, help_heading = "Service")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_auth: bool,
    /// Certificate chain in PEM: serve HTTPS
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// Private key of the certificate in PEM
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Origin whose pages may call from a browser, `*` for any. May be repeated [default: `*` where a
    /// key is asked for, else none]
    #[arg(long, value_name = "ORIGIN", help_heading = "Service")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) cors_origin: Vec<String>,
    /// Task where a request names none [default: raw]
    #[arg(long, value_name = "TASK", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_task: Option<String>,
    /// What an empty text becomes: `error`, `zero` or `embed` [default: error]
    #[arg(long, value_name = "WHAT", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) empty_input: Option<String>,
    /// Refuse requests that OpenAI would refuse: without a model
    #[arg(long, help_heading = "Service")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) strict_openai: bool,
    /// Lines of the log: `text` or `json` [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log_format: Option<String>,
    /// Least serious lines that are logged: `error`, `warn`, `info` or `debug` [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log_level: Option<String>,
    /// Send a trace of each request to an OpenTelemetry collector (OTLP over HTTP), such as
    /// http://127.0.0.1:4318; in programs built with `--features otel`
    #[arg(long, value_name = "URL", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) otlp_endpoint: Option<String>,

    /// Keep accounts: their keys, credit and ledger in this file, created where there is none, or in
    /// postgres://… (better in QUINTET_STATE: it may hold a password)
    #[arg(long, value_name = "FILE|URL", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    /// Folder of files and batches (/v1/files, /v1/batches). Without accounts it turns them on, with a
    /// state of their own; servers that share a database share the folder too [default: FILE.files
    /// beside the file of --state]
    #[arg(long, value_name = "DIR", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<PathBuf>,
    /// Dollars for a million tokens [default: the catalogue's price, else 0]
    #[arg(long, value_name = "USD", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) price: Option<String>,
    /// Dollars for a million tokens of requests with `X-Tier: batch` [default: the price]
    #[arg(long, value_name = "USD", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch_price: Option<String>,
    /// Requests in a minute, of an account without limits of its own [default: 3000]
    #[arg(long, value_name = "N", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_minute: Option<usize>,
    /// The same of tokens [default: 1000000]
    #[arg(long, value_name = "N", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_minute: Option<usize>,
    /// The same of requests that run at the same time [default: 64]
    #[arg(long, value_name = "N", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) concurrent_requests: Option<usize>,
    /// Who may open an account with POST /v1/sign-up: `off`, `invite` or `open` [default: off]
    #[arg(long, value_name = "WHO", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sign_up: Option<String>,
    /// Dollars that such an account begins with [default: 0]
    #[arg(long, value_name = "USD", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) free_credit: Option<String>,
    /// What keys that are made over HTTP begin with [default: qt-]
    #[arg(long, value_name = "PREFIX", help_heading = "Accounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_prefix: Option<String>,

    /// Tokens of one batch [default: 1024]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_budget: Option<usize>,
    /// Tokens of one request [default: 300000]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_request_tokens: Option<usize>,
    /// Tokens that wait or run; more are refused with 503 [default: 1000000]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_queue_tokens: Option<usize>,
    /// Inputs of one request [default: 2048]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_inputs: Option<usize>,
    /// Bytes of one request's body [default: 16777216]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_body_bytes: Option<usize>,
    /// Bytes of all bodies in memory; more are refused with 503 [default: 268435456]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_bodies_bytes: Option<usize>,
    /// Open connections [default: 16384]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<usize>,
    /// Seconds that accepted requests have after the signal to stop [default: 60]
    #[arg(long, value_name = "SECONDS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shutdown_timeout: Option<usize>,
}

/// Shows nothing: a key is among the options.
impl fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeOptions").finish_non_exhaustive()
    }
}

/// Where an option's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    Environment(String),
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The options as they apply, and where each comes from.
pub(crate) struct Effective {
    pub(crate) options: ServeOptions,
    /// Options that are set, by name.
    pub(crate) set: BTreeMap<String, (Value, Origin)>,
}

/// Whether no output shows this option: a key, or an address that may hold a password.
pub(crate) fn is_secret(name: &str, value: &Value) -> bool {
    let is_address = || value.as_str().is_some_and(|text| text.contains("://"));
    name == "api_key" || (name == "state" && is_address())
}

impl Effective {
    /// Puts flags, environment and file over each other.
    ///
    /// # Errors
    /// For a file that cannot be read, and for values that an option cannot have.
    pub(crate) fn read(
        flags: &ServeOptions,
        file: Option<&Path>,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let mut set = BTreeMap::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read `{}`", path.display()))?;
            let wrong = |error: &toml::de::Error| {
                // The error's own display quotes the line, which may hold the key.
                UserError::new(format!(
                    "`{}` is wrong: {}",
                    path.display(),
                    error.message()
                ))
                .hint("`quintet serve --help` lists the options; write them as `listen = \"…\"`")
            };
            let table: Table = toml::from_str(&text).map_err(|error| wrong(&error))?;
            ServeOptions::deserialize(table.clone()).map_err(|error| wrong(&error))?;
            let origin = Origin::File(path.to_owned());
            set.extend(
                table
                    .into_iter()
                    .map(|(name, value)| (name, (value, origin.clone()))),
            );
        }
        for (name, kind) in kinds() {
            let variable = format!("QUINTET_{}", name.to_uppercase());
            if let Some(text) = settings.variable(&variable) {
                let value = kind.parse(&text).ok_or_else(|| {
                    UserError::new(format!(
                        "{variable} is `{text}`, expected {}",
                        kind.expected()
                    ))
                })?;
                set.insert(name, (value, Origin::Environment(variable)));
            }
        }
        let flags = Table::try_from(flags).context("the flags cannot be read")?;
        set.extend(
            flags
                .into_iter()
                .map(|(name, value)| (name, (value, Origin::Flag))),
        );
        let merged: Table = set
            .iter()
            .map(|(name, (value, _))| (name.clone(), value.clone()))
            .collect();
        let options = ServeOptions::deserialize(merged).context("the options do not fit")?;
        Ok(Self { options, set })
    }
}

impl ServeOptions {
    /// The key, from itself or its file; `None` where there is neither.
    ///
    /// # Errors
    /// For a file that cannot be read or holds no key.
    pub(crate) fn key(&self) -> anyhow::Result<Option<SecretString>> {
        if let Some(key) = &self.api_key {
            return Ok(Some(key.clone().into()));
        }
        let Some(path) = &self.api_key_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the key in `{}`", path.display()))?;
        match text.lines().next().map(str::trim) {
            Some(key) if !key.is_empty() => Ok(Some(key.into())),
            _ => Err(UserError::new(format!("`{}` holds no key", path.display()))
                .hint("write the key into its first line")
                .into()),
        }
    }
}

/// How an option's word in the environment is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Switch,
    Number,
    Text,
    List,
}

impl Kind {
    fn parse(self, text: &str) -> Option<Value> {
        match self {
            Self::Switch => match text {
                "1" | "true" => Some(Value::Boolean(true)),
                "0" | "false" => Some(Value::Boolean(false)),
                _ => None,
            },
            Self::Number => {
                let number: u32 = text.parse().ok()?;
                Some(Value::Integer(number.into()))
            }
            Self::Text => Some(Value::String(text.to_owned())),
            Self::List => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                Some(Value::Array(
                    items.map(|item| item.to_owned().into()).collect(),
                ))
            }
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Switch => "`true` or `false`",
            Self::Number => "a whole number",
            Self::Text => "a text",
            Self::List => "a list with commas",
        }
    }
}

/// Names of the options as the command line knows them, with the kind of each.
fn kinds() -> impl Iterator<Item = (String, Kind)> {
    let is_number = |parser: &ValueParser| parser.type_id() == TypeId::of::<usize>();
    let command = ServeOptions::augment_args(clap::Command::new("serve"));
    let kinds: Vec<_> = command
        .get_arguments()
        .map(|argument| {
            let action = argument.get_action();
            let kind = if matches!(action, ArgAction::SetTrue) {
                Kind::Switch
            } else if matches!(action, ArgAction::Append) {
                Kind::List
            } else if is_number(argument.get_value_parser()) {
                Kind::Number
            } else {
                Kind::Text
            };
            (argument.get_id().to_string(), kind)
        })
        .collect();
    kinds.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        flags: &ServeOptions,
        file: &str,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Effective> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quintet.toml");
        std::fs::write(&path, file).unwrap();
        Effective::read(flags, Some(&path), &Settings::of(variables))
    }

    #[test]
    fn a_flag_beats_the_environment_and_that_the_file() {
        let flags = ServeOptions {
            listen: Some("flag:1".to_owned()),
            ..ServeOptions::default()
        };
        let file = "listen = 'file:1'\ntoken_budget = 7\nmax_inputs = 8\nmodel_id = ['a', 'b']";
        let variables = [
            ("QUINTET_LISTEN", "environment:1"),
            ("QUINTET_TOKEN_BUDGET", "9"),
            ("QUINTET_CORS_ORIGIN", "https://a, https://b"),
            ("QUINTET_STRICT_OPENAI", "true"),
            ("QUINTET_API_KEY", "12345"),
        ];
        let Effective { options, set } = read(&flags, file, &variables).unwrap();
        assert_eq!(options.listen.as_deref(), Some("flag:1"));
        assert_eq!(
            (options.token_budget, options.max_inputs),
            (Some(9), Some(8))
        );
        assert_eq!(options.model_id, ["a", "b"]);
        assert_eq!(options.cors_origin, ["https://a", "https://b"]);
        assert!(options.strict_openai);
        assert_eq!(options.api_key.as_deref(), Some("12345"));
        assert_eq!(set["listen"].1, Origin::Flag);
        assert_eq!(set["token_budget"].1.to_string(), "QUINTET_TOKEN_BUDGET");
    }

    #[test]
    fn mistakes_name_where_they_stand_and_no_key() {
        let flags = ServeOptions::default();
        let error = |file: &str, variables: &[(&str, &str)]| match read(&flags, file, variables) {
            Ok(_) => unreachable!("{file}"),
            Err(error) => error.to_string(),
        };
        assert!(error("lisen = 'x'", &[]).contains("unknown field `lisen`"));
        assert!(!error("api_key = ['sesame'", &[]).contains("sesame"));
        let message = error("", &[("QUINTET_TOKEN_BUDGET", "much")]);
        assert_eq!(
            message,
            "QUINTET_TOKEN_BUDGET is `much`, expected a whole number"
        );
    }
}
