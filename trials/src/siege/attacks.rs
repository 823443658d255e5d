//! The attacks, each by itself.

mod bodies;
mod bombs;
mod chunks;
mod connections;
mod frames;
mod framing;
mod headers2;
mod heads;
mod mutated;
mod ordinary;
mod overload;
mod pipelining;
mod slow;
mod spin;
mod streams;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::server::vitals;
use super::tally::{Counts, Tally};

/// How attacks are made.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long each lasts. Those that have a count end when it is reached.
    pub time: Duration,
    /// How many requests, of those attacks that count.
    pub requests: u64,
    /// What choices come from.
    pub seed: u64,
    /// Whether fewer connections are held, and no longer than the time, so that all attacks are made
    /// within a minute.
    pub is_short: bool,
}

/// Where an attack takes place, and for how long.
#[derive(Clone, Debug)]
pub struct Field {
    /// Whom it attacks.
    pub server: SocketAddr,
    /// When it is to end.
    pub until: Instant,
    /// How it is made.
    pub terms: Terms,
    /// What is noted.
    pub tally: Arc<Tally>,
}

type Attacking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An attack.
#[derive(Debug)]
pub struct Attack {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// The flags of the server that it wants, pairs of a name and a value.
    pub server: &'static [&'static str],
    /// Whether attackers and honest clients are to be two users.
    pub accounts: bool,
    start: fn(Field) -> Attacking,
}

/// A table's line.
macro_rules! attacks {
    (@server) => { &[] };
    (@server $server:expr) => { $server };
    (@accounts) => { false };
    (@accounts $accounts:literal) => { $accounts };
    (
        $($name:literal, $run:path, $about:literal
            $(, server $server:expr)? $(, accounts $accounts:literal)?;)+
    ) => {
        /// All attacks, in the order in which they are made.
        pub const ATTACKS: &[Attack] = &[$(Attack {
            name: $name,
            about: $about,
            server: attacks!(@server $($server)?),
            accounts: attacks!(@accounts $($accounts)?),
            start: |field| Box::pin($run(field)),
        }),+];
    };
}

attacks! {
    "spin", spin::spin, "no attack: as much work beside the server, as a measure of the machine";
    "idle", connections::idle, "10,000 connections that ask once and rest";
    "silent", connections::silent, "more connections than there are places, that never say anything";
    "flood", connections::flood, "connections opened and closed as fast as it goes";
    "slow-head", slow::heads, "2,000 heads of which a byte comes now and then";
    "slow-body", slow::bodies, "2,000 bodies of which a byte comes now and then";
    "slow-reader", slow::readers, "500 clients that ask for big answers and do not read them";
    "heads", heads::floods, "heads with many, long, repeated and huge headers";
    "pipelining", pipelining::unread, "10,000 requests on a connection whose answers nobody reads";
    "chunks", chunks::abuse, "one-byte chunks, huge chunk extensions, trailers without end";
    "smuggling", framing::smuggling, "requests whose length can be read in two ways";
    "reset", streams::rapid_reset, "HTTP/2 streams that are reset as soon as they are opened";
    "many-streams", streams::many, "HTTP/2 long polls, as many as a connection may have";
    "zero-window", streams::zero_window, "HTTP/2 answers that may not be sent";
    "frames", frames::floods, "HTTP/2 settings, pings, priorities and empty frames without end";
    "windows", frames::windows, "HTTP/2 windows that grow, shrink, overflow and toggle";
    "continuation", headers2::continuation, "HTTP/2 heads without end";
    "header-list", headers2::lists, "HTTP/2 heads that unfold to more than they are";
    "declared", bodies::declared, "bodies that announce 1 GiB, and ones that hold as much as they may";
    "snappy", bombs::snappy, "snappy blocks that lie about their length or unfold to the limit";
    "records", bombs::records, "maps, arrays, texts and JSON made to cost more than they are";
    "mutated", mutated::requests, "mutated requests to every endpoint in every encoding";
    "ordinary", ordinary::requests, "good and mutated requests of ordinary HTTP, over HTTP/1 and HTTP/2";
    "overload", overload::submits, "more submits of one user than may wait",
        server &["--max-queued", "400", "--max-queued-per-user", "200", "--workers", "8"],
        accounts true;
    "bytes", overload::bytes, "more bytes of one user than may be stored",
        server &["--max-stored-bytes", "64MiB", "--max-stored-bytes-per-user", "8MiB", "--workers", "8"],
        accounts true;
}

impl Attack {
    /// Makes the attack, and tells what came of it.
    pub async fn run(&self, server: SocketAddr, terms: Terms) -> Counts {
        let field = Field {
            server,
            until: Instant::now() + terms.time,
            terms,
            tally: Arc::default(),
        };
        let tally = field.tally.clone();
        (self.start)(field).await;
        let mut counts = tally.counts();
        // They are a process of their own.
        counts.processor = vitals(std::process::id()).map_or(0.0, |own| own.processor);
        counts
    }
}

impl Field {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// How many hold something at once: `count`, or a tenth of that.
    fn holders(&self, count: usize) -> usize {
        if self.terms.is_short {
            count.div_ceil(10)
        } else {
            count
        }
    }

    /// Runs `attacker` so many times at once, and drops what is still going on when time is up.
    async fn at_once<F, T>(&self, count: usize, attacker: F)
    where
        F: Fn(Field, usize) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for number in 0..count {
            tasks.spawn(attacker(self.clone(), number));
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        // Those that look at the time themselves get a moment to see the last answer.
        let _ = timeout_at(self.until + Duration::from_secs(1), all).await;
    }

    /// Runs `attacker` so many times at once, and again for as long as there is time.
    async fn again_and_again<F, T>(&self, count: usize, attacker: F)
    where
        F: Fn(Field, usize) -> T + Clone + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let repeat = move |field: Field, number: usize| {
            let attacker = attacker.clone();
            async move {
                while !field.is_over() {
                    attacker(field.clone(), number).await;
                    // One that fails at once is not to keep the others from their turns.
                    tokio::task::yield_now().await;
                }
            }
        };
        self.at_once(count, repeat).await;
    }
}
