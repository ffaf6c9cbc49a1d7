//! From what the user calls a model to a loaded one.

use std::path::{Path, PathBuf};

#[cfg(feature = "mini")]
use quintet_engine::BuiltInModel;
use quintet_engine::calibration::RoundedMatrices;
use quintet_engine::weights::hub::{DEFAULT_REVISION, HubCache, HubCacheError, HubId};
use quintet_engine::{
    AdapterSource, Checkpoint, CheckpointError, Dimensions, EmbedError, Embedder, LoadError,
    LoadOptions, Precision,
};
use sha2::{Digest, Sha256};

use crate::args::ModelArgs;
use crate::failure::{self, UserError};
use crate::progress;
use crate::settings::Settings;

/// Models that are looked for in the cache when none is named, in this order.
const DEFAULT_MODELS: [&str; 2] = ["jinaai/jina-embeddings-v3", "jinaai/jina-embeddings-v3-hf"];

/// A model that is on this machine.
#[derive(Debug)]
pub(crate) struct Located {
    /// As people call it: the hub id, or the path.
    pub(crate) name: String,
    pub(crate) source: Source,
    /// The id, when the hub's cache holds it.
    pub(crate) hub_id: Option<HubId>,
}

/// Where a model's files are.
#[derive(Debug)]
pub(crate) enum Source {
    /// A directory or a file.
    Path(PathBuf),
    /// In this program.
    #[cfg(feature = "mini")]
    BuiltIn,
}

impl Located {
    /// Opens the checkpoint.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub(crate) fn open(&self) -> Result<Checkpoint, CheckpointError> {
        match &self.source {
            Source::Path(path) => Checkpoint::open(path),
            #[cfg(feature = "mini")]
            Source::BuiltIn => Checkpoint::built_in(&BuiltInModel {
                name: quintet_mini::NAME,
                config_json: quintet_mini::CONFIG_JSON,
                model_safetensors: quintet_mini::MODEL_SAFETENSORS,
                tokenizer_json: quintet_mini::TOKENIZER_JSON,
            }),
        }
    }

    /// The directory or file, where there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::Path(path) => Some(path),
            #[cfg(feature = "mini")]
            Source::BuiltIn => None,
        }
    }
}

/// The model that is built in.
#[cfg(feature = "mini")]
fn built_in() -> Located {
    Located {
        name: quintet_mini::NAME.to_owned(),
        source: Source::BuiltIn,
        hub_id: None,
    }
}

/// Finds the model of a flag, of `QUINTET_MODEL`, or the default one.
///
/// # Errors
/// [`UserError`] and the cache's errors, all with a hint.
pub(crate) fn locate(flag: Option<&str>, settings: &Settings) -> anyhow::Result<Located> {
    let cache = HubCache::new(&settings.hub.cache);
    match settings.model(flag) {
        Some(name) => locate_named(name, &cache),
        None => locate_default(&cache),
    }
}

fn locate_named(name: &str, cache: &HubCache) -> anyhow::Result<Located> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(Located {
            name: name.to_owned(),
            source: Source::Path(path.to_owned()),
            hub_id: None,
        });
    }
    #[cfg(feature = "mini")]
    if name == quintet_mini::NAME {
        return Ok(built_in());
    }
    let id = if is_path_like(name) {
        None
    } else {
        HubId::parse(name).ok()
    };
    match id {
        Some(id) => in_cache(id, cache).map_err(Into::into),
        None => Err(UserError::new(format!("there is no model `{name}`"))
            .hint(
                "name a directory, a .safetensors or .gguf file, or a hub id such as \
                 `jinaai/jina-embeddings-v3`",
            )
            .into()),
    }
}

/// Whether a name that is no file can only have been meant as one.
fn is_path_like(name: &str) -> bool {
    let is_weights = name.ends_with(".safetensors") || name.ends_with(".gguf");
    is_weights || name.starts_with(['.', '/', '~']) || name.contains('\\')
}

fn in_cache(id: HubId, cache: &HubCache) -> Result<Located, HubCacheError> {
    let path = cache.resolve(&id)?;
    let name = match id.revision() {
        DEFAULT_REVISION => id.repo(),
        _ => id.to_string(),
    };
    Ok(Located {
        name,
        source: Source::Path(path),
        hub_id: Some(id),
    })
}

fn locate_default(cache: &HubCache) -> anyhow::Result<Located> {
    let mut damaged = None;
    for name in DEFAULT_MODELS {
        match in_cache(HubId::parse(name)?, cache) {
            Ok(located) => return Ok(located),
            Err(HubCacheError::NotCached { .. }) => {}
            Err(error) => damaged = damaged.or(Some(error)),
        }
    }
    if let Some(error) = damaged {
        return Err(error.into());
    }
    #[cfg(feature = "mini")]
    {
        failure::note(
            "no model is named and none is in the cache: running the small built-in `mini`; \
             `quintet pull` fetches jina-embeddings-v3",
        );
        Ok(built_in())
    }
    #[cfg(not(feature = "mini"))]
    Err(UserError::new(format!(
        "no model is named and the cache in `{}` has no jina-embeddings-v3",
        cache.root().display()
    ))
    .hint("`quintet pull` fetches it; or name another with --model")
    .into())
}

