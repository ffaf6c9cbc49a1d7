//! What the server writes down: lines on stderr, and spans to a collector where one is named. Texts and
//! keys are never fields of either.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use super::ServeOptions;
use crate::failure::UserError;

/// A layer of whatever type.
pub(super) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// What must live as long as the server.
pub(super) struct Log {
    #[cfg(feature = "otel")]
    _traces: Option<super::traces::Traces>,
}

/// Starts to write.
///
/// # Errors
/// For words that the options cannot have.
pub(super) fn start(options: &ServeOptions) -> anyhow::Result<Log> {
    let lines = lines(options)?;
    #[cfg(feature = "otel")]
    let traces = options
        .otlp_endpoint
        .as_deref()
        .map(super::traces::Traces::start)
        .transpose()?;
    #[cfg(feature = "otel")]
    let spans = traces.as_ref().map(super::traces::Traces::layer);
    #[cfg(not(feature = "otel"))]
    let spans = no_spans(options)?;
    let layers: Vec<BoxedLayer> = std::iter::once(lines).chain(spans).collect();
    tracing_subscriber::registry().with(layers).init();
    Ok(Log {
        #[cfg(feature = "otel")]
        _traces: traces,
    })
}

/// Says that there are none to be had.
#[cfg(not(feature = "otel"))]
fn no_spans(options: &ServeOptions) -> Result<Option<BoxedLayer>, UserError> {
    match options.otlp_endpoint {
        None => Ok(None),
        Some(_) => Err(UserError::new("this program was built without traces")
            .hint("build it with `--features otel`, or leave --otlp-endpoint out")),
    }
}

/// Structured lines on stderr.
fn lines(options: &ServeOptions) -> Result<BoxedLayer, UserError> {
    let level = match options.log_level.as_deref() {
        None | Some("info") => LevelFilter::INFO,
        Some("error") => LevelFilter::ERROR,
        Some("warn") => LevelFilter::WARN,
        Some("debug") => LevelFilter::DEBUG,
        Some(word) => {
            return Err(UserError::new(format!(
                "log_level is `{word}`, expected `error`, `warn`, `info` or `debug`"
            )));
        }
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(std::io::stderr);
    match options.log_format.as_deref() {
        None | Some("text") => {
            let colours = std::io::stderr().is_terminal();
            Ok(lines.with_ansi(colours).with_filter(level).boxed())
        }
        Some("json") => Ok(lines.json().flatten_event(true).with_filter(level).boxed()),
        Some(word) => Err(UserError::new(format!(
            "log_format is `{word}`, expected `text` or `json`"
        ))),
    }
}
