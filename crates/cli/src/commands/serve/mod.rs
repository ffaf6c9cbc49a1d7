//! `quintet serve`: the model behind the HTTP API of OpenAI and Jina.

mod hosting;
mod log;
mod options;
#[cfg(feature = "otel")]
mod traces;

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use quintet_engine::Precision;
use quintet_server::batcher::BatcherLimits;
use quintet_server::{
    Auth, Catalogue, Config, Cors, EmptyInput, Hosting, JobLimits, Jobs, Listen, Model, RunError,
    Server, TlsFiles,
};

use super::verify;
use crate::args::{self, AdapterArg, ModelArgs, ThreadArgs};
use crate::failure::UserError;
use crate::model::{self, Located};
use crate::settings::Settings;

pub(crate) use options::{Effective, ServeOptions, is_secret};

/// Serve embeddings over HTTP, as OpenAI's and Jina's clients expect them.
///
/// Listens at once and answers 503 until the model is loaded and has proven itself. SIGTERM and
/// Ctrl-C stop it after the accepted requests. Every option can also stand in a file (--config) and
/// in the environment (--token-budget is QUINTET_TOKEN_BUDGET); `quintet config show` says what
/// applies.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet serve
  curl http://127.0.0.1:8080/v1/embeddings -H 'content-type: application/json' \\
    -d '{\"input\": \"Where do storks spend the winter?\", \"task\": \"retrieval.query\"}'
  QUINTET_API_KEY=… quintet serve --listen 0.0.0.0:8080
  quintet serve --listen 0.0.0.0:8080 --state quintet.db --price 0.02")]
