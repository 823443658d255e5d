//! What is measured: each scenario on the floor, on kjob and on its peers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;

use crate::floor::{self, Answers, Post};
use crate::generator::{Pace, load};
use crate::kept::Kept;
use crate::kjob::{self, Get, Life, Submit, Tags};
use crate::process::Server;
use crate::sample::{Sample, sample};

/// Bytes of a small payload, and of its result.
pub(crate) const SMALL: usize = 256;

/// Bytes of a large one.
const LARGE: usize = 64 << 10;

/// How many connections load a server with large payloads, and peers.
pub(crate) const SOME: usize = 32;

/// How many load what gets faster by them.
pub(crate) const MANY: usize = 256;

/// How many jobs are there, at least, for gets to choose from.
const FINISHED_MIN: usize = 4_096;

/// How many lives at once make them.
const FINISHING: usize = 64;

/// Whose a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// In each scenario, that of hyper comes first which answers at once.
    Floor,
    /// Likewise that of kjob as it comes.
    Ours,
    Peers,
}

/// What is measured, in a directory that is new each time.
pub(crate) type Measure = Box<dyn Fn(&Path, Pace) -> Result<Sample>>;

/// A scenario for one server.
pub(crate) struct Case {
    /// One of [`SCENARIOS`].
    pub(crate) scenario: &'static str,
    /// The rest of what is the same for all who are compared.
    pub(crate) detail: String,
    pub(crate) whose: Whose,
    /// The program, without its mode.
    pub(crate) program: &'static str,
    /// What distinguishes it from others of the same program.
    pub(crate) mode: &'static str,
    pub(crate) measure: Measure,
}

/// The names of those that are measured in rounds.
pub(crate) const SCENARIOS: [&str; 4] = ["submit", "get", "one", "together"];

/// The server that all is about.
#[derive(Clone, Debug)]
pub(crate) struct Kjob {
    pub(crate) program: PathBuf,
    /// A store that is there already; else each measurement has a new one.
    pub(crate) kept: Option<Kept>,
}

impl Kjob {
    fn start(&self, fresh: &Path) -> Result<Server> {
        let home = self.kept.as_ref().map_or(fresh, |kept| &kept.home);
        kjob::start(&self.program, home)
    }

    /// Ids of jobs that are done. Makes some where there are none.
    fn finished(&self, server: &Server, payload: &Bytes) -> Result<Arc<[i64]>> {
        if let Some(kept) = self.kept.as_ref().filter(|kept| !kept.ids.is_empty()) {
            return Ok(Arc::clone(&kept.ids));
        }
        let pace = Pace {
            warm_up: Duration::ZERO,
            time: Duration::from_millis(300),
            threads: 1,
        };
        let mut ids = Vec::new();
        while ids.len() < FINISHED_MIN {
            let lives = (0..FINISHING).map(|_| Life::new(payload)).collect();
            let (_, lived) = load(&[server.address], lives, pace, || ())?;
            ids.extend(lived.into_iter().flat_map(|life| life.ids));
        }
        Ok(ids.into())
    }
}

/// The floor and kjob-server in all scenarios, with so many connections where that is varied.
pub(crate) fn own(kjob: &Kjob, connections: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &count in connections {
        cases.push(floor("submit", SMALL, count, Answers::AtOnce));
        cases.push(floor("submit", SMALL, count, Answers::Synced));
        cases.extend((count == 1).then(|| syncs("submit", SMALL, 1)));
        for tags in [Tags::Server, Tags::Client] {
            cases.push(submit(kjob, SMALL, count, tags));
        }
    }
    // A store that is kept would grow by gigabytes.
    if kjob.kept.is_none() {
        cases.push(floor("submit", LARGE, SOME, Answers::AtOnce));
        cases.push(floor("submit", LARGE, SOME, Answers::Synced));
        cases.push(syncs("submit", LARGE, SOME));
        cases.push(submit(kjob, LARGE, SOME, Tags::Server));
    }
    for &count in connections {
        cases.push(floor("get", SMALL, count, Answers::AtOnce));
        // Where jobs are done that are not in kjob's memory.
        if let Some(kept) = kjob.kept.as_ref().filter(|kept| !kept.ids.is_empty()) {
            let files = Some(kept.home.join("data").join("segments"));
            cases.push(floor_in("get", SMALL, count, Answers::Read, files));
        }
        cases.push(get(kjob, count));
    }
    cases.push(floor("one", SMALL, 1, Answers::AtOnce));
    cases.push(syncs("one", SMALL, 1));
    cases.push(lives("one", kjob, 1));
    for &count in connections.iter().filter(|count| **count > 1) {
        cases.push(floor("together", SMALL, count, Answers::AtOnce));
        cases.push(lives("together", kjob, count));
    }
    cases
}

/// Those who are compared are measured one right after the other.
pub(crate) fn sort(cases: &mut [Case]) {
    let mut details: Vec<(&str, String)> = Vec::new();
    for case in cases.iter() {
        let key = (case.scenario, case.detail.clone());
        if !details.contains(&key) {
            details.push(key);
        }
    }
    cases.sort_by_key(|case| {
        let scenario = SCENARIOS.iter().position(|name| *name == case.scenario);
        let is_same = |(scenario, detail): &(&str, String)| {
            *scenario == case.scenario && *detail == case.detail
        };
        (scenario, details.iter().position(is_same))
    });
}

