//! PostgreSQL for tests and benches: a cluster in a temporary directory, on a free port of the loopback
//! address, as an unprivileged user. It is gone when whoever started it ends, however that ends.
//!
//! ```no_run
//! use kjob_test_postgres::{Cluster, Settings};
//!
//! let cluster = Cluster::start(&Settings::for_tests())?;
//! println!("{}", cluster.url());
//! # Ok::<(), anyhow::Error>(())
//! ```

mod programs;
mod shared;

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use programs::{User, user_of_servers};
pub use programs::{is_installed, tool};
pub use shared::{URL_VARIABLE, url};

/// How long the server has to take queries.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A user who is asked for a password, which is [`PASSWORD`].
pub const LOCKED_USER: &str = "locked";

/// The password of [`LOCKED_USER`].
pub const PASSWORD: &str = "open sesame";

/// How a cluster is set up.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Lines of `postgresql.conf`, as `name=value`.
    pub settings: Vec<String>,
    /// Where its directory is made; that of temporary files if left out.
    pub home: Option<PathBuf>,
    /// Files in its directory of data, by their names, which the server alone can read.
    pub files: Vec<(String, String)>,
    /// Lines of `pg_hba.conf` that count before all others.
    pub rules: Vec<String>,
}

impl Settings {
    /// Many connections, and no syncs: the machine does not lose power while a test runs.
    pub fn for_tests() -> Self {
        let settings = ["fsync=off", "max_connections=600", "shared_buffers=256MB"];
        Self {
            settings: settings.map(String::from).to_vec(),
            ..Self::default()
        }
    }
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Transactions under way are broken off, what was committed is written down.
    Fast,
    /// As by a crash: the next start recovers.
    Immediate,
}

/// A cluster and its server; both are gone when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    user: Option<User>,
    port: u16,
    server: Option<Guarded>,
}