pub(crate) struct ServeArgs {
    /// Read options from FILE, in TOML [env: QUINTET_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Add an adapter of your own as task NAME. May be repeated
    #[arg(long = "adapter", value_name = "NAME=PATH", help_heading = "Model")]
    adapters: Vec<AdapterArg>,
    /// Arithmetic of the weight products: `exact` is f32, `balanced` 16-bit and `fast` 8-bit integers
    #[arg(long, value_name = "PRECISION", default_value = "exact", help_heading = "Model", value_parser = args::precision())]
    precision: Precision,
    #[command(flatten)]
    options: ServeOptions,
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs, settings: &Settings) -> anyhow::Result<()> {
    let effective = Effective::read(
        &args.options,
        config_file(args.config.clone(), settings).as_deref(),
        settings,
    )?;
    let options = effective.options;
    // Traces that are not sent yet are sent when it is dropped.
    let _log = log::start(&options)?;
    let located = model::locate(options.model.as_deref(), settings)?;
    let mut config = config(&options, &located.name)?;
    let auth = config.auth.clone();
    fit_descriptors(&mut config.limits.connections);
    let model_args = ModelArgs {
        model: None,
        adapters: args.adapters.clone(),
        precision: args.precision,
        threads: ThreadArgs {
            threads: threads(&options)?,
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let settings = settings.clone();
    let load = move || load(&located, &model_args, &options, &settings);
    let ended = runtime.block_on(async {
        let server = Server::bind(config).await?;
        tracing::info!(address = %server.address(), "listening");
        anyhow::Ok(server.run(load, stop_signal()?).await)
    })?;
    // A model that is still loading is not waited for.
    runtime.shutdown_background();
    if let Auth::Accounts(hosting) = auth {
        hosting.store.close();
    }
    match ended {
        Ok(()) => Ok(()),
        Err(RunError::Load(Failed(error))) => Err(error),
        Err(error) => Err(error.into()),
    }
}

/// Lets the process hold a descriptor for each connection, or allows fewer connections: a server
/// without descriptors answers nobody, health checks included.
fn fit_descriptors(connections: &mut usize) {
    // Files, sockets that listen, the runtime's own.
    const OTHERS: u64 = 256;
    match rlimit::increase_nofile_limit(*connections as u64 + OTHERS) {
        Ok(descriptors) if descriptors < *connections as u64 + OTHERS => {
            let allowed = descriptors
                .saturating_sub(OTHERS)
                .max(descriptors / 2)
                .max(1);
            tracing::warn!(
                descriptors,
                connections = allowed,
                "fewer connections than asked for"
            );
            *connections = usize::try_from(allowed).unwrap_or(usize::MAX);
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of descriptors cannot be read"),
    }
}

fn threads(options: &ServeOptions) -> Result<Option<u16>, UserError> {
    let checked = |threads| {
        let count = u16::try_from(threads)
            .ok()
            .filter(|count| (1..=1024).contains(count));
        count.ok_or_else(|| {
            UserError::new(format!(
                "threads is `{threads}`, expected a number in 1..=1024"
            ))
        })
    };
    options.threads.map(checked).transpose()
}

/// The file of the options: the flag's, else `QUINTET_CONFIG`'s.
pub(crate) fn config_file(flag: Option<PathBuf>, settings: &Settings) -> Option<PathBuf> {
    flag.or_else(|| settings.variable("QUINTET_CONFIG").map(PathBuf::from))
}

/// An `anyhow::Error` as an error of its own, with its causes in one line for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct Failed(anyhow::Error);

/// Loads the model and lets it prove itself.
fn load(
    located: &Located,
    args: &ModelArgs,
    options: &ServeOptions,
    settings: &Settings,
) -> Result<Model, Failed> {
    let loaded = || {
        let embedder = model::load_located(located, args, settings)?;
        if let Some(task) = &options.default_task {
            embedder.task(task)?;
        }
        verify::prove(&embedder, located, options.goldens.as_deref())?;
        let mut names = options.model_id.clone();
        if names.is_empty() {
            names = own_names(&located.name);
        }
        anyhow::Ok(Model::new(embedder, names)?)
    };
    loaded().map_err(Failed)
}

/// The name as people call the model, and the part behind its last slash.
fn own_names(name: &str) -> Vec<String> {
    let short = name.rsplit('/').next().filter(|short| !short.is_empty());
    let mut names = vec![short.unwrap_or(name).to_owned()];
    if names[0] != name {
        names.push(name.to_owned());
    }
    names
}

/// For the model of this name.
fn config(options: &ServeOptions, model: &str) -> anyhow::Result<Config> {
    let listen = address(options.listen.as_deref().unwrap_or("127.0.0.1:8080"))?;
    let key = options.key()?;
    let catalogue = match &options.catalogue {
        Some(folder) => Catalogue::read(folder)?,
        None => Catalogue::built_in(),
    };
    let price = catalogue.runnable(model).and_then(|entry| entry.price);
    let hosting = hosting::open(options, price)?;
    if key.is_none() && hosting.is_none() && !options.no_auth && !listen.is_local() {
        return Err(UserError::new(format!(
            "`{listen}` can be reached from other machines and no key is set"
        ))
        .hint("set QUINTET_API_KEY or --api-key-file, keep accounts with --state, or let anyone call with --no-auth")
        .into());
    }
    let jobs = jobs(options, hosting.as_deref())?;
    let auth = match (hosting, &key) {
        (Some(hosting), _) => Auth::Accounts(hosting),
        (None, Some(key)) if !options.no_auth => Auth::key(key),
        (None, _) => Auth::Open,
    };
    let tls = match (&options.tls_certificate, &options.tls_key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        _ => {
            return Err(UserError::new("TLS needs both a certificate and its key")
                .hint("give --tls-certificate and --tls-key")
                .into());
        }
    };
    let empty_input = match options.empty_input.as_deref() {
        None | Some("error") => EmptyInput::Error,
        Some("zero") => EmptyInput::Zero,
        Some("embed") => EmptyInput::Embed,
        Some(word) => {
            let message = format!("empty_input is `{word}`, expected `error`, `zero` or `embed`");
            return Err(UserError::new(message).into());
        }
    };
    let mut config = Config {
        listen,
        cors: cors(&options.cors_origin, !matches!(auth, Auth::Open)),
        auth,
        tls,
        default_task: options.default_task.clone(),
        empty_input,
        strict_openai: options.strict_openai,
        catalogue,
        serves: Some(model.to_owned()),
        acknowledge_license: options.acknowledge_license.clone(),
        jobs: jobs.map(Arc::new),
        batcher: BatcherLimits {
            tokenizing_threads: std::thread::available_parallelism()
                .map_or(2, |cores| cores.get().max(2)),
            ..BatcherLimits::default()
        },
        ..Config::default()
    };
    let set = |limit: &mut usize, option: Option<usize>| *limit = option.unwrap_or(*limit).max(1);
    let (limits, batcher) = (&mut config.limits, &mut config.batcher);
    set(&mut batcher.batch.token_budget, options.token_budget);
    set(&mut batcher.request_tokens, options.max_request_tokens);
    set(&mut batcher.queue_tokens, options.max_queue_tokens);
    set(&mut limits.inputs, options.max_inputs);
    set(&mut limits.body_bytes, options.max_body_bytes);
    set(&mut limits.bodies_bytes, options.max_bodies_bytes);
    set(&mut limits.connections, options.max_connections);
    if let Some(seconds) = options.shutdown_timeout {
        limits.shutdown_timeout = Duration::from_secs(seconds as u64);
    }
    Ok(config)
}

/// Where files and batches are kept, if anywhere: the folder that the options name, else one beside the
/// accounts' file.
fn jobs(options: &ServeOptions, hosting: Option<&Hosting>) -> anyhow::Result<Option<Jobs>> {
    let limits = JobLimits::default();
    let folder = options.files.clone();
    let Some(hosting) = hosting else {
        let open = |folder: PathBuf| Jobs::without_accounts(&folder, limits);
        return Ok(folder.map(open).transpose()?);
    };
    let store = &hosting.store;
    let beside = || {
        let file = options.state.as_ref().filter(|_| !store.is_shared());
        file.map(|file| PathBuf::from(format!("{file}.files")))
    };
    let open = |folder: PathBuf| Jobs::open(Arc::clone(store), &folder, limits);
    Ok(folder.or_else(beside).map(open).transpose()?)
}

fn address(text: &str) -> anyhow::Result<Listen> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(UserError::new("`unix:` names no file")
                .hint("write the socket's path, such as unix:/run/quintet/quintet.sock")
                .into());
        }
        return Ok(Listen::Unix(path.into()));
    }
    let mut addresses = text.to_socket_addrs().map_err(|error| {
        anyhow::Error::from(error).context(
            UserError::new(format!("`{text}` is no address to listen on"))
                .hint("write address and port, such as 127.0.0.1:8080 or [::]:8080, or unix:/path"),
        )
    })?;
    match addresses.next() {
        Some(address) => Ok(Listen::Tcp(address)),
        None => Err(UserError::new(format!("`{text}` has no address")).into()),
    }
}

