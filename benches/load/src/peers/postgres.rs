//! Queues in PostgreSQL: a new cluster with the settings that it comes with, so each commit is synced.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Task, in_all_scenarios, script};
use crate::cases::Case;
use crate::generator::Pace;
use crate::process::{Server, free_address, listening, program};
use crate::sample::Sample;

pub(crate) const PG_BOSS: &str = "pg-boss";
pub(crate) const GRAPHILE_WORKER: &str = "graphile-worker";

/// Where Debian keeps programs that its own do not call by their names, below their versions.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The signal that it takes for an immediate shutdown.
const AT_ONCE: &str = "QUIT";

const QUERIES_TIMEOUT: Duration = Duration::from_secs(30);

/// Lanes, and what looks after them.
const CONNECTIONS: &str = "max_connections=200";

pub(crate) fn pg_boss(installed: &Path) -> Vec<Case> {
    cases(PG_BOSS, installed)
}

pub(crate) fn graphile_worker(installed: &Path) -> Vec<Case> {
    cases(GRAPHILE_WORKER, installed)
}

fn cases(peer: &'static str, installed: &Path) -> Vec<Case> {
    let installed: PathBuf = installed.to_owned();
    in_all_scenarios(peer, "", move |home, task, count, pace| {
        measure(peer, &installed, home, task, count, pace)
    })
}

fn measure(
    peer: &str,
    installed: &Path,
    home: &Path,
    task: Task,
    count: usize,
    pace: Pace,
) -> Result<Sample> {
    let mut command = script::node(installed, peer)?;
    let postgres = start(home)?;
    command.arg(postgres.address.port().to_string());
    script::run(command, task, count, pace)
}

fn start(home: &Path) -> Result<Server> {
    let user = User::of_servers()?;
    let data = home.join("postgres");
    fs::create_dir(&data)?;
    if let Some(User { uid, gid }) = user {
        chown(home, Some(uid), Some(gid))?;
        chown(&data, Some(uid), Some(gid))?;
    }
    let mut init = tool("initdb", user);
    init.args([
        "--auth",
        "trust",
        "--username",
        "postgres",
        "--no-sync",
        "--pgdata",
    ]);
    let init = init
        .arg(&data)
        .stdin(Stdio::null())
        .output()
        .context("initdb")?;
    if !init.status.success() {
        bail!("initdb: {}", String::from_utf8_lossy(&init.stderr).trim());
    }
    let address = free_address()?;
    let mut command = tool("postgres", user);
    command
        .args(["-c", "listen_addresses=127.0.0.1", "-c", CONNECTIONS])
        .args(["-c", "unix_socket_directories=", "-p"])
        .arg(address.port().to_string())
        .arg("-D")
        .arg(&data);
    let server = listening(command, home, address)?.ended_by(AT_ONCE);
    await_queries(&server, user)?;
    Ok(server)
}

/// It takes connections a moment before it takes queries.
fn await_queries(server: &Server, user: Option<User>) -> Result<()> {
    let mut look = tool("pg_isready", user);
    look.args(["--quiet", "--host", "127.0.0.1", "--port"]);
    look.arg(server.address.port().to_string());
    let began = Instant::now();
    while !look.status().context("pg_isready")?.success() {
        if began.elapsed() > QUERIES_TIMEOUT {
            bail!("takes no queries");
        }
    }
    Ok(())
}

/// A program of PostgreSQL's, of the newest version that there is.
fn tool(name: &str, user: Option<User>) -> Command {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name));
    let newest = programs
        .filter(|program| program.is_file())
        .max_by_key(|program| {
            let version = program.ancestors().nth(2).and_then(Path::file_name);
            version.and_then(|version| version.to_str()?.parse::<u32>().ok())
        });
    let mut command = newest.map_or_else(|| program(name), Command::new);
    if let Some(User { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Whom it runs as where we are root, as which it refuses to run.
#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    fn of_servers() -> Result<Option<Self>> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let user = users
            .lines()
            .find_map(|line| line.strip_prefix("postgres:"));
        let mut fields = user
            .context("there is no user postgres")?
            .split(':')
            .skip(1);
        let mut id = || -> Result<u32> { Ok(fields.next().context("/etc/passwd")?.parse()?) };
        Ok(Some(Self {
            uid: id()?,
            gid: id()?,
        }))
    }
}
