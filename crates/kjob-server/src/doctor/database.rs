//! The database that nodes share.

use std::time::Duration;

use kjob_store::postgres::{
    Description, OpenError, PostgresOptions, PostgresStore, ShardPlace, ShardsError,
};
use tokio::time::timeout;

use crate::config::DatabaseUrl;

use super::report::Finding;

/// A difference of clocks that somebody should hear of.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// A database that says nothing for so long is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// A round trip above this makes every step of a job slow.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(5);

/// Of each, whether it can be reached, what it is, its tables, its clock, whether it has room for a node, whether it
/// keeps checksums, and its place among all of them.
pub(super) async fn look(urls: &[DatabaseUrl]) -> Vec<Finding> {
    let options = PostgresOptions::default();
    let mut looked = Vec::new();
    for url in urls {
        looked.push(describe(url, &options).await);
    }
    let reached: Vec<_> = looked.iter().map(|it| it.as_ref().ok()).collect();
    // As the server does it when it starts.
    let misfit = match urls.len() {
        1 => None,
        _ => Description::are_a_set(&reached).err(),
    };
    let mut findings = Vec::new();
    for (number, (url, looked)) in urls.iter().zip(&looked).enumerate() {
        let seat = Seat {
            url,
            number,
            count: urls.len(),
            misfit: misfit.as_ref(),
        };
        let of_one = match looked {
            Ok(found) => seat.judged(found, options.connections_max() as u64),
            Err(unreached) => vec![unreached.clone()],
        };
        findings.extend(of_one.into_iter().map(|it| it.of_database(url)));
    }
    findings
}

/// What it is, or what is in the way of asking it.
async fn describe(url: &DatabaseUrl, options: &PostgresOptions) -> Result<Description, Finding> {
    let asked = PostgresStore::describe(url.reveal(), options);
    let (found, advice) = match timeout(PATIENCE, asked).await {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => (error.to_string(), advice(&error)),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            (format!("no answer for {seconds} s"), REACH)
        }
    };
    let expected = "a database that can be reached and takes writes";
    let found = format!("{url}: {found}");
    Err(Finding::new("database", found, expected).fail(advice))
}

const REACH: &str = "see that it runs and that the host, port, user and password of the URL are right, and \
     whether pg_hba.conf and firewalls let this host in";

/// What to do about an error on the way to a database.
fn advice(error: &OpenError) -> &'static str {
    match error {
        OpenError::BadUrl { .. } | OpenError::HalfAnIdentity { .. } => "correct the URL in store",
        OpenError::TlsFile { .. } => {
            "give a file in PEM that the server's user can read, or correct the URL in store"
        }
        _ => REACH,
    }
}

/// A database, and what it is to be.
struct Seat<'a> {
    url: &'a DatabaseUrl,
    number: usize,
    count: usize,
    /// What keeps all of them from being a set.
    misfit: Option<&'a ShardsError>,
}