/// What is the same for all who are compared.
pub(crate) fn detail(len: usize, connections: usize) -> String {
    let size = match len {
        LARGE => "64 KiB".to_owned(),
        len => format!("{len} B"),
    };
    match connections {
        1 => format!("{size}, 1 connection"),
        count => format!("{size}, {count} connections"),
    }
}

/// What answers that wait for the disk wait for at least, if those of all connections share a sync.
fn syncs(scenario: &'static str, len: usize, connections: usize) -> Case {
    Case {
        scenario,
        detail: detail(len, connections),
        whose: Whose::Floor,
        program: "disk",
        mode: match connections {
            1 => "appended and synced",
            _ => "appended once for each, and synced",
        },
        measure: Box::new(move |home, pace| {
            let load = floor::syncs(home, &vec![7; len], connections, pace.time)?;
            Ok(Sample::from(&load))
        }),
    }
}

fn floor(scenario: &'static str, len: usize, connections: usize, answers: Answers) -> Case {
    floor_in(scenario, len, connections, answers, None)
}

/// Likewise in a directory that is there already.
fn floor_in(
    scenario: &'static str,
    len: usize,
    connections: usize,
    answers: Answers,
    dir: Option<PathBuf>,
) -> Case {
    Case {
        scenario,
        detail: detail(len, connections),
        whose: Whose::Floor,
        program: "hyper",
        mode: match answers {
            Answers::AtOnce => "body read, 100 B back",
            Answers::Synced => "body appended and synced, 100 B back",
            Answers::Read => "three pages of the store read, 100 B back",
        },
        measure: Box::new(move |home, pace| {
            let server = floor::start(home, answers, dir.as_deref().unwrap_or(home))?;
            let posts = (0..connections).map(|_| Post::new(&vec![7; len]));
            sample(&server, posts.collect(), pace)
        }),
    }
}

fn submit(kjob: &Kjob, len: usize, connections: usize, tags: Tags) -> Case {
    let mode = match tags {
        Tags::Server => "",
        Tags::Client => "tags by client",
    };
    let detail = detail(len, connections);
    ours("submit", detail, kjob, mode, move |kjob, home, pace| {
        let server = kjob.start(home)?;
        let payload = kjob::payload(len);
        let submits = (0..connections).map(|_| Submit::new(&payload, tags));
        sample(&server, submits.collect::<Result<_>>()?, pace)
    })
}

fn get(kjob: &Kjob, connections: usize) -> Case {
    let detail = detail(SMALL, connections);
    ours("get", detail, kjob, "", move |kjob, home, pace| {
        let server = kjob.start(home)?;
        let payload = kjob::payload(SMALL);
        let ids = kjob.finished(&server, &payload)?;
        let gets = (0..connections).map(|_| Get::new(Arc::clone(&ids), payload.clone()));
        sample(&server, gets.collect(), pace)
    })
}

fn lives(scenario: &'static str, kjob: &Kjob, connections: usize) -> Case {
    let detail = detail(SMALL, connections);
    ours(scenario, detail, kjob, "", move |kjob, home, pace| {
        let server = kjob.start(home)?;
        let payload = kjob::payload(SMALL);
        let lives = (0..connections).map(|_| Life::new(&payload)).collect();
        sample(&server, lives, pace)
    })
}

fn ours(
    scenario: &'static str,
    detail: String,
    kjob: &Kjob,
    mode: &'static str,
    measure: impl Fn(&Kjob, &Path, Pace) -> Result<Sample> + 'static,
) -> Case {
    let kjob = kjob.clone();
    Case {
        scenario,
        detail,
        whose: Whose::Ours,
        program: "kjob",
        mode,
        measure: Box::new(move |home, pace| measure(&kjob, home, pace)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_floor_that_answers_at_once() {
        let kjob = Kjob {
            program: PathBuf::new(),
            kept: None,
        };
        let mut cases = own(&kjob, &[1, SOME]);
        sort(&mut cases);
        for case in &cases {
            let first = cases.iter().find(|other| {
                other.whose == Whose::Floor
                    && (other.scenario, &other.detail) == (case.scenario, &case.detail)
            });
            let first = first.unwrap();
            assert_eq!(first.program, "hyper", "{}", case.scenario);
            assert_eq!(first.mode, "body read, 100 B back", "{}", case.scenario);
        }
        let is_synced = |case: &&Case| case.mode == "body appended and synced, 100 B back";
        let synced = cases.iter().filter(is_synced);
        let synced: Vec<_> = synced
            .map(|case| (case.scenario, case.detail.as_str()))
            .collect();
        let details = [
            "256 B, 1 connection",
            "256 B, 32 connections",
            "64 KiB, 32 connections",
        ];
        assert_eq!(synced, details.map(|detail| ("submit", detail)));
    }
}
