//! Clients at work while nodes and their database fail, and a check of all that came of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kjob_test_postgres::Stop;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::process::Command;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::database::Database;
use super::faults::{DatabaseFault, LEASE_TIME, NodeFault};
use super::member::{Book, Member};
use super::proxy::Proxy;
use crate::campaign::{look_at_all, write_secret};
use crate::checker::{Findings, Several, check};
use crate::client_processes::{ClientProcesses, Setup};
use crate::history::Micros;
use crate::plan::Endpoints;
use crate::receiver::{self, Receiver};
use crate::server::{JOURNAL_VARIABLE, MARKS_VARIABLE, Servers, StoreOf, free_port};

/// How many nodes.
const NODES: u8 = 3;

/// Over how many databases jobs are spread.
const DATABASES: RangeInclusive<usize> = 1..=2;

/// Processes of clients.
const CLIENT_PROCESSES: u32 = 1;

/// By how much clocks of nodes may differ: longer than a beat takes on a busy machine.
const CLOCKS_DIFFER: Micros = 1_500_000;

/// Between two faults of the database.
const DATABASE_RESTS: Range<u64> = 3_000..12_000;

/// Who plays in a campaign.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The program of the nodes, with handlers that write a journal.
    pub server: PathBuf,
    /// The program of the clients.
    pub clients: PathBuf,
    /// A library that makes processes take the time for another (libfaketime), if there is one.
    pub skew: Option<PathBuf>,
    /// Where to look for free ports.
    pub ports: Range<u16>,
}

/// What came of a campaign.
#[derive(Debug)]
pub struct Outcome {
    /// What the checker found.
    pub findings: Findings,
    /// What happened to nodes, and how often.
    pub node_faults: BTreeMap<NodeFault, u64>,
    /// What happened to the database.
    pub database_faults: BTreeMap<DatabaseFault, u64>,
    /// 1 if jobs were spread over several databases, else 0.
    pub sharded: u64,
    /// Processes of nodes that took the time for another.
    pub skewed: u64,
    /// Processes of nodes that ended before they were ready, as there was no database.
    pub refused: u64,
    /// How often the process of clients was stopped for a while.
    pub pauses: u64,
    /// How long it went on, all told.
    pub took: Duration,
}

/// Runs a campaign in a directory of its own.
///
/// # Errors
/// What keeps it from being run or checked. A node that ends by itself is such an error.
pub async fn run(cast: &Cast, dir: &Path, seed: u64, until: Instant) -> Result<Outcome> {
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let tellings = dir.join("tellings");
    let receiver = Receiver::start(&tellings, rng.random()).await?;
    let mut databases = Vec::new();
    for _ in 0..rng.random_range(DATABASES) {
        databases.push(spawn_blocking(Database::start).await??);
    }
    let book = Arc::new(Mutex::new(Book::default()));
    let mut members = Vec::new();
    for number in 1..=NODES {
        let mut ways = Vec::new();
        for database in &databases {
            let to_one = [Proxy::start().await?, Proxy::start().await?];
            lead(&to_one, database);
            ways.push(Arc::new(to_one));
        }
        let servers = Servers {
            program: cast.server.clone(),
            dir: dir.to_owned(),
            name: format!("node-{number}-"),
            // Clients tell nodes apart by their hosts.
            host: Ipv4Addr::new(127, 0, 0, number),
            port: free_port(|| rng.random_range(cast.ports.clone()))?,
            store: StoreOf::Database(url(&ways), LEASE_TIME),
            receiver: receiver.host(),
            is_journalled: true,
        };
        members.push(Member {
            servers,
            ways,
            rng: StdRng::seed_from_u64(rng.random()),
            skew: cast.skew.clone(),
            book: book.clone(),
        });
    }
    let first = members.first().context("there are nodes")?;
    write_secret(&first.servers.secret())?;
    migrate(&first.servers).await?;
    let urls: Vec<String> = members.iter().map(|it| it.servers.url()).collect();
    let urls = urls.join(",");

    let over = CancellationToken::new();
    let mut troubled = Vec::new();
    for (number, database) in databases.into_iter().enumerate() {
        let ways = members.iter().filter_map(|it| it.ways.get(number).cloned());
        let troubles = troubles(database, ways.collect(), rng.random(), over.clone());
        // An error of ours ends them, too.
        troubled.push(AbortOnDropHandle::new(tokio::spawn(troubles)));
    }
    let mut living = JoinSet::new();
    for mut member in members {
        let over = over.clone();
        living.spawn(async move {
            let life = member.live(&over).await?;
            anyhow::Ok((member, life))
        });
    }
    let setup = Setup {
        program: &cast.clients,
        processes: CLIENT_PROCESSES,
        urls: &urls,
        receiver: &receiver.url(),
        endpoints: Endpoints::Journalled,
    };
    let clients = ClientProcesses::start(&setup, dir, seed)?;
    let pausing = clients.pausing(rng.random())?;
    let mut left = Vec::new();
    tokio::select! {
        () = tokio::time::sleep_until(until.into()) => {}
        // None ends before it is over, but with an error.
        Some(ended) = living.join_next() => left.push(ended??),
    }
    over.cancel();
    let pauses = pausing.end().await?;
    let (mut databases, mut database_faults) = (Vec::new(), BTreeMap::new());
    for troubles in troubled {
        let (database, faults) = troubles.await??;
        databases.push(database);
        for (fault, times) in faults {
            *database_faults.entry(fault).or_default() += times;
        }
    }
    while let Some(ended) = living.join_next().await {
        left.push(ended??);
    }
    let events = clients.end(dir).await?;
    let mut trial = look_at_all(&urls, dir, events, &receiver).await?;
    for (mut member, life) in left {
        member.end(life).await?;
    }
    let sharded = u64::from(databases.len() > 1);
    spawn_blocking(move || drop(databases)).await?;

    let book = std::mem::take(&mut *book.lock().unwrap_or_else(PoisonError::into_inner));
    trial.journals = Some(book.journals.into_values().collect());
    trial.tellings = receiver::read(&tellings)?;
    trial.several = Some(Several {
        clocks_differ: CLOCKS_DIFFER,
        standstills: book.standstills,
    });
    let findings = spawn_blocking(move || check(&trial)).await?;
    Ok(Outcome {
        findings,
        node_faults: book.faults,
        database_faults,
        sharded,
        skewed: book.skewed,
        refused: book.refused,
        pauses,
        took: began.elapsed(),
    })
}

