//! Other servers of jobs, with data of their own, as much like kjob as each of them can be used.
//!
//! What a life is for each, and what it lacks, is told in docs/benchmarks.md.

mod beanstalkd;
mod bullmq;
mod gearmand;
mod postgres;
mod redis;
mod rq;
mod script;

use std::path::Path;
use std::rc::Rc;

use anyhow::Result;

use crate::cases::{Case, MANY, SMALL, SOME, Whose, detail};
use crate::generator::Pace;
use crate::sample::Sample;

/// A peer's name, and its cases.
/// Its packages are below a directory, where it has any.
pub(crate) type Peer = (&'static str, fn(&Path) -> Vec<Case>);

/// All of them.
pub(crate) const PEERS: [Peer; 6] = [
    (beanstalkd::NAME, beanstalkd::cases),
    (gearmand::NAME, gearmand::cases),
    (bullmq::NAME, bullmq::cases),
    (rq::NAME, rq::cases),
    (postgres::PG_BOSS, postgres::pg_boss),
    (postgres::GRAPHILE_WORKER, postgres::graphile_worker),
];

/// kjob's own nodes, beside those who keep jobs in PostgreSQL too.
#[cfg(test)]
pub(crate) use postgres::NODES;
pub(crate) use postgres::nodes;

/// What peers are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Submits,
    Lives,
}

/// The mode of a peer whose jobs are gone with it.
pub(crate) const IN_MEMORY: &str = "in memory";

/// The scenarios that peers are measured in, each with its number of connections.
const SCENARIOS: [(&str, Task, usize); 3] = [
    ("submit", Task::Submits, SOME),
    ("one", Task::Lives, 1),
    ("together", Task::Lives, SOME),
];

/// Those of peers in which many share what each costs.
const WITH_MANY: [(&str, Task, usize); 2] = [
    ("submit", Task::Submits, MANY),
    ("together", Task::Lives, MANY),
];

/// Each scenario with jobs that are durable, in the mode of this name, and with jobs that are not.
fn in_both_modes(
    program: &'static str,
    durable: &'static str,
    measure: impl Fn(&Path, bool, Task, usize, Pace) -> Result<Sample> + Clone + 'static,
) -> Vec<Case> {
    let in_mode = |(mode, is_durable)| {
        let measure = measure.clone();
        in_all_scenarios(program, mode, move |home, task, count, pace| {
            measure(home, is_durable, task, count, pace)
        })
    };
    let modes = [(durable, true), (IN_MEMORY, false)];
    modes.into_iter().flat_map(in_mode).collect()
}

/// One case for each scenario.
fn in_all_scenarios(
    program: &'static str,
    mode: &'static str,
    measure: impl Fn(&Path, Task, usize, Pace) -> Result<Sample> + 'static,
) -> Vec<Case> {
    in_scenarios(&SCENARIOS, program, mode, measure)
}

fn in_scenarios(
    scenarios: &[(&'static str, Task, usize)],
    program: &'static str,
    mode: &'static str,
    measure: impl Fn(&Path, Task, usize, Pace) -> Result<Sample> + 'static,
) -> Vec<Case> {
    let measure = Rc::new(measure);
    let case = |(scenario, task, connections)| {
        let measure = Rc::clone(&measure);
        Case {
            scenario,
            detail: detail(SMALL, connections),
            whose: Whose::Peers,
            program,
            mode,
            measure: Box::new(move |home, pace| measure(home, task, connections, pace)),
        }
    };
    scenarios.iter().copied().map(case).collect()
}
