//! Sockets: listening at once, loading meanwhile, serving, and stopping without losing an answer.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::app::{App, Service, SharedApp, router};
use crate::auth::Auth;
use crate::batcher::Batcher;
use crate::catalogue::LicenseError;
use crate::config::{Config, Limits, TlsFiles};
use crate::jobs::Runner;
use crate::listen::{Listen, Listener};
use crate::model::Model;
use crate::store::accounts::{self, Change};
use crate::store::{StoreError, Time};
use crate::write_timeout::WriteTimeout;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: Listen,
        /// What the system said.
        source: io::Error,
    },
    /// A PEM file is unreadable or holds nothing of its kind.
    #[error("cannot read the {what} in `{}`", path.display())]
    Pem {
        /// Certificate chain or private key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: pem::Error,
    },
    /// Certificate and key do not fit each other.
    #[error("the certificate in `{}` cannot be used", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// What was wrong.
        source: tokio_rustls::rustls::Error,
    },
    /// The model has a price that its licence forbids.
    #[error("the model may not be charged for")]
    License(#[from] LicenseError),
    /// The operator's acknowledgement of a licence cannot be written down.
    #[error("the acknowledgement of the licence cannot be recorded")]
    Record(#[from] StoreError),
}

/// Why the server stopped other than asked. `E` is the error of whoever loads the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The model could not be loaded.
    #[error("the model could not be loaded")]
    Load(E),
    /// Loading panicked, or a thread could not be had.
    #[error("the model's thread ended early")]
    Thread,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    app: SharedApp,
    listener: Listener,
    tls: Option<TlsAcceptorShown>,
    address: Listen,
}

/// `TlsAcceptor` shows nothing of itself.
#[derive(Clone)]
struct TlsAcceptorShown(TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorShown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

impl Server {
    /// Listens. Requests that come before [`Server::run`] wait in the backlog.
    ///
    /// # Errors
    /// [`BindError`] for an address that cannot be had, a certificate that cannot be used, a price that
    /// the licence of the weights forbids, and one that it forbids but for the operator's word, where that
    /// cannot be recorded.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let tls = config.tls.as_ref().map(tls_acceptor).transpose()?;
        let listen = |source| BindError::Listen {
            address: config.listen.clone(),
            source,
        };
        let listener = Listener::bind(&config.listen).await.map_err(listen)?;
        let address = listener.address().map_err(listen)?;
        let app = App::new(config)?;
        record_acknowledgement(&app).await?;
        Ok(Self {
            app: Arc::new(app),
            listener,
            tls,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// Loads the model on a thread of its own and answers meanwhile, until `stop` is ready. Then
    /// finishes what was accepted, within the operator's limit.
    ///
    /// # Errors
    /// [`RunError`] when the model cannot be loaded.
    pub async fn run<E: Display + Send + 'static>(
        self,
        load: impl FnOnce() -> Result<Model, E> + Send + 'static,
        stop: impl Future<Output = ()>,
    ) -> Result<(), RunError<E>> {
        let loaded = load_beside(load)?;
        let failed = take_into_service(&self.app, loaded);
        let working = tokio::spawn(work_on_batches(Arc::clone(&self.app)));
        let graceful = GracefulShutdown::new();
        tokio::select! {
            never = self.accept(&graceful) => match never {},
            // Nothing was accepted that could be finished: there is no model.
            error = failed => return Err(error),
            () = stop => {}
        }
        // What it has not billed yet, this server or another does again.
        working.abort();
        let left = working.await;
        debug_assert!(left.is_err(), "it never ends by itself");
        leave_batches(&self.app).await;
        let timeout = self.app.config.limits.shutdown_timeout;
        // New connections are refused while the accepted requests are finished.
        drop(self.listener);
        tracing::info!(timeout_s = timeout.as_secs(), "stopping");
        if tokio::time::timeout(timeout, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("requests were still open at the end of the time to stop");
        }
        if let Some(service) = self.app.service_now() {
            // Whoever is still connected had the whole time; the batch that runs is waited for.
            let _ = tokio::task::spawn_blocking(move || service.batcher.stop()).await;
        }
        Ok(())
    }

    async fn accept(&self, graceful: &GracefulShutdown) -> Infallible {
        let routes = router(&self.app);
        let connections = Arc::new(Semaphore::new(self.app.config.limits.connections));
        loop {
            let permit = Arc::clone(&connections).acquire_owned().await;
            let stream = match self.listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: others will close some.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let app = Arc::clone(&self.app);
            let tls = self.tls.clone();
            let routes = routes.clone();
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                let _permit = permit;
                let _open = app.metrics.connection();
                let Some(TlsAcceptorShown(tls)) = tls else {
                    return connection(stream, routes, app.config.limits, watcher).await;
                };
                let limit = app.config.limits.header_timeout;
                match tokio::time::timeout(limit, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, routes, app.config.limits, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            });
        }
    }
}

/// Writes into the audit trail of the accounts that the operator acknowledges a licence.
async fn record_acknowledgement(app: &App) -> Result<(), StoreError> {
    let (Auth::Accounts(hosting), Some((model, license))) = (&app.auth, app.acknowledged_license())
    else {
        return Ok(());
    };
    let (model, license) = (model.to_owned(), license.to_owned());
    let record = hosting.store.write(move |database| {
        let change = Change {
            actor: "serve",
            now: Time::now(),
        };
        accounts::acknowledge_license(database, change, &model, &license)
    });
    record.await
}

/// Serves the requests of one connection.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    routes: Router,
    limits: Limits,
    watcher: Watcher,
) {
    let stream = TokioIo::new(WriteTimeout::new(stream, limits.write_timeout));
    let service = TowerToHyperService::new(routes);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(64 * 1024)
        .serve_connection(stream, service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Runs `load` on a thread; the answer comes through the channel.
fn load_beside<E: Send + 'static>(
    load: impl FnOnce() -> Result<Model, E> + Send + 'static,
) -> Result<oneshot::Receiver<Result<Model, E>>, RunError<E>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            // Nobody listens any more when the server was stopped meanwhile.
            let _ = sender.send(load());
        })
        .map_err(|_| RunError::Thread)?;
    Ok(receiver)
}