/// Finds and loads a model, its custom adapters with it.
///
/// # Errors
/// Those of [`locate`], of the checkpoint, its adapters and its tokenizer.
pub(crate) fn load(args: &ModelArgs, settings: &Settings) -> anyhow::Result<Embedder> {
    let located = locate(args.model.as_deref(), settings)?;
    load_located(&located, args, settings)
}

/// Loads a model that was found before, from its packed weights if there are any. A file of packed
/// weights that is out of date or damaged is made anew.
///
/// # Errors
/// Those of the checkpoint, its adapters and its tokenizer.
pub(crate) fn load_located(
    located: &Located,
    args: &ModelArgs,
    settings: &Settings,
) -> anyhow::Result<Embedder> {
    let checkpoint = located.open()?;
    let packed = packed_path(located, args.precision, settings)
        .ok()
        .flatten()
        .filter(|path| path.is_file());
    let Some(path) = packed else {
        return load_unpacked(located, &checkpoint, args, Fit::default(), settings);
    };
    let kept = Kept::File(&path);
    match load_from(located, &checkpoint, kept, args, settings)? {
        Err(LoadError::PackFile(error)) => {
            failure::note(&format!("{error}; making them anew"));
            let embedder = load_unpacked(located, &checkpoint, args, Fit::default(), settings)?;
            if let Err(error) = embedder.write_packed(&checkpoint, &path) {
                failure::warn(&error.to_string());
            }
            Ok(embedder)
        }
        loaded => Ok(loaded?),
    }
}

/// What a calibration chose for the matrices of a model at `fast`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fit<'a> {
    /// Those to keep in 16 bits.
    pub(crate) balanced: &'a [usize],
    /// The others, unless they are rounded to nearest.
    pub(crate) rounded: Option<&'a RoundedMatrices>,
}

/// Loads a model without looking for packed weights.
///
/// # Errors
/// Those of the checkpoint, its adapters and its tokenizer.
pub(crate) fn load_unpacked(
    located: &Located,
    checkpoint: &Checkpoint,
    args: &ModelArgs,
    fit: Fit<'_>,
    settings: &Settings,
) -> anyhow::Result<Embedder> {
    let kept = Kept::Checkpoint(fit);
    Ok(load_from(located, checkpoint, kept, args, settings)??)
}

/// Where packed weights come from.
enum Kept<'a> {
    /// A file of them.
    File(&'a Path),
    /// The checkpoint.
    Checkpoint(Fit<'a>),
}

/// The outer error is that of an argument.
fn load_from(
    located: &Located,
    checkpoint: &Checkpoint,
    kept: Kept<'_>,
    args: &ModelArgs,
    settings: &Settings,
) -> anyhow::Result<Result<Embedder, LoadError>> {
    let adapters = args
        .adapters
        .iter()
        .map(|adapter| AdapterSource::custom(&adapter.name, &adapter.path))
        .collect::<Result<_, _>>()?;
    let (packed, fit) = match kept {
        Kept::File(path) => (Some(path), Fit::default()),
        Kept::Checkpoint(fit) => (None, fit),
    };
    let bar = progress::loading(&located.name);
    let options = LoadOptions {
        threads: settings.threads(&args.threads)?,
        isa: settings.isa()?,
        precision: args.precision,
        packed,
        balanced: fit.balanced,
        rounded: fit.rounded,
        adapters,
        progress: &|done, steps| {
            bar.set_length(steps as u64);
            bar.set_position(done as u64);
        },
        ..LoadOptions::default()
    };
    let loaded = Embedder::load(checkpoint, &options);
    bar.finish_and_clear();
    Ok(loaded)
}

/// Where the packed weights of a model are kept; `None` for the one that is built in.
///
/// # Errors
/// [`UserError`] when the environment names no folder for a cache, or the model is not there.
pub(crate) fn packed_path(
    located: &Located,
    precision: Precision,
    settings: &Settings,
) -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = located.path() else {
        return Ok(None);
    };
    let path = path.canonicalize()?;
    let cache = settings.cache().ok_or_else(|| {
        UserError::new("there is no folder to keep packed weights in".to_owned())
            .hint("set QUINTET_CACHE")
    })?;
    let key = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let key: String = key
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Some(
        cache.join("packed").join(format!("{key}-{precision}.pack")),
    ))
}

/// Checks a Matryoshka size that the user asked for; warns of one that training did not cover.
///
/// # Errors
/// [`EmbedError::Dimensions`] when the model has no such size.
pub(crate) fn dimensions(
    embedder: &Embedder,
    asked: Option<usize>,
) -> Result<Option<Dimensions>, EmbedError> {
    let dimensions = asked.map(|size| embedder.dimensions(size)).transpose()?;
    if let Some(dimensions) = dimensions
        && !dimensions.is_trained()
    {
        let trained = &embedder.config().matryoshka_dimensions;
        let trained: Vec<String> = trained.iter().map(usize::to_string).collect();
        failure::warn(&format!(
            "the model was not trained for {} dimensions, but for {}; expect a little less than from \
             the next larger",
            dimensions.value(),
            trained.join(", ")
        ));
    }
    Ok(dimensions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_not_mistaken_for_an_id() {
        for path in [
            "./a/b",
            "/a/b",
            "../a",
            "~/a",
            "a/b.gguf",
            "a/model.safetensors",
            "a\\b",
        ] {
            assert!(is_path_like(path), "{path}");
        }
        assert!(!is_path_like("jinaai/jina-embeddings-v3"));
    }
}
