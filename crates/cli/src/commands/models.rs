//! `quintet models`: the models in the hub's cache that can run.

use std::io::Write;

use clap::Args;
use quintet_engine::Checkpoint;
use quintet_engine::weights::hub::{CachedSnapshot, HubCache, HubId};
use serde::Serialize;

use crate::output::Output;
use crate::settings::Settings;
use crate::table::{Align, Paint, columns, size};

/// List the downloaded models.
///
/// Looks into the model hub's cache (HF_HOME or HF_HUB_CACHE), which Python's huggingface_hub uses
/// too, and lists every jina-embeddings-v3 that is complete: id, revision, layout, size, folder.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet models
  quintet models --json | jq -r '.[0].path'")]
pub(crate) struct ModelsArgs {
    /// Print [{"id", "revisions", "commit", "layout", "adapters", "size_bytes", "path"}, …]
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Model {
    /// What `--model` takes.
    id: String,
    revisions: Vec<String>,
    commit: String,
    layout: String,
    adapters: Vec<String>,
    size_bytes: u64,
    path: String,
}

/// Runs the command.
pub(crate) fn run(args: &ModelsArgs, settings: &Settings) -> anyhow::Result<()> {
    let cache = HubCache::new(&settings.hub.cache);
    let mut models = Vec::new();
    let mut others = 0;
    for cached in cache.models()? {
        for snapshot in cached.snapshots {
            match Model::read(&cached.id, snapshot) {
                Some(model) => models.push(model),
                None => others += 1,
            }
        }
    }
    let mut output = Output::stdout();
    if args.json {
        output.json(&models)?;
    } else {
        write!(
            output,
            "{}",
            list(
                &models,
                Paint {
                    on: settings.colour
                }
            )
        )?;
        output.flush()?;
        note(&models, others, &cache);
    }
    Ok(output.finish()?)
}

impl Model {
    /// `None` for what this engine cannot run.
    fn read(id: &HubId, snapshot: CachedSnapshot) -> Option<Self> {
        if !snapshot.is_complete {
            return None;
        }
        let checkpoint = Checkpoint::open(&snapshot.path).ok()?;
        let is_main = snapshot
            .revisions
            .iter()
            .any(|revision| revision == id.revision());
        let revision = snapshot
            .revisions
            .first()
            .map_or(snapshot.commit.as_str(), String::as_str);
        Some(Self {
            id: if is_main {
                id.repo()
            } else {
                format!("{}@{revision}", id.repo())
            },
            commit: snapshot.commit.to_string(),
            layout: checkpoint.layout.to_string(),
            adapters: checkpoint
                .adapters
                .into_iter()
                .map(|adapter| adapter.name)
                .collect(),
            size_bytes: snapshot.size_bytes,
            path: snapshot.path.to_string_lossy().into_owned(),
            revisions: snapshot.revisions,
        })
    }
}

fn list(models: &[Model], paint: Paint) -> String {
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|model| {
            let adapters = match model.adapters.len() {
                0 => "no adapters".to_owned(),
                count => format!("{count} adapters"),
            };
            vec![
                model.id.clone(),
                model.layout.clone(),
                adapters,
                size(model.size_bytes),
            ]
        })
        .collect();
    let table = columns(
        &rows,
        &[Align::Left, Align::Left, Align::Left, Align::Right],
    );
    let mut text = String::new();
    for (line, model) in table.lines().zip(models) {
        text.push_str(&format!(
            "{line}\n{}\n",
            paint.with("2", &format!("  {}", model.path))
        ));
    }
    text
}

/// Says on stderr what the list leaves open.
fn note(models: &[Model], others: usize, cache: &HubCache) {
    let mut text = String::new();
    if models.is_empty() {
        text.push_str(&format!(
            "no jina-embeddings-v3 in `{}`\n",
            cache.root().display()
        ));
        text.push_str("hint: `quintet pull` shows licence and size, `quintet pull --accept-license` fetches it\n");
    }
    if others > 0 {
        text.push_str(&format!(
            "{others} other or incomplete snapshots in the cache are not listed\n"
        ));
    }
    // Whoever closed stderr does not want to know.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
