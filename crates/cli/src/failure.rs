//! How the program fails: the words on stderr, the hint, the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use quintet_engine::quality::{BeirError, CollectionError};
use quintet_engine::weights::hub::{HubCacheError, HubIdError};
use quintet_engine::{CheckpointError, EmbedError, LoadError, UnknownTask};
use quintet_server::store::{DatabaseError, StoreError};
use quintet_server::{JobsError, LicenseError};

use crate::hub::HubError;
use crate::input::InputError;
use crate::output::OutputError;

/// A mistake that only a command line can contain, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct UserError {
    message: String,
    hint: Option<String>,
}

impl UserError {
    /// Lower case, no full stop, values in backticks.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Exit code for what the user can put right.
const FIXABLE: u8 = 1;
/// Exit code for a bug or a broken machine.
const BROKEN: u8 = 2;

/// Prints an error with its causes and hint, and gives the exit code. A reader that went away
/// (`quintet … | head`) is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    // A `UserError` that stands as context is found by anyhow only, not in the chain.
    let own = || error.downcast_ref::<UserError>()?.hint.clone();
    if let Some(hint) = own().or_else(|| error.chain().find_map(hint)) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    print(&text);
    ExitCode::from(error.chain().find_map(exit_code).unwrap_or(FIXABLE))
}

/// Prints what is wrong with the arguments, or the help or version that was asked for.
pub(crate) fn report_usage(usage: &clap::Error) -> ExitCode {
    // Nobody is left to hear that this could not be printed.
    let _ = usage.print();
    let was_asked_for = matches!(
        usage.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if was_asked_for {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FIXABLE)
    }
}

/// After a panic, whose message is on stderr already.
pub(crate) fn report_panic() -> ExitCode {
    print("error: this is a bug in quintet\nhint: please report it with the lines above\n");
    ExitCode::from(BROKEN)
}

/// Prints a warning on stderr.
pub(crate) fn warn(text: &str) {
    print(&format!("warning: {text}\n"));
}

/// Says on stderr what the user may want to know.
pub(crate) fn note(text: &str) {
    print(&format!("note: {text}\n"));
}

fn print(text: &str) {
    // Whoever closed stderr does not want to know.
    let _ = io::stderr().write_all(text.as_bytes());
}

type Cause<'a> = &'a (dyn std::error::Error + 'static);

fn is_broken_pipe(cause: Cause<'_>) -> bool {
    // Our own output only: a server that hangs up is another matter.
    cause.downcast_ref::<io::Error>().is_some_and(|error| {
        error.kind() == io::ErrorKind::BrokenPipe
            && error.get_ref().is_some_and(|e| e.is::<OutputError>())
    })
}

fn hint(cause: Cause<'_>) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<UserError>() {
        error.hint.clone()
    } else if let Some(error) = cause.downcast_ref::<InputError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<HubError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<HubCacheError>() {
        Some(error.hint())
    } else if let Some(error) = cause.downcast_ref::<HubIdError>() {
        Some(error.hint())
    } else if let Some(error) = cause.downcast_ref::<LicenseError>() {
        Some(error.hint())
    } else if let Some(error) = cause.downcast_ref::<LoadError>() {
        error.hint().map(str::to_owned)
    } else if let Some(error) = cause.downcast_ref::<CheckpointError>() {
        error.hint().map(str::to_owned)
    } else if let Some(error) = cause.downcast_ref::<EmbedError>() {
        error.hint().map(str::to_owned)
    } else if let Some(error) = cause.downcast_ref::<JobsError>() {
        error.hint().map(str::to_owned)
    } else if let Some(error) = cause.downcast_ref::<CollectionError>() {
        error.hint().map(str::to_owned)
    } else if let Some(error) = cause.downcast_ref::<BeirError>() {
        error.hint().map(str::to_owned)
    } else if let Some(error) = cause.downcast_ref::<StoreError>() {
        error.hint().map(str::to_owned)
    } else if let Some(error) = cause.downcast_ref::<DatabaseError>() {
        error.hint().map(str::to_owned)
    } else {
        cause
            .downcast_ref::<UnknownTask>()?
            .hint()
            .map(str::to_owned)
    }
}

fn exit_code(cause: Cause<'_>) -> Option<u8> {
    if let Some(error) = cause.downcast_ref::<HubError>() {
        return Some(error.exit_code());
    }
    let embed_error = match cause.downcast_ref::<InputError>() {
        Some(InputError::Embed { error, .. }) => Some(error),
        _ => cause.downcast_ref::<EmbedError>(),
    };
    if let Some(EmbedError::Forward(_)) = embed_error {
        return Some(BROKEN);
    }
    let error = cause.downcast_ref::<io::Error>()?;
    let by_the_user = matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
    );
    Some(if by_the_user { FIXABLE } else { BROKEN })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: impl Into<anyhow::Error>) -> Option<u8> {
        error.into().chain().find_map(exit_code)
    }

    #[test]
    fn the_exit_code_says_who_can_help() {
        assert_eq!(
            code(io::Error::from(io::ErrorKind::NotFound)),
            Some(FIXABLE)
        );
        assert_eq!(code(io::Error::other("disk on fire")), Some(BROKEN));
        assert_eq!(code(UserError::new("x")), None);
    }

    #[test]
    fn only_the_output_may_go_away_quietly() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(!is_broken_pipe(&pipe));
        assert!(is_broken_pipe(&OutputError::wrap("stdout")(pipe)));
    }
}
