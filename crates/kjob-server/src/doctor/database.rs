//! The database that nodes share.

use std::time::Duration;

use kjob_store::postgres::{Description, OpenError, PostgresOptions, PostgresStore, ShardPlace};
use tokio::time::timeout;

use crate::config::DatabaseUrl;

use super::report::Finding;

/// A difference of clocks that somebody should hear of.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// A database that says nothing for so long is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// A round trip above this makes every step of a job slow.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(5);

/// Whether it can be reached, what it is, its tables, its place among so many, its clock, and whether it has room
/// for a node.
pub(super) async fn look(url: &DatabaseUrl, number: usize, count: usize) -> Vec<Finding> {
    let options = PostgresOptions::default();
    let asked = PostgresStore::describe(url.reveal(), &options);
    let (found, advice) = match timeout(PATIENCE, asked).await {
        Ok(Ok(found)) => {
            let mut findings = judged(url, &found, options.connections_max() as u64);
            if found.tables.is_ok() {
                findings.extend(place(url, found.shard, number, count));
            }
            return findings;
        }
        Ok(Err(error)) => (error.to_string(), advice(&error)),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            (format!("no answer for {seconds} s"), REACH)
        }
    };
    let expected = "a database that can be reached and takes writes";
    let found = format!("{url}: {found}");
    vec![Finding::new("database", found, expected).fail(advice)]
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

fn judged(url: &DatabaseUrl, found: &Description, connections: u64) -> Vec<Finding> {
    let mut findings = vec![reached(url, found)];
    let tables = |found| Finding::new("tables", found, "tables that this version works with");
    findings.push(match &found.tables {
        Ok(version) => tables(format!("version {version}"))
            .figure("version", *version)
            .ok(),
        Err(error) => tables(error.to_string()).fail(match error {
            OpenError::NoSchema | OpenError::OlderSchema { .. } => "run kjob-server migrate",
            OpenError::NewerSchema { .. } => "use a newer kjob",
            _ => "let the user of the URL read and write the tables, as their owner or by a GRANT",
        }),
    });
    findings.push(clock(found));
    findings.extend(room(found, connections));
    findings
}

/// Not told of a database that is alone and is meant to be.
fn place(
    url: &DatabaseUrl,
    found: Option<ShardPlace>,
    number: usize,
    count: usize,
) -> Option<Finding> {
    let shown = match found {
        Some(found) => format!("{url} is shard {} of {}", found.shard, found.size),
        None if count == 1 => return None,
        None => format!("{url} is no shard"),
    };
    let expected = match count {
        1 => "a database that holds jobs alone".to_owned(),
        _ => format!("shard {number} of {count}"),
    };
    let is_right = found.is_some_and(|it| (it.shard, it.size) == (number as u64, count as u64));
    let finding = Finding::new("shard", shown, expected);
    Some(if is_right {
        finding.ok()
    } else {
        finding.fail(
            "give all databases of the set in the order of their shards; if they are not a set yet, stop all nodes \
             and run kjob-server migrate",
        )
    })
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

fn clock(found: &Description) -> Finding {
    let ahead = found.clock_ahead_ms;
    let shown = format!("the database's clock is {ahead} ms ahead of this host's");
    let expected = format!("a difference of at most {} ms", AHEAD_MAX.as_millis());
    let finding = Finding::new("database_clock", shown, expected).figure("ahead_ms", ahead);
    if u128::from(ahead.unsigned_abs()) > AHEAD_MAX.as_millis() {
        finding.warn("jobs go by the database's clock; let NTP set both")
    } else {
        finding.ok()
    }
}

/// Not told by databases that count their connections in other ways.
fn room(found: &Description, needed: u64) -> Option<Finding> {
    let there = found.connections?;
    let left = there.max.saturating_sub(there.open);
    let shown = format!("{} of {} connections are free", left, there.max);
    let expected = format!("{needed} for each node");
    let finding = Finding::new("database_connections", shown, expected)
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