impl Cluster {
    /// Makes a cluster and starts its server.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub fn start(settings: &Settings) -> Result<Self> {
        let mut cluster = Self::new(settings.home.as_deref())?;
        let mut init = tool("initdb", cluster.user);
        init.args(["--auth", "trust", "--username", "postgres"])
            .args(["--encoding", "UTF8", "--no-sync", "--pgdata"])
            .arg(cluster.data());
        run(&mut init, "initdb")?;
        cluster.write_settings(settings)?;
        for (name, contents) in &settings.files {
            cluster.write_file(name, contents)?;
        }
        // The first line that fits counts.
        let own: String = settings
            .rules
            .iter()
            .flat_map(|rule| [rule, "\n"])
            .collect();
        let rules = format!(
            "{own}host all {LOCKED_USER} 127.0.0.1/32 scram-sha-256\n\
             host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"
        );
        fs::write(cluster.data().join("pg_hba.conf"), rules)?;
        cluster.resume()?;
        Ok(cluster)
    }

    /// A copy of this cluster that follows it and takes no writes.
    ///
    /// # Errors
    /// It cannot be copied, or its server does not start.
    pub fn standby(&self) -> Result<Self> {
        let mut standby = Self::new(None)?;
        let mut copy = tool("pg_basebackup", standby.user);
        copy.args(["--no-sync", "--write-recovery-conf", "--checkpoint", "fast"])
            .args(["--dbname", &self.url(), "--pgdata"])
            .arg(standby.data());
        run(&mut copy, "pg_basebackup")?;
        standby.resume()?;
        Ok(standby)
    }

    fn new(home: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("kjob-postgres-");
        let dir = match home {
            Some(home) => builder.tempdir_in(home)?,
            None => builder.tempdir()?,
        };
        let user = user_of_servers()?;
        let cluster = Self {
            dir,
            user,
            port: TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port(),
            server: None,
        };
        // Nobody else may look into it, or the server does not start.
        fs::DirBuilder::new().mode(0o700).create(cluster.data())?;
        if let Some(User { uid, gid }) = user {
            chown(cluster.dir.path(), Some(uid), Some(gid))?;
            chown(cluster.data(), Some(uid), Some(gid))?;
        }
        Ok(cluster)
    }

    fn write_file(&self, name: &str, contents: &str) -> Result<()> {
        let path = self.data().join(name);
        let mut file = fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(contents.as_bytes())?;
        if let Some(User { uid, gid }) = self.user {
            chown(&path, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    fn write_settings(&self, settings: &Settings) -> Result<()> {
        let own = ["listen_addresses='127.0.0.1'", "unix_socket_directories=''"];
        let lines = own
            .into_iter()
            .chain(settings.settings.iter().map(|line| &**line));
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        fs::write(self.data().join("postgresql.auto.conf"), text)?;
        Ok(())
    }

    /// Stops the server.
    ///
    /// # Errors
    /// It cannot be told to.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.stop(how)?;
        }
        Ok(())
    }

    /// Starts the server after a stop, on the same port.
    ///
    /// # Errors
    /// It does not start.
    pub fn resume(&mut self) -> Result<()> {
        let server = Guarded::start(self)?;
        let mut look = tool("pg_isready", self.user);
        look.args(["--quiet", "--host", "127.0.0.1", "--port"]);
        look.arg(self.port.to_string());
        let began = Instant::now();
        while !look.status().context("pg_isready")?.success() {
            if self.has_ended() || began.elapsed() > READY_TIMEOUT {
                bail!("postgres does not start: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.server = Some(server);
        Ok(())
    }

    /// Whether the server came to an end by itself: the shell over it has yet to ask after it.
    fn has_ended(&self) -> bool {
        let id = fs::read_to_string(self.dir.path().join("pid")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process that all others of the server come from.
    ///
    /// # Errors
    /// It is not running.
    pub fn id(&self) -> Result<u32> {
        let file = fs::read_to_string(self.data().join("postmaster.pid"))?;
        Ok(file.lines().next().unwrap_or_default().trim().parse()?)
    }

    /// How the database `postgres` is reached as its owner.
    pub fn url(&self) -> String {
        format!(
            "postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable",
            self.port
        )
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The cluster's directory of data.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The directory goes after it.
        let _ = self.stop(Stop::Immediate);
    }
}

/// A server under a shell that reads from us: when we end, even by a kill, it reads the end of file, and ends
/// the server and removes the directory.
#[derive(Debug)]
struct Guarded(Child);

/// `$1` is the program, `$2` the directory. A line on stdin is the signal to stop by.
const GUARD: &str = r#"
"$1" -D "$2/data" -p "$3" >>"$2/log" 2>&1 </dev/null &
server=$!
echo $server >"$2/pid"
if read -r signal; then kill -s "$signal" $server 2>/dev/null; wait $server
else kill -s QUIT $server 2>/dev/null; wait $server; rm -rf "$2"
fi
"#;

impl Guarded {
    fn start(cluster: &Cluster) -> Result<Self> {
        let postgres = tool("postgres", None);
        let mut shell = programs::as_user("sh".into(), cluster.user);
        shell
            .args(["-c", GUARD, "guard"])
            .arg(postgres.get_program());
        shell.arg(cluster.dir.path()).arg(cluster.port.to_string());
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Self(shell.spawn().context("sh")?))
    }

    fn stop(mut self, how: Stop) -> Result<()> {
        use std::io::Write;
        let signal: &[u8] = match how {
            Stop::Fast => b"INT\n",
            Stop::Immediate => b"QUIT\n",
        };
        if let Some(mut stdin) = self.0.stdin.take() {
            // It is gone already where the server never started.
            let _ = stdin.write_all(signal);
        }
        self.0.wait()?;
        Ok(())
    }
}

fn run(command: &mut Command, name: &'static str) -> Result<()> {
    let done = command.stdin(Stdio::null()).output().context(name)?;
    if !done.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_takes_queries_also_after_a_crash_and_leaves_nothing() {
        let mut cluster = Cluster::start(&Settings::for_tests()).unwrap();
        let query = |cluster: &Cluster| {
            let mut psql = tool("psql", None);
            psql.args(["-Atc", "SELECT 6 * 7", &cluster.url()]);
            String::from_utf8(psql.output().unwrap().stdout).unwrap()
        };
        assert_eq!(query(&cluster), "42\n");
        cluster.stop(Stop::Immediate).unwrap();
        cluster.resume().unwrap();
        assert_eq!(query(&cluster), "42\n");
        let ended = Cluster::start(&Settings {
            settings: vec!["shared_buffers=nothing".into()],
            ..Settings::default()
        });
        assert!(
            ended.is_err(),
            "and one that cannot start is told from one that is slow"
        );
        let (dir, id) = (cluster.dir.path().to_owned(), cluster.id().unwrap());
        drop(cluster);
        assert!(!dir.exists());
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
