//! A TCP proxy that drops, delays, swallows and cuts, in both directions and at any byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Bytes after which a connection may meet trouble: some requests, which are of some hundred bytes.
const TROUBLE_AFTER_MAX: usize = 4_000;

const DELAY_MS_MAX: u64 = 30;

/// What the proxy did.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicUsize,
    /// Closed before a byte went through.
    pub(crate) dropped: AtomicUsize,
    pub(crate) cut_to_server: AtomicUsize,
    pub(crate) cut_to_client: AtomicUsize,
    pub(crate) swallowed_to_server: AtomicUsize,
    pub(crate) swallowed_to_client: AtomicUsize,
    pub(crate) delayed: AtomicUsize,
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Each piece is late by so much.
    delay_ms: u64,
    /// What comes after this many bytes does not go through.
    after: usize,
    /// It is read, and goes nowhere; else the connection ends.
    is_swallowed: bool,
}

/// The proxy. It can die, so that nobody listens at its address, and come back there.
pub(crate) struct Storm {
    pub(crate) address: String,
    pub(crate) counts: Arc<Counts>,
    server: String,
    seed: u64,
    is_calm: bool,
    life: CancellationToken,
}

impl Storm {
    /// One that draws troubles by `seed`. Which connection meets which is up to the machine.
    pub(crate) async fn start(server: &str, seed: u64) -> Self {
        Self::begin(server, seed, false).await
    }

    /// One that passes everything, and only dies when it is told to.
    pub(crate) async fn calm(server: &str) -> Self {
        Self::begin(server, 0, true).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts all connections; from now on nobody listens.
    pub(crate) fn die(&self) {
        self.life.cancel();
    }

    /// Listens again.
    pub(crate) async fn revive(&mut self) {
        // The port stays taken until the task of the last life has dropped its listener.
        let listener = loop {
            match TcpListener::bind(&self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.life = CancellationToken::new();
        self.serve(listener);
    }

    async fn begin(server: &str, seed: u64, is_calm: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let storm = Self {
            address: listener.local_addr().unwrap().to_string(),
            counts: Arc::default(),
            server: server.to_owned(),
            seed,
            is_calm,
            life: CancellationToken::new(),
        };
        storm.serve(listener);
        storm
    }

    fn serve(&self, listener: TcpListener) {
        let (counts, server, life) = (self.counts.clone(), self.server.clone(), self.life.clone());
        let (mut random, is_calm) = (StdRng::seed_from_u64(self.seed), self.is_calm);
        tokio::spawn(life.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let is_dropped = !is_calm && random.random_bool(0.1);
                let troubles = match is_calm {
                    true => [Trouble::NONE; 2],
                    false => [Trouble::draw(&mut random), Trouble::draw(&mut random)],
                };
                if is_dropped {
                    counts.dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let relay = relay(client, server.clone(), troubles, counts.clone());
                tokio::spawn(life.clone().run_until_cancelled_owned(relay));
            }
        }));
    }
}

impl Trouble {
    const NONE: Self = Self {
        delay_ms: 0,
        after: usize::MAX,
        is_swallowed: false,
    };

    fn draw(random: &mut StdRng) -> Self {
        let is_late = random.random_bool(0.2);
        Self {
            delay_ms: u64::from(is_late) * random.random_range(1..=DELAY_MS_MAX),
            after: random.random_range(0..TROUBLE_AFTER_MAX),
            is_swallowed: random.random_bool(0.1),
        }
    }
}

async fn relay(client: TcpStream, server: String, troubles: [Trouble; 2], counts: Arc<Counts>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let [up, down] = troubles;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let c = &*counts;
    // When one direction has ended, both sockets are dropped, and so the other is cut too.
    tokio::select! {
        () = pass(client_read, server_write, up, &c.cut_to_server, &c.swallowed_to_server, &c.delayed) => {}
        () = pass(server_read, client_write, down, &c.cut_to_client, &c.swallowed_to_client, &c.delayed) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    trouble: Trouble,
    cut: &AtomicUsize,
    swallowed: &AtomicUsize,
    delayed: &AtomicUsize,
) {
    let mut buffer = [0; 4096];
    let (mut passed, mut is_swallowing) = (0, false);
    let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        if trouble.delay_ms > 0 {
            count(delayed);
            tokio::time::sleep(Duration::from_millis(trouble.delay_ms)).await;
        }
        let left = trouble.after.saturating_sub(passed);
        let piece = &buffer[..len.min(left)];
        if len > left && trouble.is_swallowed {
            if !is_swallowing {
                count(swallowed);
            }
            is_swallowing = true;
        } else if len > left {
            let _ = to.write_all(piece).await;
            count(cut);
            return;
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
        passed += len;
    }
}