fn cors(origins: &[String], has_key: bool) -> Cors {
    if origins.iter().any(|origin| origin == "*") || (origins.is_empty() && has_key) {
        Cors::Any
    } else if origins.is_empty() {
        Cors::Off
    } else {
        Cors::Origins(origins.to_vec())
    }
}

/// Ready on SIGTERM and on Ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?
    };
    Ok(async move {
        // Without a handler the default one ends the process, which is a stop too.
        let interrupt = async { drop(tokio::signal::ctrl_c().await) };
        #[cfg(unix)]
        tokio::select! {
            () = interrupt => (),
            _ = terminate.recv() => (),
        }
        #[cfg(not(unix))]
        interrupt.await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_id_is_known_by_its_last_part_too() {
        let names = own_names("jinaai/jina-embeddings-v3");
        assert_eq!(names, ["jina-embeddings-v3", "jinaai/jina-embeddings-v3"]);
        assert_eq!(own_names("mini"), ["mini"]);
    }

    #[test]
    fn an_open_door_to_other_machines_must_be_asked_for() {
        let options = |no_auth, api_key: Option<&str>| ServeOptions {
            listen: Some("0.0.0.0:0".to_owned()),
            no_auth,
            api_key: api_key.map(str::to_owned),
            ..ServeOptions::default()
        };
        assert!(config(&options(false, None), "mini").is_err());
        assert!(matches!(
            config(&options(true, None), "mini").unwrap().auth,
            Auth::Open
        ));
        let local = ServeOptions {
            listen: Some("unix:/run/quintet.sock".to_owned()),
            ..ServeOptions::default()
        };
        let listen = config(&local, "mini").unwrap().listen;
        assert_eq!(listen, Listen::Unix("/run/quintet.sock".into()));
        let keyed = config(&options(false, Some("sesame")), "mini").unwrap();
        assert!(matches!(keyed.auth, Auth::Key(_)));
        assert_eq!(keyed.cors, Cors::Any);
    }
}
