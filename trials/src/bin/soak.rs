//! Kills servers while clients work, again and again, and checks what clients were told.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kjob_trials::campaign::{self, Cast, Length};
use kjob_trials::checker::Findings;
use kjob_trials::clients;
use kjob_trials::cluster;
use kjob_trials::plan::Endpoints;
use kjob_trials::report::Report;

/// The longest campaign. What it leaves behind is checked at its end, so that a run of hours needs
/// the memory and the disk of minutes.
const CAMPAIGN_MAX: Duration = Duration::from_secs(150);

/// The shortest campaign on one server, but for the first.
const SINGLE_CAMPAIGN_MIN: Duration = Duration::from_secs(5);

/// The shortest campaign on nodes, whose database takes seconds to be made.
const NODES_CAMPAIGN_MIN: Duration = Duration::from_secs(20);

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
    /// Only these kinds of servers; all if left out
    #[arg(long, value_enum, value_name = "KIND")]
    only: Vec<Kind>,
}

/// What is put to the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A server with handlers that write a journal, on a small store
    Journalled,
    /// The server as it is shipped
    Shipped,
    /// Nodes over one database, with handlers that write a journal
    Nodes,
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
        let lane = |name, number: u64, campaign_min, until| Lane {
            name,
            home: home.clone(),
            is_kept: self.keep.is_some(),
            seed: seed.wrapping_add(number << 48),
            campaign_min,
            until,
        };
        let single = |name, number| lane(name, number, SINGLE_CAMPAIGN_MIN, until);
        let cast = |server: &Path, endpoints, ports| Cast {
            server: server.to_owned(),
            clients: clients.clone(),
            endpoints,
            ports,
        };
        let journalled = cast(&self.trial_server, Endpoints::Journalled, 20_000..26_000);
        let shipped = cast(&self.server, Endpoints::Demo, 26_000..32_000);
        let runs = |kind| self.only.is_empty() || self.only.contains(&kind);
        let nodes = cluster::Cast {
            server: self.trial_server.clone(),
            clients: clients.clone(),
            skew: if runs(Kind::Nodes) { faketime() } else { None },
            // Their hosts are others than that of the lanes above, but for the first.
            ports: 18_000..20_000,
        };
        let nodes_until = match self.only[..] {
            [Kind::Nodes] => until,
            // They take most of the machine, and others are to have some of it.
            _ => Instant::now() + Duration::from_secs(self.seconds / 2),
        };
        let half = self.kills.div_ceil(2);
        let mut reports = Reports::default();
        let when = |kind, kills| if runs(kind) { kills } else { 0 };
        tokio::try_join!(
            single("journalled", 0).run(
                &mut reports.journalled,
                (Report::kills, when(Kind::Journalled, half)),
                async |report: &mut _, given| run_single(&journalled, report, given).await,
            ),
            single("shipped", 1).run(
                &mut reports.shipped,
                (Report::kills, when(Kind::Shipped, half)),
                async |report: &mut _, given| run_single(&shipped, report, given).await,
            ),
            lane("nodes", 2, NODES_CAMPAIGN_MIN, nodes_until).run(
                &mut reports.nodes,
                (cluster::Report::kills, when(Kind::Nodes, self.kills)),
                async |report: &mut _, given| run_nodes(&nodes, report, given).await,
            ),
        )?;
        let missed = reports.missed(runs(Kind::Journalled), nodes.skew.is_some());
        println!("{reports}");
        if reports.are_unharmed() && missed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if reports.are_unharmed() {
            for line in missed {
                println!("FAILED: {line}");
            }
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

/// What came of each kind of servers.
#[derive(Default)]
struct Reports {
    journalled: Report,
    shipped: Report,
    nodes: cluster::Report,
}

impl Reports {
    fn are_unharmed(&self) -> bool {
        self.journalled.is_unharmed() && self.shipped.is_unharmed() && self.nodes.is_unharmed()
    }

    /// What was to be tried and was not, a line for each kind of servers.
    fn missed(&self, is_journalled: bool, has_wrong_clocks: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let steps = self.journalled.missed();
        if is_journalled && !steps.is_empty() {
            lines.push(format!(
                "no server was killed with these under way: {steps:?}"
            ));
        }
        let on_nodes = self.nodes.missed(has_wrong_clocks);
        if !on_nodes.is_empty() {
            let names: Vec<String> = on_nodes.iter().map(ToString::to_string).collect();
            lines.push(format!(
                "on the nodes there was none of these: {}",
                names.join(", ")
            ));
        }
        lines
    }
}

impl fmt::Display for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            journalled,
            shipped,
            nodes,
        } = self;
        if journalled.was_run() {
            let name = "The server with handlers that write a journal, on a small store";
            writeln!(f, "\n{name}:\n{journalled}")?;
        }
        if shipped.was_run() {
            let name = "The server as it is shipped, with its demo endpoints";
            writeln!(f, "\n{name}:\n{shipped}")?;
        }
        if nodes.was_run() {
            let name = "Three nodes with handlers that write a journal, over one database or two";
            writeln!(f, "\n{name}:\n{nodes}")?;
        }
        write!(
            f,
            "{} kills, {} jobs acknowledged, {} promises broken",
            journalled.kills() + shipped.kills() + nodes.kills(),
            journalled.acknowledged() + shipped.acknowledged() + nodes.acknowledged(),
            journalled.violations() + shipped.violations() + nodes.violations()
        )
    }
}

