//! A server in this process, on a store in memory, with handlers that a test controls.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;

use kjob_core::engine::{
    ClusterConfig, Engine, EngineConfig, HandlerError, JobContext, Registry, RouteOptions, Schemas,
    SystemClock,
};
use kjob_core::{MemoryStore, Payload, SharedStore, Store, StoreError};
use kjob_server::metrics::Metrics;
use kjob_server::tls::Tls;
use kjob_server::{
    Access, Callbacks, ConnectionThreads, Server, ServerHandle, ServerOptions, SystemInfo,
};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::raw::Raw;

pub(crate) struct TestServer {
    pub(crate) addr: SocketAddr,
    pub(crate) engine: Engine,
    pub(crate) system: SystemInfo,
    pub(crate) handle: ServerHandle,
    pub(crate) serving: JoinHandle<()>,
    /// How many jobs of `/gate` may end.
    pub(crate) gate: Arc<Semaphore>,
    /// One permit for each job of `/gate` that has begun.
    pub(crate) begun: Arc<Semaphore>,
}

/// How many threads serve connections.
pub(crate) const THREADS: usize = 2;

/// The request and the response of `/echo`.
pub(crate) const ECHO_SCHEMA: &str =
    r#"{"type":"record","name":"echo","fields":[{"name":"message","type":"string"}]}"#;

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(ServerOptions::default(), EngineConfig::default(), None).await
    }

    pub(crate) async fn with_options(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let mut options = ServerOptions::default();
        change(&mut options);
        Self::with(options, EngineConfig::default(), None).await
    }

    pub(crate) async fn with_tls(tls: Tls, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let mut options = ServerOptions::default();
        change(&mut options);
        Self::with(options, EngineConfig::default(), Some(tls)).await
    }

    pub(crate) async fn with_engine(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let mut config = EngineConfig::default();
        change(&mut config);
        Self::with(ServerOptions::default(), config, None).await
    }

    pub(crate) async fn with_access(access: Access) -> Self {
        Self::on(Arc::new(MemoryStore::new()), access).await
    }

    /// One that also counts, without which there is no stream of changes.
    pub(crate) async fn with_metrics(access: Access) -> Self {
        let (options, config) = (ServerOptions::default(), EngineConfig::default());
        let change = |server: Server| server.with_access(access).with_metrics(Metrics::new());
        Self::open(Arc::new(MemoryStore::new()), options, config, change).await
    }

    pub(crate) async fn with_tls_and_access(tls: Tls, access: Access) -> Self {
        let (options, config) = (ServerOptions::default(), EngineConfig::default());
        let change = |server: Server| server.with_tls(tls).with_access(access);
        Self::open(Arc::new(MemoryStore::new()), options, config, change).await
    }

    /// One with its jobs in a directory.
    pub(crate) async fn on_disk(dir: &Path, access: Access) -> Self {
        let store = EmbeddedStore::open(dir, EmbeddedOptions::default()).unwrap();
        Self::on(Arc::new(store), access).await
    }

    async fn on(store: Arc<dyn Store>, access: Access) -> Self {
        let (options, config) = (ServerOptions::default(), EngineConfig::default());
        Self::open(store, options, config, |server| server.with_access(access)).await
    }

    /// One that makes callbacks, with its jobs in a directory.
    pub(crate) async fn with_callbacks(dir: &Path, callbacks: Callbacks) -> Self {
        let store = EmbeddedStore::open(dir, EmbeddedOptions::default()).unwrap();
        let (options, config) = (ServerOptions::default(), EngineConfig::default());
        let change = |server: Server| server.with_callbacks(callbacks);
        Self::open(Arc::new(store), options, config, change).await
    }

    async fn with(options: ServerOptions, config: EngineConfig, tls: Option<Tls>) -> Self {
        let store = Arc::new(MemoryStore::new());
        Self::open(store, options, config, |server| match tls {
            Some(tls) => server.with_tls(tls),
            None => server,
        })
        .await
    }

    /// A node, with its jobs in a database.
    pub(crate) async fn in_a_database(store: Arc<dyn SharedStore>, access: Access) -> Self {
        let open = async |registry: Registry, config: EngineConfig, clock: Arc<SystemClock>| {
            let cluster = ClusterConfig::new("http://127.0.0.1:9191");
            Engine::open_shared(store, registry, config, cluster, clock, 7).await
        };
        let change = |server: Server| server.with_access(access);
        Self::over(
            open,
            ServerOptions::default(),
            EngineConfig::default(),
            change,
        )
        .await
    }

    async fn open(
        store: Arc<dyn Store>,
        options: ServerOptions,
        config: EngineConfig,
        change: impl FnOnce(Server) -> Server,
    ) -> Self {
        let open = async |registry: Registry, config: EngineConfig, clock: Arc<SystemClock>| {
            Engine::open(store, registry, config, clock, 7).await
        };
        Self::over(open, options, config, change).await
    }

    async fn over(
        open: impl AsyncFnOnce(Registry, EngineConfig, Arc<SystemClock>) -> Result<Engine, StoreError>,
        options: ServerOptions,
        config: EngineConfig,
        change: impl FnOnce(Server) -> Server,
    ) -> Self {
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let registry = registry(gate.clone(), begun.clone());
        let clock = Arc::new(SystemClock);
        let engine = open(registry, config, clock).await.unwrap();
        let system = SystemInfo::new(None);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(any, engine.clone(), system.clone(), options)
            .await
            .unwrap();
        let threads = ConnectionThreads::start(NonZero::new(THREADS).unwrap()).unwrap();
        let server = change(server).with_threads(threads);
        Self {
            addr: server.local_addr(),
            engine,
            system,
            handle: server.handle(),
            serving: tokio::spawn(server.serve()),
            gate,
            begun,
        }
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.addr).await
    }

    /// Waits until each thread has looked at all that was sent before.
    pub(crate) async fn settled(&self) {
        let mut all = Vec::new();
        // They go where the fewest are, and so to all where there are not many more already.
        for _ in 0..2 * THREADS {
            let mut raw = self.connect().await;
            raw.assert_usable().await;
            all.push(raw);
        }
    }

    /// Waits until one more job of `/gate` has begun.
    pub(crate) async fn wait_begun(&self) {
        self.begun.acquire().await.unwrap().forget();
    }
}

