//! Bars on stderr for long work, on terminals only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar moves while nothing is reported.
const TICK: Duration = Duration::from_millis(200);

/// A bar for the steps of loading a model.
pub(crate) fn loading(model: &str) -> ProgressBar {
    let bar = bar(Some(0), "loading {msg} {wide_bar} {percent:>3} %");
    bar.set_message(model.to_owned());
    bar
}

/// A bar for the matrices that a calibration rounds.
pub(crate) fn rounding(model: &str) -> ProgressBar {
    let bar = bar(
        Some(0),
        "rounding {msg} {wide_bar} {percent:>3} %  {elapsed} of about {duration}",
    );
    bar.set_message(model.to_owned());
    bar
}

/// A bar for the passes of a calibration.
pub(crate) fn calibrating(model: &str) -> ProgressBar {
    let bar = bar(
        Some(0),
        "calibrating {msg} {wide_bar} {percent:>3} %  {elapsed} of about {duration}",
    );
    bar.set_message(model.to_owned());
    bar
}

/// A bar for the texts of a collection.
pub(crate) fn measuring(precision: &'static str) -> ProgressBar {
    let bar = bar(
        Some(0),
        "embedding in {msg} {wide_bar} {percent:>3} %  {elapsed} of about {duration}",
    );
    bar.set_message(precision);
    bar
}

/// A bar for reading `total_bytes` of input, or a counter where their number is unknown. It is
/// hidden when the rows go to the same terminal.
pub(crate) fn embedding(total_bytes: Option<u64>, rows_on_stdout: bool) -> ProgressBar {
    if rows_on_stdout && std::io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match total_bytes {
        Some(_) => "embedding {wide_bar} {percent:>3} %  {msg}  {elapsed} of about {duration}",
        None => "embedding {spinner} {msg}  {elapsed}",
    };
    bar(total_bytes, template)
}

fn bar(len: Option<u64>, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(len, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}
