//! Kills servers while clients work, again and again, and checks what clients were told.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use kjob_trials::campaign::{self, Cast, Length, Outcome};
use kjob_trials::clients;
use kjob_trials::plan::Endpoints;
use kjob_trials::report::Report;

/// The longest campaign. What it leaves behind is checked at its end, so that a run of hours needs
/// the memory and the disk of minutes.
const CAMPAIGN_MAX: Duration = Duration::from_secs(150);

/// Violations that are printed of each campaign.
const SHOWN_MAX: usize = 20;

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    match cli.command {
        Command::Run(run) => runtime.block_on(run.run()),
        Command::Clients(clients) => {
            let ended = runtime.block_on(clients.run());
            // The thread that reads the standard input may never come back.
            runtime.shutdown_background();
            ended.map(|()| ExitCode::SUCCESS)
        }
    }
}

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start servers and kill them
    Run(Run),
    /// Be the clients of a server
    #[command(hide = true)]
    Clients(Clients),
}

#[derive(Args)]
struct Run {
    /// The program kjob-server
    #[arg(long, value_name = "FILE")]
    server: PathBuf,
    /// The program trial-server
    #[arg(long, value_name = "FILE")]
    trial_server: PathBuf,
    /// For how long
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// After how many kills to end sooner
    #[arg(long, default_value_t = u64::MAX)]
    kills: u64,
    /// Of what clients ask and when servers are killed; random if left out
    #[arg(long)]
    seed: Option<u64>,
    /// Where to keep histories, journals, logs and stores; else they are kept after a violation only
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Args)]
struct Clients {
    #[arg(long)]
    url: String,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    first: u32,
    #[arg(long)]
    clients: u32,
    #[arg(long)]
    demo: bool,
    #[arg(long)]
    receiver: String,
    #[arg(long)]
    history: PathBuf,
}

impl Run {
    async fn run(self) -> Result<ExitCode> {
        let seed = self.seed.unwrap_or_else(rand::random);
        println!("seed {seed}");
        let dir = tempfile::Builder::new().prefix("kjob-soak-").tempdir()?;
        let home = match &self.keep {
            Some(keep) => keep.clone(),
            None => dir.path().to_owned(),
        };
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let clients = std::env::current_exe()?;
        // Lanes run at once: each draws other numbers, and has other ports.
        let lane = |name: &'static str, server: &Path, endpoints, at: u16| Lane {
            name,
            cast: Cast {
                server: server.to_owned(),
                clients: clients.clone(),
                endpoints,
                ports: 20_000 + 6_000 * at..26_000 + 6_000 * at,
            },
            home: home.clone(),
            is_kept: self.keep.is_some(),
            seed: seed.wrapping_add(u64::from(at) << 48),
            until,
        };
        let journalled = lane("journalled", &self.trial_server, Endpoints::Journalled, 0);
        let shipped = lane("shipped", &self.server, Endpoints::Demo, 1);
        let half = self.kills.div_ceil(2);
        let (mut of_journalled, mut of_shipped) = (Report::default(), Report::default());
        tokio::try_join!(
            journalled.run(half, &mut of_journalled),
            shipped.run(half, &mut of_shipped)
        )?;
        let is_good = of_journalled.is_good() && of_shipped.is_unharmed();
        println!(
            "\nThe server with handlers that write a journal, on a small store:\n{of_journalled}"
        );
        println!("\nThe server as it is shipped, with its demo endpoints:\n{of_shipped}");
        let sum = |of: fn(&Report) -> u64| of(&of_journalled) + of(&of_shipped);
        println!(
            "{} kills, {} jobs acknowledged, {} promises broken",
            sum(Report::kills),
            sum(Report::acknowledged),
            sum(Report::violations)
        );
        if is_good {
            return Ok(ExitCode::SUCCESS);
        }
        if of_journalled.is_unharmed() && of_shipped.is_unharmed() {
            let missed = of_journalled.missed();
            println!("FAILED: no server was killed with these under way: {missed:?}");
            return Ok(ExitCode::FAILURE);
        }
        if self.keep.is_none() {
            let _kept = dir.keep();
        }
        println!(
            "FAILED with seed {seed}. Histories, journals, logs and stores are in {}: look for the id or \
             the tag of a violation in history-* (what clients asked and were told, in microseconds) and \
             journal-* (what handlers did, a file for each process). The same seed asks and kills the \
             same way, but how far each process is by then varies.",
            home.display()
        );
        Ok(ExitCode::FAILURE)
    }
}

/// Campaigns, one after the other.
struct Lane {
    name: &'static str,
    cast: Cast,
    home: PathBuf,
    is_kept: bool,
    seed: u64,
    until: Instant,
}

impl Lane {
    async fn run(&self, kills: u64, report: &mut Report) -> Result<()> {
        for number in 0.. {
            let left = self.until.saturating_duration_since(Instant::now());
            if (number > 0 && left < Duration::from_secs(5)) || report.kills() >= kills {
                break;
            }
            let dir = self.home.join(format!("{}-{number}", self.name));
            std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
            let length = Length {
                until: Instant::now() + left.min(CAMPAIGN_MAX),
                kills: kills - report.kills(),
            };
            // So does each of its campaigns.
            let seed = self.seed.wrapping_add(number << 32);
            match campaign::run(&self.cast, &dir, seed, length).await {
                Ok(outcome) => {
                    report.add(&outcome);
                    self.tell(number, &outcome);
                    if outcome.findings.violations.is_empty() && !self.is_kept {
                        std::fs::remove_dir_all(&dir)?;
                    }
                }
                Err(error) => {
                    println!("{} {number}: {error:#}", self.name);
                    report.add_error(&error);
                }
            }
        }
        Ok(())
    }

    fn tell(&self, number: u64, outcome: &Outcome) {
        let found = &outcome.findings;
        println!(
            "{} {number}: {} lives of the server, {} jobs acknowledged, {} violations",
            self.name,
            outcome.lives.len(),
            found.counts.acknowledged,
            found.violations.len()
        );
        for violation in found.violations.iter().take(SHOWN_MAX) {
            println!("  {violation}");
        }
    }
}

impl Clients {
    async fn run(self) -> Result<()> {
        clients::run(clients::Options {
            url: self.url,
            seed: self.seed,
            first: self.first,
            clients: self.clients,
            endpoints: match self.demo {
                true => Endpoints::Demo,
                false => Endpoints::Journalled,
            },
            receiver: self.receiver,
            history: self.history,
        })
        .await
    }
}
