//! Besieges a server: see the library's `siege`.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use kjob_trials::siege::{self, ATTACKS, Campaign, Terms};

/// Besieges the real server, and prints how it stood
#[derive(Parser)]
#[command(name = "siege")]
struct Cli {
    /// The server's program
    #[arg(long, value_name = "PROGRAM", required_unless_present_any = ["attack", "list"])]
    server: Option<PathBuf>,
    /// Seconds for each attack
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many mutated requests of each attack that makes them
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// What attackers' choices come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Hold fewer connections, and rest no longer than the seconds
    #[arg(long)]
    short: bool,
    /// Fail if honest clients are more than three times as slow as in the quiet, and slower than beside
    /// `spin`; for a machine that does nothing else
    #[arg(long)]
    judge_latency: bool,
    /// Run only this attack (may be repeated)
    #[arg(long, value_name = "ATTACK", value_parser = names())]
    only: Vec<String>,
    /// List the attacks and stop
    #[arg(long)]
    list: bool,
    /// Be one attacker, and print a tally
    #[arg(long, value_name = "ATTACK", value_parser = names(), hide = true, requires = "address")]
    attack: Option<String>,
    /// Whom to attack
    #[arg(long, hide = true)]
    address: Option<SocketAddr>,
}

fn names() -> Vec<&'static str> {
    ATTACKS.iter().map(|attack| attack.name).collect()
}

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(self) -> Result<bool> {
        if self.list {
            for attack in ATTACKS {
                println!("{:<16} {}", attack.name, attack.about);
            }
            return Ok(true);
        }
        let files = rlimit::increase_nofile_limit(u64::MAX).context("the limit of open files")?;
        let runtime = tokio::runtime::Runtime::new()?;
        let terms = Terms {
            time: Duration::from_secs(self.seconds),
            requests: self.requests,
            seed: self.seed,
            is_short: self.short,
        };
        if let (Some(name), Some(address)) = (&self.attack, self.address) {
            let attack = ATTACKS.iter().find(|attack| attack.name == name);
            let attack = attack.context("no such attack")?;
            let counts = runtime.block_on(attack.run(address, terms));
            println!("{}", serde_json::to_string(&counts)?);
            return Ok(true);
        }
        println!("open files: {files}");
        let campaign = Campaign {
            server: self.server.context("--server")?,
            attacker: std::env::current_exe()?,
            only: self.only,
            terms,
            judges_latency: self.judge_latency,
        };
        runtime.block_on(siege::run(&campaign))
    }
}