/// The library by which a process takes the time for another.
fn faketime() -> Option<PathBuf> {
    let lib = std::fs::read_dir("/usr/lib").ok()?;
    let mut places = lib
        .flatten()
        .map(|it| it.path().join("faketime/libfaketime.so.1"));
    let found = places.find(|place| place.is_file());
    if found.is_none() {
        println!(
            "no node has a wrong clock: there is no libfaketime (Debian: apt install faketime)"
        );
    }
    found
}

/// Campaigns, one after the other.
struct Lane {
    name: &'static str,
    home: PathBuf,
    is_kept: bool,
    seed: u64,
    /// There is no further one in less time than this.
    campaign_min: Duration,
    until: Instant,
}

/// What a campaign is given.
struct Campaign {
    dir: PathBuf,
    seed: u64,
    length: Length,
}

async fn run_single(
    cast: &Cast,
    report: &mut Report,
    Campaign { dir, seed, length }: Campaign,
) -> Result<(String, Findings)> {
    let outcome = campaign::run(cast, &dir, seed, length).await;
    let outcome = outcome.inspect_err(|error| report.add_error(error))?;
    report.add(&outcome);
    let lives = format!("{} lives of the server, ", outcome.lives.len());
    Ok((lives, outcome.findings))
}

async fn run_nodes(
    cast: &cluster::Cast,
    report: &mut cluster::Report,
    Campaign { dir, seed, length }: Campaign,
) -> Result<(String, Findings)> {
    let outcome = cluster::run(cast, &dir, seed, length.until).await;
    let outcome = outcome.inspect_err(|error| report.add_error(error))?;
    report.add(&outcome);
    Ok((String::new(), outcome.findings))
}

impl Lane {
    /// Runs them until it is time, or there were so many kills by the count of the report, which `campaign` adds
    /// what came of it to. It gives that with what else is to be told.
    async fn run<R>(
        self,
        report: &mut R,
        (kills, kills_max): (fn(&R) -> u64, u64),
        campaign: impl AsyncFn(&mut R, Campaign) -> Result<(String, Findings)>,
    ) -> Result<()> {
        let name = self.name;
        for number in 0.. {
            let left = self.until.saturating_duration_since(Instant::now());
            if (number > 0 && left < self.campaign_min) || kills(report) >= kills_max {
                break;
            }
            let dir = self.home.join(format!("{name}-{number}"));
            std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
            let length = Length {
                until: Instant::now() + left.min(CAMPAIGN_MAX),
                kills: kills_max - kills(report),
            };
            // Each of them draws other numbers, too.
            let seed = self.seed.wrapping_add(number << 32);
            let given = Campaign {
                dir: dir.clone(),
                seed,
                length,
            };
            match campaign(report, given).await {
                Ok((told, found)) => {
                    println!(
                        "{name} {number}: {told}{} jobs acknowledged, {} violations",
                        found.counts.acknowledged,
                        found.violations.len()
                    );
                    for violation in found.violations.iter().take(SHOWN_MAX) {
                        println!("  {violation}");
                    }
                    if found.violations.is_empty() && !self.is_kept {
                        std::fs::remove_dir_all(&dir)?;
                    }
                }
                Err(error) => println!("{name} {number}: {error:#}"),
            }
        }
        Ok(())
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
