//! Where data goes: stdout, or a file that appears whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, StdoutLock, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

/// Writing failed. It travels inside an [`io::Error`], so that writers stay ordinary ones.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {place}")]
pub(crate) struct OutputError {
    place: String,
    source: io::Error,
}

impl OutputError {
    /// Turns a system's error into one that names the place.
    pub(crate) fn wrap(place: &str) -> impl Fn(io::Error) -> io::Error {
        move |source| {
            io::Error::new(
                source.kind(),
                Self {
                    place: place.to_owned(),
                    source,
                },
            )
        }
    }
}

/// A buffered place for data. What was not written when it is dropped is lost, except on stdout.
pub(crate) struct Output {
    sink: Sink,
    name: String,
}

enum Sink {
    Stdout(BufWriter<StdoutLock<'static>>),
    /// Written beside its final place, renamed at the end.
    Atomic {
        file: BufWriter<NamedTempFile>,
        path: PathBuf,
    },
    /// A pipe or a device: nothing that a rename could replace.
    Special(BufWriter<File>),
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            sink: Sink::Stdout(BufWriter::new(io::stdout().lock())),
            name: "stdout".to_owned(),
        }
    }

    /// Writes `value` as indented JSON and a line end.
    ///
    /// # Errors
    /// When the place cannot be written.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *self, value)?;
        writeln!(self)
    }

    /// `path`, or stdout without one.
    ///
    /// # Errors
    /// The system's, naming the path.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::stdout());
        };
        let name = format!("`{}`", path.display());
        let sink = Sink::open(path).map_err(OutputError::wrap(&name))?;
        Ok(Self { sink, name })
    }

    /// Whether the beginning can be written again at the end.
    pub(crate) fn is_seekable(&self) -> bool {
        matches!(self.sink, Sink::Atomic { .. })
    }

    /// Writes `bytes` over the beginning.
    ///
    /// # Errors
    /// The system's, naming the place.
    pub(crate) fn overwrite_start(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Sink::Atomic { file, .. } = &mut self.sink else {
            let error = io::Error::from(io::ErrorKind::NotSeekable);
            return Err(OutputError::wrap(&self.name)(error));
        };
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(bytes))
            .map_err(OutputError::wrap(&self.name))
    }

    /// Writes what is buffered and gives a file its name.
    ///
    /// # Errors
    /// The system's, naming the place.
    pub(crate) fn finish(self) -> io::Result<()> {
        let finish = match self.sink {
            Sink::Stdout(mut stdout) => stdout.flush(),
            Sink::Special(mut file) => file.flush(),
            Sink::Atomic { file, path } => file
                .into_inner()
                .map_err(io::IntoInnerError::into_error)
                .and_then(|file| file.persist(&path).map_err(io::Error::from))
                .map(|_| ()),
        };
        finish.map_err(OutputError::wrap(&self.name))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink
            .writer()
            .write(bytes)
            .map_err(OutputError::wrap(&self.name))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink
            .writer()
            .flush()
            .map_err(OutputError::wrap(&self.name))
    }
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        // A link stays one: the file that it leads to is replaced.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let existing = path.metadata().ok();
        match &existing {
            Some(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Some(metadata) if !metadata.is_file() => {
                return Ok(Self::Special(BufWriter::new(
                    File::options().write(true).open(&path)?,
                )));
            }
            _ => {}
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".quintet-").suffix(".partial");
        #[cfg(unix)]
        let builder = builder.permissions(permissions(existing.as_ref()));
        let file = builder.tempfile_in(directory)?;
        remove_when_interrupted(file.path().to_owned());
        Ok(Self::Atomic {
            file: BufWriter::new(file),
            path,
        })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stdout(stdout) => stdout,
            Self::Atomic { file, .. } => file,
            Self::Special(file) => file,
        }
    }
}

/// Those of the file that is replaced, else what the user's umask leaves of 666.
#[cfg(unix)]
fn permissions(existing: Option<&std::fs::Metadata>) -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    existing.map_or_else(
        || PermissionsExt::from_mode(0o666),
        std::fs::Metadata::permissions,
    )
}

/// Ctrl-C and a polite kill leave nothing behind. A panic does not either: it drops the file.
fn remove_when_interrupted(path: PathBuf) {
    let handler = move || {
        // The process ends: a file that is gone already is as good.
        let _ = std::fs::remove_file(&path);
        std::process::exit(130);
    };
    // Without a handler only the clean-up is lost.
    let _ = ctrlc::set_handler(handler);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut output = Output::open(Some(&path)).unwrap();
        output.write_all(b"0123").unwrap();
        output.overwrite_start(b"ab").unwrap();
        assert!(!path.exists());
        output.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"ab23");

        let mut output = Output::open(Some(&path)).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(std::fs::read(&path).unwrap(), b"ab23");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for path in [
            directory.path().to_owned(),
            directory.path().join("no/such"),
        ] {
            let error = Output::open(Some(&path)).err().unwrap();
            assert!(error.to_string().starts_with("cannot write `"), "{error}");
        }
    }
}
