//! Loads kjob-server, the floors below it and its peers, round after round, and prints one table.
//!
//! `cargo xtask bench` builds the server, installs peers and runs this; docs/benchmarks.md says what is
//! measured.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cases;
mod expiry;
mod facts;
mod fill;
mod floor;
mod generator;
mod http;
mod kept;
mod kjob;
mod machine;
mod peers;
mod plot;
mod process;
mod rounds;
mod sample;
mod small;
mod table;
mod uuids;
mod windows;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::cases::{Case, Kjob, SCENARIOS};
use crate::facts::Facts;
use crate::fill::Count;
use crate::generator::Pace;
use crate::kept::Kept;
use crate::peers::{PEERS, nodes};

/// The allocator of kjob-server, as this program is the floor's server too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a server costs that has nothing to do.
const REST: &str = "small";

/// What expiry costs a server that serves. Measured only if it is named, as it takes a store of its own.
const EXPIRY: &str = "expiry";

/// What `--only` calls kjob's own nodes over a database.
const NODES_WORD: &str = "nodes";

/// What `--only` may name if no peer is to be measured.
const OURS: &str = "kjob";

/// Loads kjob-server, the floors below it and its peers
#[derive(Parser)]
#[command(name = "kjob-load")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and print a table
    Run(Box<RunArgs>),
    /// Be the floor's server
    #[command(name = floor::SERVER_WORD, hide = true)]
    FloorServer(floor::ServerArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The server's program
    #[arg(long, value_name = "PROGRAM")]
    server: PathBuf,
    /// Where directories for data are made; on a disk, not in memory
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// Where packages of peers are installed, below their names
    #[arg(long, value_name = "DIR")]
    peers: PathBuf,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// For how many seconds each time
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// With how many connections, where that is varied
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 32, 256])]
    connections: Vec<usize>,
    /// Threads of the load
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Measure kjob on a store with so many jobs that are done, and without peers
    #[arg(long, value_name = "N", default_value_t = 0)]
    stored: u64,
    /// Measure kjob on a store with so many jobs that wait, and without peers
    #[arg(long, value_name = "N", default_value_t = 0)]
    queued: u64,
    /// Only these scenarios, or these peers (may be repeated); `kjob` stands for no peers, and `expiry`,
    /// with `--stored`, is measured only if it is named
    #[arg(long, value_name = "NAME", value_parser = names())]
    only: Vec<String>,
    /// Write the table here as well
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw what is measured beside peers, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn names() -> Vec<&'static str> {
    let programs = PEERS.into_iter().map(|(name, _)| name);
    let programs = programs.chain([NODES_WORD, OURS]);
    let scenarios = SCENARIOS.into_iter().chain([REST, EXPIRY]);
    scenarios.chain(programs).collect()
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => args.run(),
        Command::FloorServer(args) => floor::serve(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl RunArgs {
    fn run(mut self) -> Result<()> {
        std::fs::create_dir_all(&self.home).context("the directory for data")?;
        // Some are started in a directory of their own.
        self.peers = std::path::absolute(&self.peers)?;
        let machine = machine::described(&self.home);
        println!("{machine}");
        let time = Duration::from_secs_f64(self.seconds);
        let pace = Pace {
            warm_up: (time / 5).min(Duration::from_secs(1)),
            time,
            threads: self.threads,
        };
        let mut facts = Facts::default();
        if self.is_wanted(REST) {
            small::measure(&self.server, &self.home, &mut facts)?;
        }
        if self.is_named(EXPIRY) {
            expiry::measure(&self.server, &self.home, self.stored, &mut facts)?;
        }
        let filled = tempfile::tempdir_in(&self.home)?;
        let count = Count {
            stored: self.stored,
            queued: self.queued,
            ..Count::default()
        };
        // Where expiry is all that is asked for, nobody would use this one.
        let is_kept = !self.is_named(EXPIRY) || SCENARIOS.iter().any(|name| self.is_named(name));
        let kept = match count.all() {
            1.. if is_kept => Some(Kept::new(&self.server, filled.path(), count, &mut facts)?),
            _ => None,
        };
        let kjob = Kjob {
            program: self.server.clone(),
            kept,
        };
        let told = |round, row: &rounds::Row| {
            let figures = table::figures(std::slice::from_ref(row), row);
            println!("round {round}: {} |{figures}", row.name());
        };
        let rows = rounds::run(self.cases(&kjob), self.rounds, pace, &self.home, told)?;
        let tables = format!("{}\n{}", table::table(&rows), facts.table());
        println!("\n{tables}");
        if let Some(path) = &self.markdown {
            let text = format!("{machine}\n\n{tables}");
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &self.plot {
            plot::plot(&rows, path)?;
        }
        Ok(())
    }

    fn cases(&self, kjob: &Kjob) -> Vec<Case> {
        let names_peers = PEERS.iter().any(|(name, _)| self.is_named(name));
        let names_programs = names_peers || self.is_named(OURS) || self.is_named(NODES_WORD);
        let mut cases = cases::own(kjob, &self.connections);
        for (name, of_peer) in PEERS {
            // Peers begin with nothing stored.
            if self.is_named(name) || (!names_programs && kjob.kept.is_none()) {
                cases.extend(of_peer(&self.peers));
            }
        }
        if self.is_named(NODES_WORD) || (!names_programs && kjob.kept.is_none()) {
            cases.extend(nodes(kjob));
        }
        cases.retain(|case| self.is_wanted(case.scenario));
        cases::sort(&mut cases);
        cases
    }

    /// Whether a scenario is to be measured: all are where none is named.
    fn is_wanted(&self, scenario: &str) -> bool {
        let mut all = SCENARIOS.into_iter().chain([REST, EXPIRY]);
        self.is_named(scenario) || !all.any(|name| self.is_named(name))
    }

    fn is_named(&self, name: &str) -> bool {
        self.only.iter().any(|it| it == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::NODES;
    use std::collections::BTreeSet;

    /// What is measured with these arguments: scenarios and programs.
    fn chosen(arguments: &[&str]) -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
        let fixed = ["kjob-load", "run", "--server=s", "--home=h", "--peers=p"];
        let cli = Cli::try_parse_from(fixed.iter().chain(arguments)).unwrap();
        let Command::Run(args) = cli.command else {
            panic!("not a run");
        };
        let kjob = Kjob {
            program: args.server.clone(),
            kept: None,
        };
        let cases = args.cases(&kjob);
        let scenarios = cases.iter().map(|case| case.scenario).collect();
        (scenarios, cases.iter().map(|case| case.program).collect())
    }

    #[test]
    fn scenarios_and_peers_are_chosen_by_name() {
        let (scenarios, programs) = chosen(&[]);
        assert_eq!(scenarios, BTreeSet::from(SCENARIOS));
        assert!(PEERS.iter().all(|(name, _)| programs.contains(name)));

        let (scenarios, programs) = chosen(&["--only=submit", "--only=gearmand"]);
        assert_eq!(scenarios, BTreeSet::from(["submit"]));
        assert_eq!(
            programs,
            BTreeSet::from(["disk", "gearmand", "hyper", "kjob"])
        );

        let (_, programs) = chosen(&["--only=nodes", "--only=together"]);
        assert_eq!(programs, BTreeSet::from(["hyper", "kjob", NODES]));

        let (scenarios, programs) = chosen(&["--only=kjob"]);
        assert_eq!(scenarios, BTreeSet::from(SCENARIOS));
        assert_eq!(programs, BTreeSet::from(["disk", "hyper", "kjob"]));

        for without_rounds in ["--only=small", "--only=expiry"] {
            let (scenarios, _) = chosen(&[without_rounds, "--stored=8"]);
            assert!(scenarios.is_empty());
        }
    }
}
