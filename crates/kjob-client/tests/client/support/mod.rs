//! A real server in this process, and one that goes wrong as it is told.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod storm;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use kjob_core::MemoryStore;
use kjob_core::engine::{Engine, EngineConfig, Registry, SystemClock};
use kjob_server::tls::Tls;
use kjob_server::{Server, ServerOptions, SystemInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server with the demo endpoints, on a free port.
pub(crate) struct Real {
    pub(crate) engine: Engine,
    pub(crate) system: SystemInfo,
    pub(crate) address: String,
}

impl Real {
    pub(crate) async fn start() -> Self {
        Self::with(EngineConfig::default()).await
    }

    pub(crate) async fn with(config: EngineConfig) -> Self {
        Self::with_tls(config, None).await
    }

    pub(crate) async fn with_tls(config: EngineConfig, tls: Option<Tls>) -> Self {
        Self::with_registry(Registry::default(), config, tls).await
    }

    /// With endpoints besides those of the demo.
    pub(crate) async fn with_registry(
        mut registry: Registry,
        config: EngineConfig,
        tls: Option<Tls>,
    ) -> Self {
        kjob_server::demo::add_routes(&mut registry).unwrap();
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(SystemClock);
        let engine = Engine::open(store, registry, config, clock, 7)
            .await
            .unwrap();
        let system = SystemInfo::new(None);
        let address = serve(&engine, &system, tls).await;
        Self {
            engine,
            system,
            address,
        }
    }

    /// A second server over the same engine, and so over the same store.
    pub(crate) async fn twin(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            system: self.system.clone(),
            address: serve(&self.engine, &self.system, None).await,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(engine: &Engine, system: &SystemInfo, tls: Option<Tls>) -> String {
    let mut server = Server::bind(
        "127.0.0.1:0".parse().unwrap(),
        engine.clone(),
        system.clone(),
        ServerOptions::default(),
    )
    .await
    .unwrap();
    if let Some(tls) = tls {
        server = server.with_tls(tls);
    }
    let address = server.local_addr().to_string();
    tokio::spawn(server.serve());
    address
}

/// What happens to one request.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It reaches the server, and its reply the client.
    Forward,
    /// It reaches the server; the connection breaks before the reply.
    LoseReply,
    /// It reaches nobody, and nothing ever comes back.
    Swallow,
    /// It is answered with this, whole.
    Answer(String),
}

/// Stands between a client and a server, and gives each request its fate: those told, in order,
/// then all are forwarded.
pub(crate) struct Between {
    pub(crate) address: String,
    /// The bodies of all requests that came.
    pub(crate) seen: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Their heads.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
}

impl Between {
    pub(crate) async fn start(server: &str, fates: impl IntoIterator<Item = Fate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fates = Arc::new(Mutex::new(fates.into_iter().collect::<VecDeque<_>>()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (server, all, all_heads) = (server.to_owned(), seen.clone(), heads.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, fates) = (server.clone(), fates.clone());
                let (seen, heads) = (all.clone(), all_heads.clone());
                tokio::spawn(async move { relay(client, &server, &fates, &seen, &heads).await });
            }
        });
        Self {
            address,
            seen,
            heads,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn relay(
    mut client: TcpStream,
    server: &str,
    fates: &Mutex<VecDeque<Fate>>,
    seen: &Mutex<Vec<Vec<u8>>>,
    heads: &Mutex<Vec<String>>,
) -> Option<()> {
    loop {
        let (head, body) = message(&mut client).await?;
        let text = String::from_utf8_lossy(&head).into_owned();
        heads.lock().unwrap().push(text);
        seen.lock().unwrap().push(body.clone());
        let fate = fates.lock().unwrap().pop_front().unwrap_or(Fate::Forward);
        let reply = match fate {
            Fate::Forward => forward(server, &head, &body).await?,
            Fate::LoseReply => {
                forward(server, &head, &body).await?;
                return None;
            }
            Fate::Swallow => std::future::pending().await,
            Fate::Answer(text) => text.into_bytes(),
        };
        client.write_all(&reply).await.ok()?;
    }
}

async fn forward(server: &str, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(server).await.ok()?;
    server.write_all(head).await.ok()?;
    server.write_all(body).await.ok()?;
    let (head, body) = message(&mut server).await?;
    Some([head, body].concat())
}

/// Head and body of a message that has a Content-Length.
async fn message(stream: &mut TcpStream) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(head.clone()).ok()?.to_lowercase();
    let length = text.split("content-length:").nth(1)?.lines().next()?;
    let mut body = vec![0; length.trim().parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}
