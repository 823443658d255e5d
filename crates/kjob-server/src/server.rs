//! The listener: accepts connections, bounds them and ends them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::latch::Latch;
use kjob_core::engine::Engine;
use kjob_proto::Limits;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::Callbacks;
use crate::SystemInfo;
use crate::access::Access;
use crate::connection::Connector;
use crate::gateway::{Gateway, GatewayError, Upstream};
use crate::metrics::Metrics;
use crate::passthrough::Passthrough;
use crate::places::{Place, Places};
use crate::service::Service;
use crate::threads::{ConnectionThreads, Seats, Taken};
use crate::tls::Tls;
use crate::traces::Traces;

/// The first wait after an accept that failed for want of something, doubled each time.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(5);

/// The longest such wait.
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How often it is logged that all connections are in use: clients could fill the log otherwise.
const FULL_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// Connections that wait to be accepted; the system may bound them further (Linux: `somaxconn`, 4096
/// unless it was set). Beyond that a client is not answered and tries again after a second: with the
/// usual 1024 a flood of connections makes honest clients wait for as long.
const BACKLOG: u32 = 4096;

/// Bytes that the system takes ahead of what a client can be sent, of each connection. Without a bound it
/// takes megabytes for one that reads nothing, which nobody counts, and all others wait while it copies them.
#[cfg(target_os = "linux")]
const UNSENT_MAX: u32 = 128 << 10;

/// How many connections are accepted before others have their turns.
const ACCEPTED_AT_ONCE: u32 = 8;

/// What a server may be made to take, and for how long.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// What decoding a request may take. `max_body` bounds request bodies as they come.
    pub limits: Limits,
    /// Bytes of a request's head, that is its line and its headers. Default 64 KiB. Less than 8 KiB
    /// counts as 8 KiB. A longer one is answered 431.
    pub max_header_bytes: usize,
    /// Connections at a time. Default 10,000. When all are taken and one more comes, some that ask for
    /// nothing end, or else some whose bodies come or whose answers go slowly: those of an address
    /// that has more than half of all first, then those that have rested longest. Where all are at work
    /// the new one waits: a short burst is waited out, where an answer of 503 would make clients leave.
    /// Each is an open file: the process's limit of those is the caller's affair.
    pub max_connections: usize,
    /// Connections of one address at a time. Default: as many as of all, since behind a proxy all come
    /// from one. When one more comes, some of the same address that rest end, and where all are at
    /// work it is closed. For a moment an address may have up to eight more, while those that end are there
    /// still; one that stays as a request of it came at that moment ends once it rests.
    pub max_connections_per_address: usize,
    /// Requests in progress beyond the first of each connection, over all connections, until their
    /// answers are sent. Only HTTP/2 has such. Default 10,000. More are answered 429; of those at most
    /// as many again, and beyond that streams are reset, since to wait for a client that takes no
    /// answer costs memory too.
    pub max_streams: usize,
    /// Bytes of memory that the bodies of all requests and answers in progress may take together, with
    /// what is unpacked from them; those of up to 16 KiB do not count. Default 1 GiB. A request that
    /// would need more, or whose answer would, is answered 429, and a body that alone is larger 413.
    pub max_body_memory: usize,
    /// Time for a request's head, from its first byte, and from the start of a connection to its first
    /// request, with the handshake of TLS. Default 15 s. After it the connection is closed.
    pub header_timeout: Duration,
    /// Time for a whole body. Default 120 s. After it the request is answered 408.
    pub body_timeout: Duration,
    /// Time without any byte of a body that has begun. Default 20 s. After it the request is
    /// answered 408.
    pub body_idle_timeout: Duration,
    /// Time in which a client takes no byte of an answer that is there. Default 60 s. After it the
    /// connection is closed. Over HTTP/2 that is so of each answer, whatever else goes on; what is taken of one
    /// is noted by frames of up to 16 KiB.
    pub write_timeout: Duration,
    /// Time between two requests of a connection. Default 180 s. After it the connection is closed.
    pub keep_alive_timeout: Duration,
    /// The longest time that `wait_ms` of `/get/job`, and `wait` of ordinary HTTP, may wait; longer ones
    /// count as this. Default 300 s.
    pub max_wait: Duration,
    /// Time that requests in progress have when the server stops. Default 5 s. After it their
    /// connections are cut.
    pub stop_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_header_bytes: 64 << 10,
            max_connections: 10_000,
            max_connections_per_address: usize::MAX,
            max_streams: 10_000,
            max_body_memory: 1 << 30,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(120),
            body_idle_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(60),
            keep_alive_timeout: Duration::from_secs(180),
            max_wait: Duration::from_secs(300),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// A server that listens: the way to an [`Engine`] over HTTP.
