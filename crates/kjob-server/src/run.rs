//! From a config to a running server, and to its end.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kjob_core::StoreError;
use kjob_core::engine::{ClusterConfig, Engine, Registry, SystemClock};
use kjob_store::embedded::{EmbeddedStore, OpenError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::audit::{AuditLog, Event};
use crate::builtin::{self, BuiltinError};
use crate::config::Config;
#[cfg(unix)]
use crate::control;
use crate::database::DatabaseError;
use crate::demo::{self, DemoError};
use crate::files;
use crate::gateway::{Gateway, GatewayError, Route};
use crate::metrics::Metrics;
use crate::notify;
use crate::opened::{self, Opening};
use crate::passthrough;
use crate::program::Program;
use crate::reload::Reloads;
use crate::server;
use crate::signals::{Hangups, Signal, Signals};
use crate::tls::{Tls, TlsError};
use crate::traces::{Traces, TracesError};
use crate::users::{self, FileError};
use crate::{Access, Accounts, OwnerKeyError, SecretError, Server, SystemInfo};

/// How often it is looked whether the certificate ends soon.
const CERTIFICATE_LOOKED_AT_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the last lines of the audit log may take to be written.
const AUDIT_CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// Why a server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The address cannot be listened on.
    #[error("listen: {listen}: {}", bind_hint(source))]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// The secret that callbacks are signed with cannot be used.
    #[error(transparent)]
    CallbackSecret(#[from] SecretError),
    /// The data directory cannot be used.
    #[error("data_dir: {0}")]
    Open(#[from] OpenError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The store that the program brings cannot be opened.
    #[error("data_dir {}: {source}", dir.display())]
    OwnStore {
        /// The data directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The users file cannot be used.
    #[error("users_file: {0}")]
    Users(#[from] FileError),
    /// The accounts of the upstream cannot be asked.
    #[error("upstream_accounts: {0}")]
    OwnerKey(#[from] OwnerKeyError),
    /// The audit log cannot be written.
    #[error("audit_log: {path} cannot be opened: {source}", path = path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system endpoints cannot be served.
    #[error(transparent)]
    Builtin(#[from] BuiltinError),
    /// The demo endpoints cannot be served.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// A route of the config cannot be served.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// Traces cannot be sent.
    #[error("otlp_endpoint: {0}")]
    Traces(#[from] TracesError),
    /// The store failed when its jobs were taken up, or when it was closed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gives no signals, threads or the like.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// Jobs and requests were given their time.
    Drained,
    /// A second signal came, and nothing more was waited for. What ran is found as interrupted
    /// when the store is next opened.
    AtOnce(Signal),
}

/// Runs a server with what the program adds until a signal ends it. Prints one line to the standard
/// output when it is ready.
///
/// The order of a start: the address is taken first, so that a server that cannot listen starts
/// no job; clients that connect from then on wait until the store is open.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: &Config, program: Program) -> Result<Ended, RunError> {
    let mut signals = Signals::new().map_err(system("wait for signals"))?;
    // From the start on, so that a hangup that comes early ends nothing.
    let hangups = Hangups::new().map_err(system("wait for signals"))?;
    let settings = &config.settings;
    let listen = settings.listen;
    let bind = |source| RunError::Bind { listen, source };
    let listener = server::listen(listen).map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;

    let mut reloads = Reloads::default();
    let mut access = access(config, &mut reloads)?;
    let audit = access.audit.clone();
    let tls = config.tls.clone().map(Tls::load).transpose()?;
    let callbacks = config.callbacks()?;
    let url = format!(
        "{}://{address}",
        if tls.is_some() { "https" } else { "http" }
    );
    let system = system_info(config, address, &url, tls.as_ref());
    let gateway = Gateway::new(config.gateway());
    let own_registry = program.registry;
    let routed = registry(
        config,
        &config.routes,
        own_registry.clone(),
        &system,
        &gateway,
    )?;
    let mut options = config.server();
    let mut engine = config.engine();
    engine.handlers = program.handlers;
    let metrics = Metrics::new().public(settings.metrics_public);
    let traces = match &settings.otlp_endpoint {
        Some(collector) => Some(Traces::start(collector, metrics.clone())?),
        None => None,
    };
    let (traces, sending) = traces.unzip();
    engine.observer = Some(match &traces {
        Some(traces) => traces.observer(metrics.observer()),
        None => metrics.observer(),
    });
    if let Some(adjust) = program.engine {
        adjust(&mut engine);
    }
    let opened = opened::open(config, program.store, &metrics).await?;
    // Once the data directory is ours.
    access.upstream = passthrough::accounts(settings, opened.shared()).await?;
    let segments = opened.segments();
    options.max_connections = files::connections_that_fit(options.max_connections, segments);
    let clock = Arc::new(SystemClock);
    let seed = rand::random();
    let node = || {
        let told = settings.public_url.as_told();
        let mut node = ClusterConfig::new(told.unwrap_or_else(|| url.clone()));
        node.lease_time = settings.lease_time;
        node
    };
    let engine = match opened.store {
        Opening::Own(store) => Engine::open(store, routed, engine, clock, seed).await?,
        Opening::Shared(store) => {
            Engine::open_shared(store, routed, engine, node(), clock, seed).await?
        }
        Opening::Sharded(store) => {
            Engine::open_sharded(store, routed, engine, node(), clock, seed).await?
        }
    };
    if let Some(file) = config.file.clone() {
        let (config, engine, system) = (config.clone(), engine.clone(), system.clone());
        let rerouted = gateway.clone();
        reloads.add("routes", move || {
            let routes = Config::routes_of(&file)?;
            let own = own_registry.clone();
            let routed = registry(&config, &routes, own, &system, &rerouted)?;
            engine.replace_routes(routed)?;
            Ok(())
        });
    }
    let server = Server::from_listener(listener, engine.clone(), system.clone(), options);
    let mut server = server
        .map_err(bind)?
        .with_access(access)
        .with_metrics(metrics)
        .with_gateway(&gateway);
    if let Some(threads) = program.connections {
        server = server.with_threads(threads);
    }
    if settings.console {
        server = server.with_console();
    }
    if let Some(callbacks) = callbacks {
        server = server.with_callbacks(callbacks);
    }
    if let Some(traces) = traces {
        server = server.with_traces(traces);
    }
    if let Some(upstream) = settings.upstream.clone() {
        server = server.with_upstream(upstream)?;
    }
    if let Some(tls) = &tls {
        server = server.with_tls(tls.clone());
        let tls = tls.clone();
        reloads.add("the TLS certificate", move || {
            tls.reload()?;
            tls.log_certificate();
            Ok(())
        });
    }
    let handle = server.handle();
    let serving = tokio::spawn(server.serve());
    let _reloading = AbortOnDropHandle::new(tokio::spawn(reloads.on_hangups(hangups)));
    let _telling = opened.embedded.as_ref().map(|store| {
        let told = tell_of_room(store.watch_full());
        AbortOnDropHandle::new(tokio::spawn(told))
    });
    let control = opened
        .embedded
        .and_then(|store| serve_control(config, store, audit.clone()));
    // The line that it is ready comes first, also where both go to the standard output.
    announce(&url);
    notify::tell(notify::READY);
    AuditLog::note(audit.as_ref(), Event::START).await;

    let first = tokio::select! {
        // Each watch has its first look, however soon a signal comes.
        biased;
        never = watch_store(&engine, &system) => match never {},
        never = watch_certificate(tls.as_ref()) => match never {},
        first = signals.next() => first,
    };
    let running = engine.stats().running;
    tracing::info!(signal = %first, running, "draining");
    notify::tell(&notify::stopping(running));
    let ending = async {
        // Clients that connect are told first, then submits are refused.
        system.drain();
        engine.stop_running(settings.drain_timeout).await;
        // Its socket goes while the directory is still ours; until now orders were taken.
        if let Some(control) = control {
            control.abort();
            // It ends by being aborted, and in no other way.
            let _ = control.await;
        }
        let closed = engine.shut_down(Duration::ZERO).await;
        handle.stop();
        // It fails only if the task was aborted, which nobody does, or panicked: it is over then.
        let _ = serving.await;
        if let Some(sending) = sending {
            sending.finish().await;
        }
        closed
    };
    let ended = tokio::select! {
        biased;
        second = signals.next() => {
            tracing::warn!(signal = %second, "ended at once; running jobs are left as interrupted");
            Ok(Ended::AtOnce(second))
        }
        closed = ending => closed.map(|()| Ended::Drained),
    };
    if let Some(audit) = audit {
        AuditLog::note(Some(&audit), Event::Stop).await;
        // The disk may be slow, and at once is at once.
        if tokio::time::timeout(AUDIT_CLOSED_WITHIN, audit.close())
            .await
            .is_err()
        {
            tracing::error!("the audit log is not written to its end");
        }
    }
    let ended = ended?;
    if ended == Ended::Drained {
        tracing::info!("stopped");
    }
    Ok(ended)
}

/// Who is let in, and what of it can be read anew.
fn access(config: &Config, reloads: &mut Reloads) -> Result<Access, RunError> {
    let settings = &config.settings;
    let mut access = Access::default().web(config.web());
    if let Some(path) = &settings.audit_log {
        let opened = match path.as_path() == Path::new("-") {
            true => AuditLog::to_writer(io::stdout()),
            false => AuditLog::open(path),
        };
        let audit = opened.map_err(|source| RunError::Audit {
            path: path.clone(),
            source,
        })?;
        let reopened = audit.clone();
        reloads.add("audit_log", move || Ok(reopened.reopen()?));
        access.audit = Some(audit);
    }
    if let Some(path) = settings.users_file.clone() {
        let accounts = Accounts::from_file(&path)?;
        tracing::info!(users = accounts.users().len(), "there are accounts");
        let (replaced, audit) = (accounts.clone(), access.audit.clone());
        reloads.add("users_file", move || {
            let users = users::read(&path)?;
            let count = users.len();
            replaced.replace(users);
            AuditLog::note_blocking(audit.as_ref(), Event::Users { count });
            Ok(())
        });
        access.accounts = Some(accounts);
        if config.tls.is_none() && !settings.listen.ip().is_loopback() {
            tracing::warn!(
                listen = %settings.listen,
                "passwords and tokens can be read on the way: set tls_cert and tls_key, or let only \
                 a proxy that speaks TLS reach the server"
            );
        }
    } else if !settings.listen.ip().is_loopback() {
        match passthrough::asks(settings) {
            true => tracing::warn!(
                listen = %settings.listen,
                "INSECURE: there are no accounts, and the server listens beyond this machine; \
                 only the upstream says who may come for jobs, and if it takes everybody, so does the server"
            ),
            false => tracing::warn!(
                listen = %settings.listen,
                "INSECURE: there are no accounts, and the server listens beyond this machine; \
                 whoever reaches it may do everything"
            ),
        }
    }
    Ok(access)
}

/// Says once, in the log and to clients that connect, that the store has failed for good. Results
/// that are there can still be fetched, so the process goes on until somebody ends it.
async fn watch_store(engine: &Engine, system: &SystemInfo) -> Infallible {
    let error = engine.store_failed().await;
    tracing::error!(
        %error,
        "the store has failed: no job can be taken or ended until the server is restarted"
    );
    system.fail();
    std::future::pending().await
}

/// Says every day until when the certificate is valid, which is a warning in its last month.
async fn watch_certificate(tls: Option<&Tls>) -> Infallible {
    let Some(tls) = tls else {
        return std::future::pending().await;
    };
    loop {
        tls.log_certificate();
        tokio::time::sleep(CERTIFICATE_LOOKED_AT_EVERY).await;
    }
}

/// Looks whether a server with this config and these endpoints of its own would find all that the config
/// names but certificates and stores.
///
/// # Errors
/// The one with which it would not start.
pub(crate) fn hold_together(config: &Config, own: Registry) -> Result<(), RunError> {
    if let Some(path) = &config.settings.users_file {
        users::read(path)?;
    }
    config.callbacks()?;
    let gateway = Gateway::new(config.gateway());
    let system = SystemInfo::new(None);
    registry(config, &config.routes, own, &system, &gateway)?;
    Ok(())
}

/// The endpoints that a server with this config and these routes has, beside those of the program.
///
/// # Errors
/// Two of them are the same, or a route cannot be set up.
pub(crate) fn registry(
    config: &Config,
    routes: &[Route],
    mut registry: Registry,
    system: &SystemInfo,
    gateway: &Gateway,
) -> Result<Registry, RunError> {
    builtin::add_routes(&mut registry, system)?;
    if config.demo {
        demo::add_routes(&mut registry)?;
    }
    let mut routes = routes.to_vec();
    routes.extend(passthrough::route(&config.settings, &routes));
    gateway.add_routes(&mut registry, &routes)?;
    Ok(registry)
}

/// What clients are told of the server, which is at `url` unless the config says another.
fn system_info(config: &Config, address: SocketAddr, url: &str, tls: Option<&Tls>) -> SystemInfo {
    let told = config.settings.public_url.as_told();
    if told.is_none() && address.ip().is_unspecified() {
        tracing::warn!(
            listen = %address,
            "clients cannot be told where to reach the server; set public_url"
        );
        return SystemInfo::new(None);
    }
    let url = told.as_deref().unwrap_or(url);
    if let Some(tls) = tls {
        warn_of_other_names(url, tls);
    }
    SystemInfo::new(Some(url))
}

/// Official clients go on to the URL that they are told (docs/protocol.md section 8), and stay there
/// only if the certificate is for it.
fn warn_of_other_names(url: &str, tls: &Tls) {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if uri.scheme_str() != Some("https") {
        tracing::warn!(%url, "clients are told a URL without TLS, and the server speaks only TLS; set public_url");
    } else if !tls.certificate().is_for(host) {
        tracing::warn!(%url, "clients are told a URL that the TLS certificate is not for; set public_url");
    }
}

/// Logs when the disk gets full, and when there is room again.
async fn tell_of_room(mut full: watch::Receiver<bool>) {
    let mut was_full = false;
    loop {
        let is_full = *full.borrow_and_update();
        if is_full && !was_full {
            tracing::warn!(
                "the disk of the data directory is full: submits are refused until there is room; \
                 jobs that were taken go on in what is left"
            );
        } else if was_full && !is_full {
            tracing::info!("there is room on the disk again; submits are taken");
        }
        was_full = is_full;
        // The store is gone.
        if full.changed().await.is_err() {
            return;
        }
    }
}

/// Takes commands about the store. A server that cannot do that serves all the same.
#[cfg(unix)]
fn serve_control(
    config: &Config,
    store: Arc<EmbeddedStore>,
    audit: Option<AuditLog>,
) -> Option<JoinHandle<()>> {
    match control::ControlSocket::bind(&config.settings.data_dir) {
        Ok(socket) => Some(tokio::spawn(socket.serve(store, audit))),
        Err(error) => {
            tracing::warn!(%error, "commands about the store work only while no server has it open");
            None
        }
    }
}

#[cfg(not(unix))]
fn serve_control(_: &Config, _: Arc<EmbeddedStore>, _: Option<AuditLog>) -> Option<JoinHandle<()>> {
    None
}

/// Says on the standard output that the server is ready, for people and for programs that wait.
fn announce(url: &str) {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "kjob-server listening on {url}").and_then(|()| out.flush());
    if let Err(error) = said {
        tracing::warn!(%error, "the standard output is closed");
    }
    tracing::info!(%url, "listening");
}

pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}

pub(crate) fn bind_hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "in use by another program; stop that one, or choose another port".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 are often reserved".to_owned()
        }
        _ => error.to_string(),
    }
}
