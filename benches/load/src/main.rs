//! Loads kjob-server, the floors below it and its peers, round after round, and prints one table.
//!
//! `cargo xtask bench` builds the server, installs peers and runs this; docs/benchmarks.md says what is
//! measured.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cases;
mod floor;
mod generator;
mod http;
mod kjob;
mod machine;
mod peers;
mod process;
mod rounds;
mod sample;
mod table;
mod uuids;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::cases::{Case, SCENARIOS};
use crate::generator::Pace;
use crate::peers::PEERS;

/// The allocator of kjob-server, as this program is the floor's server too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    Run(RunArgs),
    /// Be the floor's server
    #[command(name = floor::SERVER_WORD, hide = true)]
    FloorServer,
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
    /// Only these scenarios, or these peers (may be repeated); `kjob` stands for no peers
    #[arg(long, value_name = "NAME", value_parser = names())]
    only: Vec<String>,
    /// Write the table here as well
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn names() -> Vec<&'static str> {
    let programs = PEERS.into_iter().map(|(name, _)| name).chain([OURS]);
    SCENARIOS.into_iter().chain(programs).collect()
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => args.run(),
        Command::FloorServer => floor::serve(),
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
    fn run(self) -> Result<()> {
        std::fs::create_dir_all(&self.home).context("the directory for data")?;
        let machine = machine::described(&self.home);
        println!("{machine}");
        let time = Duration::from_secs_f64(self.seconds);
        let pace = Pace {
            warm_up: (time / 5).min(Duration::from_secs(1)),
            time,
            threads: self.threads,
        };
        let cases = self.cases();
        let told = |round, row: &rounds::Row| {
            let figures = table::figures(std::slice::from_ref(row), row);
            println!("round {round}: {} |{figures}", row.name());
        };
        let rows = rounds::run(cases, self.rounds, pace, &self.home, told)?;
        let table = table::table(&rows);
        println!("\n{table}");
        if let Some(path) = &self.markdown {
            let text = format!("{machine}\n\n{table}");
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn cases(&self) -> Vec<Case> {
        let is_named = |name: &str| self.only.iter().any(|it| it == name);
        let names_scenarios = SCENARIOS.into_iter().any(is_named);
        let names_programs = PEERS.iter().any(|(name, _)| is_named(name)) || is_named(OURS);
        let mut cases = cases::own(&self.server, &self.connections);
        for (name, of_peer) in PEERS {
            if !names_programs || is_named(name) {
                cases.extend(of_peer(&self.peers));
            }
        }
        cases.retain(|case| !names_scenarios || is_named(case.scenario));
        cases::sort(&mut cases);
        cases
    }
}