/// Works on batches, where there are any, once the model is ready. Never ends.
async fn work_on_batches(app: SharedApp) {
    if let (Some(jobs), Some(service)) = (app.config.jobs.clone(), app.service_in_time().await) {
        Runner::new(&app, service, &jobs).work().await;
    }
    std::future::pending().await
}

/// Lets other servers have the batches that this one worked on.
async fn leave_batches(app: &App) {
    if let Some(jobs) = &app.config.jobs
        && let Err(error) = jobs.leave().await
    {
        // They have them when this server was not heard of for a while.
        tracing::warn!(%error, "batches cannot be let go of");
    }
}

/// Ends only when the model cannot be taken into service.
async fn take_into_service<E: Display>(
    app: &SharedApp,
    loaded: oneshot::Receiver<Result<Model, E>>,
) -> RunError<E> {
    let model = match loaded.await {
        Ok(Ok(model)) => model,
        Ok(Err(error)) => return RunError::Load(error),
        Err(_) => return RunError::Thread,
    };
    let embedder = Arc::clone(&model.embedder);
    let metrics = Arc::clone(&app.metrics);
    let Ok(batcher) = Batcher::start(embedder, app.config.batcher, metrics) else {
        return RunError::Thread;
    };
    tracing::info!(model = model.id(), fingerprint = model.fingerprint, "ready");
    app.ready(Arc::new(Service { model, batcher }));
    std::future::pending().await
}

fn tls_acceptor(files: &TlsFiles) -> Result<TlsAcceptorShown, BindError> {
    let pem = |what, path: &Path| {
        let path = path.to_owned();
        move |source| BindError::Pem { what, path, source }
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let chain = chain.map_err(pem("certificate chain", &files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem("private key", &files.key))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|source| BindError::Certificate {
            path: files.certificate.clone(),
            source,
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptorShown(TlsAcceptor::from(Arc::new(config))))
}
