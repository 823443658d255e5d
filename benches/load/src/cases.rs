//! What is measured: each scenario on the floor, on kjob and on its peers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::floor::{self, Post};
use crate::generator::{Pace, load};
use crate::kjob::{self, Get, Life, Submit, Tags};
use crate::sample::{Sample, sample};

/// Bytes of a small payload, and of its result.
pub(crate) const SMALL: usize = 256;

/// Bytes of a large one.
const LARGE: usize = 64 << 10;

/// How many connections load a server with large payloads, and peers.
pub(crate) const SOME: usize = 32;

/// How many jobs are there, at least, for gets to choose from.
const FINISHED_MIN: usize = 4_096;

/// How many lives at once make them.
const FINISHING: usize = 64;

/// Whose a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// In each scenario, that of hyper comes first.
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

/// The names of all scenarios.
pub(crate) const SCENARIOS: [&str; 4] = ["submit", "get", "one", "together"];

/// The floor and kjob-server in all scenarios, with so many connections where that is varied.
pub(crate) fn own(program: &Path, connections: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &count in connections {
        cases.push(floor("submit", SMALL, count));
        cases.extend((count == 1).then(|| syncs("submit")));
        for tags in [Tags::Server, Tags::Client] {
            cases.push(submit(program, SMALL, count, tags));
        }
    }
    cases.push(floor("submit", LARGE, SOME));
    cases.push(submit(program, LARGE, SOME, Tags::Server));
    for &count in connections {
        cases.push(floor("get", SMALL, count));
        cases.push(get(program, count));
    }
    cases.push(floor("one", SMALL, 1));
    cases.push(syncs("one"));
    cases.push(lives("one", program, 1));
    for &count in connections.iter().filter(|count| **count > 1) {
        cases.push(floor("together", SMALL, count));
        cases.push(lives("together", program, count));
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

/// What an answer that waits for the disk waits for at least.
fn syncs(scenario: &'static str) -> Case {
    Case {
        scenario,
        detail: detail(SMALL, 1),
        whose: Whose::Floor,
        program: "disk",
        mode: "256 B appended and synced",
        measure: Box::new(|home, pace| {
            Ok(Sample::from(&floor::syncs(home, &[7; SMALL], pace.time)?))
        }),
    }
}

fn floor(scenario: &'static str, len: usize, connections: usize) -> Case {
    Case {
        scenario,
        detail: detail(len, connections),
        whose: Whose::Floor,
        program: "hyper",
        mode: "body read, 100 B back",
        measure: Box::new(move |home, pace| {
            let server = floor::start(home)?;
            let posts = (0..connections).map(|_| Post::new(&vec![7; len]));
            sample(&server, posts.collect(), pace)
        }),
    }
}

fn submit(program: &Path, len: usize, connections: usize, tags: Tags) -> Case {
    let mode = match tags {
        Tags::Server => "",
        Tags::Client => "tags by client",
    };
    ours(
        "submit",
        program,
        len,
        connections,
        mode,
        move |home, pace| {
            let server = kjob::start(home.0, home.1)?;
            let payload = kjob::payload(len);
            let submits = (0..connections).map(|_| Submit::new(&payload, tags));
            sample(&server, submits.collect::<Result<_>>()?, pace)
        },
    )
}

fn get(program: &Path, connections: usize) -> Case {
    ours("get", program, SMALL, connections, "", move |home, pace| {
        let server = kjob::start(home.0, home.1)?;
        let payload = kjob::payload(SMALL);
        let mut ids = Vec::new();
        while ids.len() < FINISHED_MIN {
            let short = Pace {
                warm_up: Duration::ZERO,
                time: Duration::from_millis(300),
                ..pace
            };
            let all = (0..FINISHING).map(|_| Life::new(&payload)).collect();
            let (_, lived) = load(server.address, all, short, || ())?;
            ids.extend(lived.into_iter().flat_map(|life| life.ids));
        }
        let gets = (0..connections).map(|_| Get::new(ids.as_slice().into(), payload.clone()));
        sample(&server, gets.collect(), pace)
    })
}

fn lives(scenario: &'static str, program: &Path, connections: usize) -> Case {
    ours(
        scenario,
        program,
        SMALL,
        connections,
        "",
        move |home, pace| {
            let server = kjob::start(home.0, home.1)?;
            let payload = kjob::payload(SMALL);
            let lives = (0..connections).map(|_| Life::new(&payload)).collect();
            sample(&server, lives, pace)
        },
    )
}

fn ours(
    scenario: &'static str,
    program: &Path,
    len: usize,
    connections: usize,
    mode: &'static str,
    measure: impl Fn((&Path, &Path), Pace) -> Result<Sample> + 'static,
) -> Case {
    let program: PathBuf = program.to_owned();
    Case {
        scenario,
        detail: detail(len, connections),
        whose: Whose::Ours,
        program: "kjob",
        mode,
        measure: Box::new(move |home, pace| measure((&program, home), pace)),
    }
}
