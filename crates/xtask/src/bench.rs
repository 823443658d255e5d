//! The whole server beside its floors and its peers: `benches/load` has what is run here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::build;
use crate::debian::{self, Packaged, packaged};
use crate::metadata::Workspace;
use crate::npm;
use crate::process::{self, Tool};
use crate::tools;

/// Rounds and seconds where nothing is told.
const WHOLE: (usize, f64) = (3, 5.0);

/// The same for a first look.
const QUICK: (usize, f64) = (1, 2.0);

/// The programs of peers that systems have packages of.
const PROGRAMS: [Packaged; 6] = [
    packaged("beanstalkd", "beanstalkd"),
    packaged("gearmand", "gearman-job-server"),
    packaged("redis-server", "redis-server"),
    packaged("psql", "postgresql"),
    packaged("node", "nodejs"),
    packaged("npm", "npm"),
];

/// Those that have packages of Node, below `benches/peers`.
const ON_NODE: [&str; 3] = ["bullmq", "graphile-worker", "pg-boss"];

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// One round of two seconds each, for a first look
    #[arg(long)]
    quick: bool,
    /// How often each is measured; 3 if left out
    #[arg(long)]
    rounds: Option<usize>,
    /// For how many seconds each time; 5 if left out
    #[arg(long)]
    seconds: Option<f64>,
    /// With how many connections, where that is varied; 1, 32 and 256 if left out
    #[arg(long, value_name = "N", value_delimiter = ',')]
    connections: Vec<usize>,
    /// Only this scenario, or this peer (may be repeated); `kjob` stands for no peers, and a wrong name
    /// lists all
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Measure kjob on a store with so many jobs that are done
    #[arg(long, value_name = "N")]
    stored: Option<u64>,
    /// Measure kjob on a store with so many jobs that wait
    #[arg(long, value_name = "N")]
    queued: Option<u64>,
    /// Write the table here as well
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw what is measured beside peers, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// `cargo xtask bench`. Whether kjob could be measured.
pub(crate) fn run(args: &BenchArgs, workspace: &Workspace) -> Result<bool> {
    let peers = workspace.target.join("bench-peers");
    install(workspace, &peers)?;
    let server = build::server(true)?;
    let mut command = Tool::At(build::load()?).command();
    command.arg("run").arg("--server").arg(server);
    // Data are on the disk that all else is built on: what is durable has to be, and the system's own
    // place for temporary files may be in memory.
    command.arg("--home").arg(workspace.target.join("bench"));
    command.arg("--peers").arg(peers);
    let (rounds, seconds) = if args.quick { QUICK } else { WHOLE };
    let rounds = args.rounds.unwrap_or(rounds);
    let seconds = args.seconds.unwrap_or(seconds);
    command.args(["--rounds", &rounds.to_string()]);
    command.args(["--seconds", &seconds.to_string()]);
    for (flag, count) in [("--stored", args.stored), ("--queued", args.queued)] {
        if let Some(count) = count {
            command.args([flag, &count.to_string()]);
        }
    }
    for count in &args.connections {
        command.args(["--connections", &count.to_string()]);
    }
    for name in &args.only {
        command.args(["--only", name]);
    }
    for (flag, file) in [("--markdown", &args.markdown), ("--plot", &args.plot)] {
        if let Some(file) = file {
            // Ours is another working directory than that of who typed it.
            command.arg(flag).arg(std::path::absolute(file)?);
        }
    }
    process::run_watched(&mut command, |_| {})
}

/// Installs what can be of what peers need; what cannot be is said, and the peer is left out.
fn install(workspace: &Workspace, peers: &Path) -> Result<()> {
    debian::ensure(&PROGRAMS);
    let sources = workspace.root.join("benches/peers");
    std::fs::create_dir_all(peers)?;
    std::fs::copy(sources.join("lanes.mjs"), peers.join("lanes.mjs"))?;
    for peer in ON_NODE {
        let home = peers.join(peer);
        let installed = copy(&sources.join(peer), &home).and_then(|()| npm::install(&home));
        if let Err(error) = installed {
            println!("{peer} is left out: {error:#}");
        }
    }
    let installed = tools::RQ.ensure(workspace, "python");
    if let Err(error) = installed.and_then(|_| copy(&sources.join("rq"), &peers.join("rq/scripts")))
    {
        println!("rq is left out: {error:#}");
    }
    Ok(())
}

/// Copies files, for programs that leave others beside them.
fn copy(source: &Path, home: &Path) -> Result<()> {
    std::fs::create_dir_all(home)?;
    for entry in std::fs::read_dir(source).with_context(|| source.display().to_string())? {
        let entry = entry?;
        std::fs::copy(entry.path(), home.join(entry.file_name()))?;
    }
    Ok(())
}