///
/// ```
/// use std::net::SocketAddr;
/// use std::sync::Arc;
/// use kjob_core::MemoryStore;
/// use kjob_core::engine::{Engine, EngineConfig, Registry, SystemClock};
/// use kjob_server::{Server, ServerOptions, SystemInfo};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(MemoryStore::new());
/// let clock = Arc::new(SystemClock);
/// let engine = Engine::open(store, Registry::default(), EngineConfig::default(), clock, 7).await?;
///
/// let addr = SocketAddr::from(([127, 0, 0, 1], 0));
/// let server = Server::bind(addr, engine, SystemInfo::new(None), ServerOptions::default()).await?;
/// assert_ne!(server.local_addr().port(), 0);
/// let handle = server.handle();
/// let serving = tokio::spawn(server.serve());
/// handle.stop();
/// serving.await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    places: Places,
    stop_timeout: Duration,
    connector: Connector,
    threads: Option<ConnectionThreads>,
    handle: ServerHandle,
    cutting: Latch,
}

/// Stops a [`Server`]. Clones stop the same server.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    service: Arc<Service>,
    stopping: Latch,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {source}")]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl Server {
    /// Listens on `addr`; port 0 takes a free one. Connections are accepted once it is
    /// [served](Server::serve), and wait until then.
    ///
    /// # Errors
    /// The address cannot be listened on: it is taken, is none of this machine's, or is not allowed.
    pub async fn bind(
        addr: SocketAddr,
        engine: Engine,
        system: SystemInfo,
        options: ServerOptions,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { addr, source };
        let listener = listen(addr).map_err(failed)?;
        Self::from_listener(listener, engine, system, options).map_err(failed)
    }

    /// Serves on a listener that is there already.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn from_listener(
        listener: TcpListener,
        engine: Engine,
        system: SystemInfo,
        options: ServerOptions,
    ) -> io::Result<Self> {
        let local_addr = listener.local_addr()?;
        let service = Arc::new(Service::new(engine, system, &options));
        let stopping = Latch::default();
        let cutting = Latch::default();
        let connector =
            Connector::new(service.clone(), &options, stopping.clone(), cutting.clone());
        Ok(Self {
            listener,
            local_addr,
            places: Places::new(options.max_connections, options.max_connections_per_address),
            stop_timeout: options.stop_timeout,
            connector,
            threads: None,
            handle: ServerHandle { service, stopping },
            cutting,
        })
    }

    /// Speaks TLS, and nothing else. Where clients are told that is up to [`SystemInfo`].
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.connector.use_tls(tls);
        self
    }

    /// Serves connections on these threads, instead of on those of the runtime that it is [served](Self::serve) on.
    #[must_use]
    pub fn with_threads(mut self, threads: ConnectionThreads) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Lets in whom `access` says, instead of everybody. To be called once, before it serves.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        self.handle.service.set_access(access);
        self
    }

    /// Takes submits with a `callback_url`, and tells those URLs when the jobs have ended, while it
    /// serves. To be called once.
    #[must_use]
    pub fn with_callbacks(self, callbacks: Callbacks) -> Self {
        self.handle.service.set_callbacks(callbacks);
        self
    }

    /// Keeps those headers of submits that routes of `gateway` forward, and takes what its upstreams report of
    /// their progress. To be called once, before it serves.
    #[must_use]
    pub fn with_gateway(self, gateway: &Gateway) -> Self {
        self.handle.service.set_gateway(gateway.clone());
        self
    }

    /// Sends what the server does not answer itself straight through to `upstream`, which has no path. To be
    /// called once, before it serves. Its accounts keep nobody from the jobs here unless
    /// [`Access::upstream_accounts`] asks it.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn with_upstream(self, upstream: Upstream) -> Result<Self, GatewayError> {
        let passthrough = Passthrough::new(upstream)?;
        self.handle.service.set_passthrough(passthrough);
        Ok(self)
    }

    /// Counts what it does, and shows it at `/metrics`. To be called once, before it serves. The engine
    /// and the store are to be told of these metrics as well, when they are opened.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        metrics.set_max_connections(self.places.max());
        self.handle.service.set_metrics(metrics);
        self
    }

    /// Serves the console, a page for browsers, at `/` and `/console/`. To be called once, before it serves.
    /// What it shows as it happens, and of the last hours, it has of the [metrics](Self::with_metrics).
    #[must_use]
    pub fn with_console(self) -> Self {
        self.handle.service.set_console();
        self
    }

    /// Sends spans of requests there. To be called once, before it serves.
    #[must_use]
    pub(crate) fn with_traces(self, traces: Traces) -> Self {
        self.handle.service.set_traces(traces);
        self
    }

    /// The address it listens on, with the port it was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What stops it.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Serves until it is [stopped](ServerHandle::stop) and all connections have ended, or were cut
    /// after [`ServerOptions::stop_timeout`]. Dropping the future closes the listener, and leaves
    /// connections to end by themselves.
    pub async fn serve(self) {
        let places = self.places;
        let tracker = TaskTracker::new();
        let seats = Seats::new(&self.connector, self.threads.as_ref());
        // Until the connections have ended: jobs end while the server drains.
        let service = self.handle.service.clone();
        let callbacks = tokio::spawn(async move { service.make_callbacks().await });
        let _callbacks = AbortOnDropHandle::new(callbacks);
        let service = self.handle.service.clone();
        let history = tokio::spawn(async move { service.keep_history().await });
        let _history = AbortOnDropHandle::new(history);
        tokio::select! {
            biased;
            () = self.handle.stopping.wait() => {}
            () = accept_all(&self.listener, &places, &seats, &tracker, self.handle.service.metrics()) => {}
        }
        drop(self.listener);
        tracker.close();
        if tokio::time::timeout(self.stop_timeout, tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(connections = tracker.len(), "connections are cut");
            self.cutting.set();
            tracker.wait().await;
        }
    }
}

