//! `quintet pull`: a model from the hub into the hub's own cache.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    time::Duration,
};

use clap::Args;
use indicatif::{DecimalBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use quintet_engine::weights::hub::{HubCache, HubId};
use serde::Serialize;

use crate::hub::{
    Backoff, Client, Download, HubError, Outcome, Progress, RemoteFile, RemoteModel, Settings,
    retry_note,
};

/// Download a model from the model hub, ready for --model.
///
/// Shows the files and the licence first and downloads nothing until --accept-license says that
/// its terms are fine. Files go into the hub's own cache, the one that Python's huggingface_hub
/// uses, and what either of them fetched is not fetched again. A download that was stopped
/// continues where it was; sizes and hashes are checked.
///
/// Environment: HF_HOME, HF_HUB_CACHE (where the cache is), HF_TOKEN (for private and gated
/// models), HF_ENDPOINT (a mirror), HF_HUB_OFFLINE=1 (use the cache only), HTTPS_PROXY,
/// HTTP_PROXY, NO_PROXY, SSL_CERT_FILE.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    quintet pull                                   show files and licence of the model\n  \
    quintet pull --accept-license                  download it\n  \
    quintet pull jinaai/jina-embeddings-v3-hf --accept-license\n  \
    dir=$(quintet pull --accept-license)           the snapshot's folder, for a script")]
pub(crate) struct PullArgs {
    /// The model: org/name or org/name@revision
    #[arg(value_name = "MODEL", default_value = DEFAULT_MODEL)]
    model: String,
    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Say that the model's licence is read and its terms are fine
    #[arg(long)]
    accept_license: bool,
    /// Print the result as JSON on stdout
    #[arg(long)]
    json: bool,
    /// Wait this long before each new try, whatever the server asks (for tests)
    #[arg(long, value_name = "MS", hide = true)]
    retry_delay_ms: Option<u64>,
}

const DEFAULT_MODEL: &str = "jinaai/jina-embeddings-v3";

/// Runs the command: the result goes to `output`, everything else to `log`.
///
/// # Errors
/// [`HubError`], which knows its hint and its exit code.
pub(crate) fn run(
    args: &PullArgs,
    settings: &Settings,
    output: &mut dyn Write,
    log: &mut dyn Write,
) -> Result<(), HubError> {
    let id = id(args)?;
    let cache = HubCache::new(&settings.cache);
    let mut report = Report::new(log);
    if let Some(variable) = settings.offline {
        let summary = offline(&id, &cache, variable)?;
        report.line(&format!(
            "{variable} is set: using the cache, nothing was checked"
        ));
        return summary.write(args.json, output);
    }
    let client = Client::new(settings)?;
    let backoff = Backoff {
        fixed_delay: args.retry_delay_ms.map(Duration::from_millis),
        sleep: &std::thread::sleep,
    };
    let model = backoff.run(
        |error, failures, delay| report.note(&retry_note(error, failures, delay, 0)),
        || RemoteModel::fetch(&client, &id),
    )?;
    let download = Download {
        client: &client,
        cache: &cache,
        id: &id,
        commit: &model.commit,
        backoff: &backoff,
    };
    show_plan(&model, &client, &download, &mut report);
    let is_complete = model.files.iter().all(|file| download.has(file));
    let mut summary = Summary::new(&model, &cache);
    if !args.accept_license && !is_complete {
        if args.json {
            summary.write(true, output)?;
        }
        return Err(license_error(args, &model));
    }
    cache.create()?;
    fetch_all(&model, &download, &mut summary, &mut report)?;
    // Last: until here the revision does not mean a half-filled snapshot.
    cache.point(&id, &model.commit)?;
    summary.status = "complete";
    show_end(&summary, &mut report);
    summary.write(args.json, output)
}

fn id(args: &PullArgs) -> Result<HubId, HubError> {
    let id = HubId::parse(&args.model)?;
    let Some(revision) = &args.revision else {
        return Ok(id);
    };
    match args.model.split_once('@') {
        Some((_, in_id)) if in_id != revision => Err(HubError::TwoRevisions {
            in_id: in_id.into(),
            option: revision.clone(),
        }),
        _ => Ok(id.at(revision)?),
    }
}

fn offline(id: &HubId, cache: &HubCache, variable: &'static str) -> Result<Summary, HubError> {
    let commit_and_snapshot = || Ok((cache.commit(id)?, cache.resolve(id)?));
    let (commit, snapshot) = commit_and_snapshot().map_err(|source| HubError::Offline {
        variable,
        id: id.to_string(),
        cache: cache.root().into(),
        source: Box::new(source),
    })?;
    Ok(Summary {
        status: "offline",
        model: id.repo(),
        revision: id.revision().into(),
        commit: commit.to_string(),
        snapshot: text(&snapshot),
        license: None,
        total_bytes: None,
        downloaded_bytes: 0,
        files: Vec::new(),
    })
}

fn fetch_all(
    model: &RemoteModel,
    download: &Download<'_>,
    summary: &mut Summary,
    report: &mut Report<'_>,
) -> Result<(), HubError> {
    report.count = model.files.len();
    for (index, file) in model.files.iter().enumerate() {
        report.index = index + 1;
        let outcome = download.fetch(file, report);
        report.end_bar();
        let outcome = outcome?;
        report.file(file, outcome);
        let (status, received_bytes) = match outcome {
            Outcome::Present => ("present", 0),
            Outcome::Downloaded {
                resumed_from_bytes: 0,
                received_bytes,
            } => ("downloaded", received_bytes),
            Outcome::Downloaded { received_bytes, .. } => ("resumed", received_bytes),
        };
        summary.files[index].status = status;
        summary.downloaded_bytes += received_bytes;
    }
    Ok(())
}

fn license_error(args: &PullArgs, model: &RemoteModel) -> HubError {
    let mut command = format!("quintet pull {}", args.model);
    if let Some(revision) = &args.revision {
        command.push_str(&format!(" --revision {revision}"));
    }
    if args.json {
        command.push_str(" --json");
    }
    command.push_str(" --accept-license");
    HubError::LicenseNotAccepted {
        repo: model.id.repo(),
        license: model.license.name().into(),
        command,
    }
}

/// Files, sizes and licence, before anything is downloaded.
fn show_plan(
    model: &RemoteModel,
    client: &Client,
    download: &Download<'_>,
    report: &mut Report<'_>,
) {
    report.line(&format!(
        "{} at {} (commit {}) from {}",
        model.id.repo(),
        model.id.revision(),
        model.commit,
        client.endpoint()
    ));
    let longest = model.files.iter().map(|file| file.path.as_str().len());
    let width = longest.max().unwrap_or(0);
    let mut left = 0;
    for file in &model.files {
        let place = if download.has(file) {
            "  in the cache"
        } else {
            left += file.size_bytes;
            ""
        };
        report.line(&format!(
            "  {:width$}  {:>10}{place}",
            file.path.as_str(),
            DecimalBytes(file.size_bytes).to_string(),
        ));
    }
    report.line(&format!(
        "{} files, {}; to download: {} ({} other files of the repository are not needed)",
        model.files.len(),
        DecimalBytes(model.size_bytes()),
        DecimalBytes(left),
        model.skipped
    ));
    report.line(&format!("licence: {}", model.license.name()));
    for line in model.license.meaning(&model.id, client.endpoint()) {
        report.line(&format!("  {line}"));
    }
    if model.is_gated {
        let page = client.page(&model.id);
        report.line(&format!("  its owner asks for an agreement first: {page}"));
    }
}

fn show_end(summary: &Summary, report: &mut Report<'_>) {
    let count = |status| {
        let files = summary.files.iter();
        files.filter(|file| file.status == status).count()
    };
    report.line(&format!(
        "{} files: {} downloaded ({}), {} already there; ready in {}",
        summary.files.len(),
        count("downloaded") + count("resumed"),
        DecimalBytes(summary.downloaded_bytes),
        count("present"),
        summary.snapshot
    ));
}

/// What `--json` prints.
#[derive(Serialize)]
struct Summary {
    /// `complete`, `license_not_accepted` or `offline`.
    status: &'static str,
    model: String,
    revision: String,
    commit: String,
    snapshot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    downloaded_bytes: u64,
    files: Vec<FileSummary>,
}

#[derive(Serialize)]
struct FileSummary {
    path: String,
    size_bytes: u64,
    hash: String,
    /// `downloaded`, `resumed`, `present` or `missing`.
    status: &'static str,
}

impl Summary {
    fn new(model: &RemoteModel, cache: &HubCache) -> Self {
        let files = model.files.iter().map(|file| FileSummary {
            path: file.path.to_string(),
            size_bytes: file.size_bytes,
            hash: file.etag.to_string(),
            status: "missing",
        });
        Self {
            status: "license_not_accepted",
            model: model.id.repo(),
            revision: model.id.revision().into(),
            commit: model.commit.to_string(),
            snapshot: text(&cache.snapshot(&model.id, &model.commit)),
            license: model.license.id.clone(),
            total_bytes: Some(model.size_bytes()),
            downloaded_bytes: 0,
            files: files.collect(),
        }
    }

    /// JSON, or the snapshot's folder alone, so that a script can take it.
    fn write(&self, as_json: bool, output: &mut dyn Write) -> Result<(), HubError> {
        if as_json {
            serde_json::to_writer_pretty(&mut *output, self).map_err(io::Error::from)?;
            writeln!(output)?;
        } else {
            writeln!(output, "{}", self.snapshot)?;
        }
        Ok(output.flush()?)
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What the user sees: a bar for each file on a terminal, else a line.
struct Report<'a> {
    log: &'a mut dyn Write,
    is_terminal: bool,
    bar: Option<ProgressBar>,
    index: usize,
    count: usize,
}

impl<'a> Report<'a> {
    fn new(log: &'a mut dyn Write) -> Self {
        Self {
            log,
            is_terminal: io::stderr().is_terminal(),
            bar: None,
            index: 0,
            count: 0,
        }
    }

    fn line(&mut self, text: &str) {
        let log = &mut self.log;
        // Whoever closed stderr does not want to know.
        let mut print = || {
            let _ = writeln!(log, "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn file(&mut self, file: &RemoteFile, outcome: Outcome) {
        let what = match outcome {
            Outcome::Present => "already in the cache".into(),
            Outcome::Downloaded {
                resumed_from_bytes: 0,
                ..
            } => format!("downloaded, {} right", file.hash_name()),
            Outcome::Downloaded {
                resumed_from_bytes, ..
            } => format!(
                "downloaded from {} on, {} right",
                DecimalBytes(resumed_from_bytes),
                file.hash_name()
            ),
        };
        let line = format!(
            "[{}/{}] {} ({}): {what}",
            self.index,
            self.count,
            file.path,
            DecimalBytes(file.size_bytes)
        );
        self.line(&line);
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Report<'_> {
    fn start(&mut self, file: &RemoteFile, present: u64) {
        if present > 0 {
            let size = DecimalBytes(present);
            self.line(&format!("{}: continuing at {size}", file.path));
        }
        if !self.is_terminal {
            return;
        }
        let bar =
            ProgressBar::with_draw_target(Some(file.size_bytes), ProgressDrawTarget::stderr());
        let template = "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} \
                        {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(format!("[{}/{}] {}", self.index, self.count, file.path));
        bar.set_position(present);
        bar.reset_eta();
        self.bar = Some(bar);
    }

    fn position(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    fn note(&mut self, text: &str) {
        self.line(&format!("note: {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(model: &str, revision: Option<&str>) -> PullArgs {
        PullArgs {
            model: model.into(),
            revision: revision.map(str::to_owned),
            accept_license: false,
            json: false,
            retry_delay_ms: None,
        }
    }

    #[test]
    fn the_revision_stands_in_one_place() {
        let of = |model, revision| id(&args(model, revision)).map(|id| id.to_string());
        assert_eq!(of("a/b", None).unwrap(), "a/b");
        assert_eq!(of("a/b", Some("v1")).unwrap(), "a/b@v1");
        assert_eq!(of("a/b@v1", Some("v1")).unwrap(), "a/b@v1");
        assert!(matches!(
            of("a/b@v1", Some("v2")),
            Err(HubError::TwoRevisions { .. })
        ));
    }
}