/// `/echo` gives back its record in any encoding; `/raw` anything at all, `/page` as a page, and `/packed` as one that is packed; `/fail` fails with its
/// payload as the message; `/gate` gives back its payload when the gate lets it, and stops when told;
/// `/steps` has four gates, with progress behind each; `/where` says which thread it runs on.
fn registry(gate: Arc<Semaphore>, begun: Arc<Semaphore>) -> Registry {
    let mut registry = Registry::default();
    let echo = |_: JobContext, payload: Payload| async move { Ok(payload) };
    let schemas = Schemas::parse(ECHO_SCHEMA, ECHO_SCHEMA).unwrap();
    registry
        .route("/echo", echo, RouteOptions::default().schemas(schemas))
        .unwrap();
    registry
        .route("/raw", echo, RouteOptions::default())
        .unwrap();
    let place = |_: JobContext, _: Payload| async move {
        let thread = format!("{:?}", std::thread::current().id());
        Ok::<_, HandlerError>(Payload::binary(thread))
    };
    registry
        .route("/where", place, RouteOptions::default().cooperative())
        .unwrap();
    let page = |_: JobContext, payload: Payload| async move {
        let mut output = kjob_core::Output::from(payload);
        let said = output
            .info
            .insert("content_type", "text/html; charset=utf-8");
        said.map_err(HandlerError::failed)?;
        Ok::<_, HandlerError>(output)
    };
    registry
        .route("/page", page, RouteOptions::default())
        .unwrap();
    let packed = |_: JobContext, payload: Payload| async move {
        let mut output = kjob_core::Output::from(payload);
        let told = [("content_type", "text/html"), ("content_encoding", "gzip")];
        for (name, value) in told {
            let said = output.info.insert(name, value);
            said.map_err(HandlerError::failed)?;
        }
        Ok::<_, HandlerError>(output)
    };
    registry
        .route("/packed", packed, RouteOptions::default())
        .unwrap();
    let fail = |_: JobContext, payload: Payload| async move {
        let message = String::from_utf8_lossy(&payload.data).into_owned();
        Err::<kjob_core::Payload, _>(HandlerError::failed(message))
    };
    registry
        .route("/fail", fail, RouteOptions::default())
        .unwrap();
    let (step, stepped) = (gate.clone(), begun.clone());
    let steps = move |context: JobContext, payload: Payload| {
        let (step, begun) = (step.clone(), stepped.clone());
        async move {
            begun.add_permits(1);
            for n in 1..=4 {
                tokio::select! {
                    permit = step.acquire() => permit.unwrap().forget(),
                    () = context.cancelled() => return Err(HandlerError::Stopped),
                }
                context.progress(n * 20);
            }
            Ok(payload)
        }
    };
    registry
        .route("/steps", steps, RouteOptions::default())
        .unwrap();
    let wait = move |context: JobContext, payload: Payload| {
        let (gate, begun) = (gate.clone(), begun.clone());
        async move {
            begun.add_permits(1);
            tokio::select! {
                permit = gate.acquire() => permit.unwrap().forget(),
                () = context.cancelled() => return Err(HandlerError::Stopped),
            }
            Ok(payload)
        }
    };
    registry
        .route("/gate", wait, RouteOptions::default())
        .unwrap();
    registry
}