impl ServerHandle {
    /// Closes the listener, and ends each connection when its requests in progress are answered. A
    /// request that comes nevertheless is answered 400 `System shutting down`, which makes clients go
    /// to another cluster (docs/protocol.md section 7).
    pub fn stop(&self) {
        self.service.stop();
        self.stopping.set();
    }
}

/// Listens, on an address that an earlier server may have left a moment ago.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // On Windows this would let two servers take one port.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    // Connections have it from their listener.
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_MAX) {
        tracing::debug!(%error, "TCP_NOTSENT_LOWAT cannot be set");
    }
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Accepts for ever, while there are places.
async fn accept_all(
    listener: &TcpListener,
    places: &Places,
    seats: &Seats,
    tracker: &TaskTracker,
    metrics: Option<&Metrics>,
) {
    let mut backoff = ACCEPT_BACKOFF;
    let mut full_log = FullLog::default();
    for count in (1..=ACCEPTED_AT_ONCE).cycle() {
        if count == ACCEPTED_AT_ONCE {
            tokio::task::yield_now().await;
        }
        match seats.accept(listener).await {
            Ok((stream, peer, seat)) => {
                backoff = ACCEPT_BACKOFF;
                if places.are_taken() {
                    full_log.tell(&"all connections are in use; those that rest end");
                }
                match places.take(peer.ip()).await {
                    Ok(place) => {
                        let metrics = metrics.cloned();
                        seat.serve(tracker, |connector, taken| {
                            serve(connector, stream, peer, (place, taken), metrics)
                        });
                    }
                    Err(refusal) => {
                        full_log.tell(&refusal);
                        metrics.inspect(|metrics| metrics.refused());
                    }
                }
            }
            // These are the client's doing, and the next one may be waiting.
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection ended before it was accepted");
            }
            // Out of files or memory: trying again at once would only burn time.
            Err(error) => {
                tracing::error!(%error, "connections cannot be accepted; will try again");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
}

/// Tells now and then that connections are in the way of others.
#[derive(Debug, Default)]
struct FullLog(Option<Instant>);

impl FullLog {
    fn tell(&mut self, what: &dyn std::fmt::Display) {
        let Self(told) = self;
        if told.is_none_or(|told| told.elapsed() >= FULL_LOGGED_EVERY) {
            tracing::warn!("{what}");
            *told = Some(Instant::now());
        }
    }
}

async fn serve(
    connector: Arc<Connector>,
    stream: TcpStream,
    peer: SocketAddr,
    (place, _taken): (Place, Taken),
    metrics: Option<Metrics>,
) {
    let _open = metrics.as_ref().map(Metrics::accepted);
    // Answers are written whole, so there is nothing to wait for and join.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY cannot be set");
    }
    let activity = place.activity().clone();
    tokio::select! {
        // What has come is looked at first: it may be a request.
        biased;
        () = connector.serve(stream, peer, activity) => {}
        () = place.told_to_leave() => {
            tracing::debug!(%peer, "connection rests, and gives up its place");
            metrics.inspect(Metrics::evicted);
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