impl Seat<'_> {
    fn judged(&self, found: &Description, connections: u64) -> Vec<Finding> {
        let mut findings = vec![reached(self.url, found), self.tables(found)];
        findings.push(self.clock(found));
        findings.extend(self.room(found, connections));
        findings.extend(self.checksums(found));
        if found.tables.is_ok() {
            findings.extend(self.place(found.shard));
        }
        findings
    }

    /// What was found, with the database that it was found of where there are several.
    fn named(&self, found: String) -> String {
        match self.count {
            1 => found,
            _ => format!("{}: {found}", self.url),
        }
    }

    /// What is in the way of a migration too.
    fn in_the_way(&self) -> Option<&ShardsError> {
        let is_to_be_made = |error: &&ShardsError| matches!(error, ShardsError::NotYet { .. });
        self.misfit.filter(|error| !is_to_be_made(error))
    }

    fn tables(&self, found: &Description) -> Finding {
        let tables = |found| {
            let expected = "tables that this version works with";
            Finding::new("tables", self.named(found), expected)
        };
        let error = match &found.tables {
            Ok(version) => {
                let tables = tables(format!("version {version}"));
                return tables.figure("version", *version).ok();
            }
            Err(error) => error,
        };
        // Its own words end with an advice, which is not always right.
        let said = match error {
            OpenError::NoSchema => "the database has no tables of kjob".to_owned(),
            OpenError::OlderSchema { found, .. } => format!("version {found}"),
            error => error.to_string(),
        };
        match (error, self.in_the_way()) {
            (OpenError::NoSchema | OpenError::OlderSchema { .. }, None) => {
                tables(said).fail("run kjob-server migrate")
            }
            (OpenError::NoSchema | OpenError::OlderSchema { .. }, Some(misfit)) => {
                tables(said).fail(format!("kjob-server migrate would refuse: {misfit}"))
            }
            (OpenError::NewerSchema { .. }, _) => tables(said).fail("use a newer kjob"),
            _ => tables(said).fail(
                "let the user of the URL read and write the tables, as their owner or by a GRANT",
            ),
        }
    }

    /// Not told of a database that is alone and is meant to be.
    fn place(&self, found: Option<ShardPlace>) -> Option<Finding> {
        let (url, number, count) = (self.url, self.number, self.count);
        let shown = match found {
            Some(found) => format!("{url} is shard {} of {}", found.shard, found.size),
            None if count == 1 => return None,
            None => format!("{url} is no shard"),
        };
        let expected = match count {
            1 => "a database that holds jobs alone".to_owned(),
            _ => format!("shard {number} of {count}, of one set"),
        };
        let is_right = found.is_some_and(|it| (it.shard, it.size) == (number as u64, count as u64));
        let about_it = |error: &&ShardsError| error.number() == Some(number);
        let finding = Finding::new("shard", shown, expected);
        if is_right {
            return Some(match self.misfit.filter(about_it) {
                Some(misfit) => finding.fail(misfit.to_string()),
                None => finding.ok(),
            });
        }
        Some(match self.in_the_way() {
            Some(misfit) => finding.fail(misfit.to_string()),
            None => finding.fail(
                "give all databases of the set in the order of their shards; if they are not a set yet, stop all \
                 nodes and run kjob-server migrate",
            ),
        })
    }

    fn clock(&self, found: &Description) -> Finding {
        let ahead = found.clock_ahead_ms;
        let shown = format!("the database's clock is {ahead} ms ahead of this host's");
        let expected = format!("a difference of at most {} ms", AHEAD_MAX.as_millis());
        let finding =
            Finding::new("database_clock", self.named(shown), expected).figure("ahead_ms", ahead);
        if u128::from(ahead.unsigned_abs()) > AHEAD_MAX.as_millis() {
            finding.warn("jobs go by the database's clock; let NTP set both")
        } else {
            finding.ok()
        }
    }

    /// Not told by databases that count their connections in other ways.
    fn room(&self, found: &Description, needed: u64) -> Option<Finding> {
        let there = found.connections?;
        let left = there.max.saturating_sub(there.open);
        let shown = format!("{} of {} connections are free", left, there.max);
        let expected = format!("{needed} for each node");
        let finding = Finding::new("database_connections", self.named(shown), expected)
            .figure("max", there.max)
            .figure("open", there.open)
            .figure("needed", needed);
        Some(if there.max < needed {
            finding.fail("raise max_connections of the database")
        } else if left < needed {
            finding.warn(
            "raise max_connections of the database, unless nodes have them that will be stopped",
        )
        } else {
            finding.ok()
        })
    }

    /// Not told by databases that do not tell.
    fn checksums(&self, found: &Description) -> Option<Finding> {
        let are_on = found.checksums?;
        let shown = format!("data_checksums is {}", if are_on { "on" } else { "off" });
        let expected = "checksums of the database's pages, as rows have none of kjob's";
        let finding = Finding::new("database_checksums", self.named(shown), expected);
        Some(if are_on {
            finding.ok()
        } else {
            finding.warn("run pg_checksums --enable while the database is stopped")
        })
    }
}

fn reached(url: &DatabaseUrl, found: &Description) -> Finding {
    // Such as "PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu, compiled by …".
    let version = found.version.split(" on ").next().unwrap_or_default();
    let millis = found.round_trip.as_secs_f64() * 1e3;
    let expected = format!(
        "a database that can be reached, within {} ms",
        ROUND_TRIP_MAX.as_millis()
    );
    let shown = format!("{url}: {version}, a round trip takes {millis:.2} ms");
    let micros = u64::try_from(found.round_trip.as_micros()).unwrap_or(u64::MAX);
    let finding = Finding::new("database", shown, expected).figure("round_trip_us", micros);
    if found.round_trip > ROUND_TRIP_MAX {
        finding.warn("a job takes several round trips: have nodes and database in one place")
    } else {
        finding.ok()
    }
}
