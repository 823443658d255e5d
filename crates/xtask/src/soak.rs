//! Kill tests on the real server: `trials/` has what is run here.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::build;
use crate::counts::Counts;
use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};
use crate::tools;

/// How long the step of `cargo xtask test` kills servers.
const STEP_SECONDS: u64 = 120;

/// What `--only` calls the nodes over a database.
const NODES: &str = "nodes";

#[derive(Args)]
pub(crate) struct SoakArgs {
    /// For how long
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// After how many kills to end sooner
    #[arg(long)]
    kills: Option<u64>,
    /// Of what clients ask and when servers are killed; random if left out. It does not replay a run
    /// exactly: how far each process is when the kill comes is up to the machine
    #[arg(long)]
    seed: Option<u64>,
    /// Keep histories, journals, logs and stores here; else they are kept after a violation only
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Only these servers: `journalled`, `shipped` or `nodes`; all if left out
    #[arg(long, value_name = "KIND")]
    only: Vec<String>,
}

/// The step of `cargo xtask test`.
pub(crate) fn step(context: &Context) -> Result<Verdict> {
    tools::for_nodes();
    let mut soak = soak(context.release)?;
    soak.args(["--seconds", &STEP_SECONDS.to_string()]);
    if !kjob_test_postgres::is_installed() {
        println!("there is no PostgreSQL: no nodes over a database are tried");
        soak.args(["--only", "journalled", "--only", "shipped"]);
    }
    let mut note = String::new();
    let ok = process::run_watched(&mut soak, |line| {
        if line.ends_with("promises broken") {
            note = line.to_owned();
        }
    })?;
    Ok(Verdict::Ran {
        ok,
        counts: Counts::default(),
        note,
    })
}

/// `cargo xtask soak`: for longer, against an optimised server. Whether every promise was kept.
pub(crate) fn run(args: SoakArgs) -> Result<bool> {
    if args.only.is_empty() || args.only.iter().any(|kind| kind == NODES) {
        tools::for_nodes();
    }
    let mut soak = soak(true)?;
    soak.args(["--seconds", &args.minutes.saturating_mul(60).to_string()]);
    if let Some(kills) = args.kills {
        soak.args(["--kills", &kills.to_string()]);
    }
    if let Some(seed) = args.seed {
        soak.args(["--seed", &seed.to_string()]);
    }
    if let Some(keep) = args.keep {
        // Ours is another working directory than that of who typed it.
        soak.arg("--keep").arg(std::path::absolute(keep)?);
    }
    for kind in args.only {
        soak.args(["--only", &kind]);
    }
    process::run_watched(&mut soak, |_| {})
}

/// The program that kills, with the programs that it kills.
fn soak(release: bool) -> Result<Command> {
    let server = build::server(release)?;
    let trial_server = build::trial("trial-server", release)?;
    let soak = build::trial("soak", release)?;
    let mut command = Tool::At(soak).command();
    command.arg("run").arg("--server").arg(server);
    command.arg("--trial-server").arg(trial_server);
    Ok(command)
}