/// The URLs of all databases, each with both of its servers.
fn url(ways: &[Arc<[Proxy; 2]>]) -> String {
    let urls = ways.iter().map(|ways| {
        let [a, b] = [ways[0].port(), ways[1].port()];
        format!(
            "postgresql://postgres@127.0.0.1:{a},127.0.0.1:{b}/postgres?sslmode=disable&connect_timeout=2"
        )
    });
    urls.collect::<Vec<_>>().join(",")
}

fn lead(ways: &[Proxy; 2], database: &Database) {
    for (way, port) in ways.iter().zip(database.ports()) {
        way.lead_to(Some(port));
    }
}

async fn migrate(servers: &Servers) -> Result<()> {
    let StoreOf::Database(url, _) = &servers.store else {
        return Ok(());
    };
    let mut command = Command::new(&servers.program);
    for variable in [JOURNAL_VARIABLE, MARKS_VARIABLE] {
        command.env(variable, servers.dir.join("of-migrate"));
    }
    let said = command.args(["migrate", "--store", url]).output().await?;
    if !said.status.success() {
        bail!("migrate: {}", String::from_utf8_lossy(&said.stderr));
    }
    Ok(())
}

/// Has the database restart, crash and be replaced, until it is over; it is whole then.
async fn troubles(
    mut database: Database,
    ways: Vec<Arc<[Proxy; 2]>>,
    seed: u64,
    over: CancellationToken,
) -> Result<(Database, BTreeMap<DatabaseFault, u64>)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut faults = BTreeMap::new();
    loop {
        let rest = Duration::from_millis(rng.random_range(DATABASE_RESTS));
        let rest = tokio::time::sleep(rest);
        if over.run_until_cancelled(rest).await.is_none() {
            return Ok((database, faults));
        }
        let fault = DatabaseFault::ALL[rng.random_range(0..DatabaseFault::ALL.len())];
        let away = Duration::from_millis(rng.random_range(0..2_000));
        database = spawn_blocking(move || {
            match fault {
                DatabaseFault::Restarted => database.restart(Stop::Fast, away)?,
                DatabaseFault::Crashed => database.restart(Stop::Immediate, away)?,
                DatabaseFault::Replaced => database.replace()?,
            }
            anyhow::Ok(database)
        })
        .await??;
        for ways in &ways {
            lead(ways, &database);
        }
        *faults.entry(fault).or_default() += 1;
    }
}
