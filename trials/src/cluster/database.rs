//! The database of a campaign: a server and its standby, which it waits for with each commit.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kjob_test_postgres::{Cluster, Settings, Stop, tool};

/// How long a standby has to take part.
const IN_STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Two servers, of which one takes writes and the other follows.
#[derive(Debug)]
pub(crate) struct Database {
    servers: [Cluster; 2],
    first: usize,
}

impl Database {
    /// Makes both. Takes seconds, as all of these do, and blocks meanwhile.
    pub(crate) fn start() -> Result<Self> {
        let first = Cluster::start(&Settings::for_tests())?;
        let standby = first.standby()?;
        let database = Self {
            servers: [first, standby],
            first: 0,
        };
        database.keep_in_step()?;
        Ok(database)
    }

    /// The ports of both, in an order that stays.
    pub(crate) fn ports(&self) -> [u16; 2] {
        [self.servers[0].port(), self.servers[1].port()]
    }

    /// Ends the server that takes writes, and starts it again after a while.
    pub(crate) fn restart(&mut self, how: Stop, after: Duration) -> Result<()> {
        let first = &mut self.servers[self.first];
        first.stop(how)?;
        std::thread::sleep(after);
        first.resume()
    }

    /// Kills the server that takes writes, lets its standby take its place, and makes another standby.
    pub(crate) fn replace(&mut self) -> Result<()> {
        self.servers[self.first].stop(Stop::Immediate)?;
        self.first = 1 - self.first;
        self.sql("SELECT pg_promote(true, 60)")?;
        // It has nobody to wait for until there is another one.
        self.sql("ALTER SYSTEM SET synchronous_standby_names = ''")?;
        self.sql("SELECT pg_reload_conf()")?;
        let standby = self.servers[self.first].standby()?;
        self.servers[1 - self.first] = standby;
        self.keep_in_step()
    }

    /// Lets commits wait for the standby from now on.
    fn keep_in_step(&self) -> Result<()> {
        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        self.sql("SELECT pg_reload_conf()")?;
        let began = Instant::now();
        let look = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        while self.sql(look)?.trim() != "1" {
            if began.elapsed() > IN_STEP_TIMEOUT {
                bail!("the standby takes no part");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn sql(&self, statement: &str) -> Result<String> {
        let url = self.servers[self.first].url();
        let mut psql: Command = tool("psql", None);
        psql.args(["-qAtc", statement, &url]);
        let said = psql.output().context("psql")?;
        if !said.status.success() {
            bail!("{statement}: {}", String::from_utf8_lossy(&said.stderr));
        }
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }
}
