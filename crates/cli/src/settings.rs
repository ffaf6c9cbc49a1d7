//! What the environment says. Nothing else in the program reads `QUINTET_*` or `HF_*`.
//!
//! A flag beats the environment, the environment beats the default.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use quintet_engine::Isa;

use crate::args::ThreadArgs;
use crate::failure::UserError;
use crate::hub;

/// The environment's word, not yet checked: a wrong value is an error of the command that needs it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Cache and address of the model hub: `HF_*`.
    pub(crate) hub: hub::Settings,
    /// Whether stdout may be coloured: a terminal, and neither `NO_COLOR` nor `TERM=dumb`.
    pub(crate) colour: bool,
    /// Folder of what can be made again.
    cache: Option<PathBuf>,
    model: Option<String>,
    threads: Option<String>,
    isa: Option<String>,
    /// Everything named `QUINTET_*`, for commands with many options. A key may be among them.
    variables: Variables,
}

/// Variables of the environment by name; their values are not shown.
#[derive(Clone)]
struct Variables(BTreeMap<String, String>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Settings {
    /// Reads the process's environment.
    pub(crate) fn from_env() -> Self {
        let value = |name: &str| {
            let value = std::env::var_os(name)?.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let is_plain = value("NO_COLOR").is_some() || value("TERM").as_deref() == Some("dumb");
        Self {
            hub: hub::Settings::from_env(),
            colour: !is_plain && std::io::stdout().is_terminal(),
            cache: value("QUINTET_CACHE")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(value("XDG_CACHE_HOME")?).join("quintet")))
                .or_else(|| Some(PathBuf::from(value("HOME")?).join(".cache/quintet"))),
            model: value("QUINTET_MODEL"),
            threads: value("QUINTET_THREADS"),
            isa: value("QUINTET_ISA"),
            variables: Variables(
                std::env::vars_os()
                    .filter_map(|(name, _)| name.into_string().ok())
                    .filter(|name| name.starts_with("QUINTET_"))
                    .filter_map(|name| value(&name).map(|value| (name, value)))
                    .collect(),
            ),
        }
    }

    /// The value of a variable named `QUINTET_*`, if it is set and not blank.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.variables.0.get(name).cloned()
    }

    /// An environment of these variables only.
    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            variables: Variables(variables.iter().map(owned).collect()),
            model: None,
            threads: None,
            isa: None,
            ..Self::from_env()
        }
    }

    /// The folder of what can be made again, if the environment names a place for it.
    pub(crate) fn cache(&self) -> Option<&Path> {
        self.cache.as_deref()
    }

    /// The model: the flag's, else `QUINTET_MODEL`'s.
    pub(crate) fn model<'a>(&'a self, flag: Option<&'a str>) -> Option<&'a str> {
        flag.or(self.model.as_deref())
    }

    /// The number of threads: the flag's, else `QUINTET_THREADS`', else one for each core.
    pub(crate) fn threads(&self, args: &ThreadArgs) -> Result<NonZeroUsize, UserError> {
        let flag = args
            .threads
            .and_then(|threads| NonZeroUsize::new(threads.into()));
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        match (flag, &self.threads) {
            (Some(threads), _) => Ok(threads),
            (None, None) => Ok(cores()),
            (None, Some(text)) => text
                .parse()
                .ok()
                .filter(|threads: &NonZeroUsize| threads.get() <= 1024)
                .ok_or_else(|| {
                    UserError::new(format!(
                        "QUINTET_THREADS is `{text}`, expected a number in 1..=1024"
                    ))
                }),
        }
    }

    /// The instruction set: `QUINTET_ISA`'s, else the fastest of this processor.
    pub(crate) fn isa(&self) -> Result<Isa, UserError> {
        let Some(text) = &self.isa else {
            return Ok(Isa::best());
        };
        let isa: Isa = text.parse().map_err(|_| {
            let known: Vec<String> = Isa::ALL.iter().map(|isa| format!("`{isa}`")).collect();
            UserError::new(format!(
                "QUINTET_ISA is `{text}`, expected {}",
                known.join(" or ")
            ))
        })?;
        if isa.is_available() {
            return Ok(isa);
        }
        Err(UserError::new(format!(
            "QUINTET_ISA is `{isa}`, which this processor does not have"
        ))
        .hint(format!(
            "unset QUINTET_ISA; the best here is `{}`",
            Isa::best()
        )))
    }
}
