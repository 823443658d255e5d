//! The siege: the real server under load and bad input, with honest clients beside it.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::build;
use crate::counts::Counts;
use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};

/// Seconds of each attack of the short siege.
const SHORT_SECONDS: u64 = 1;

/// Mutated requests of the short siege, of each attack that makes them.
const SHORT_REQUESTS: u64 = 4_000;

#[derive(Args)]
pub(crate) struct SiegeArgs {
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
    /// Make only this attack (may be repeated); a wrong name lists all
    #[arg(long, value_name = "ATTACK")]
    only: Vec<String>,
}

/// `cargo xtask siege`: all attacks on an optimised server. Whether it stood.
pub(crate) fn run(args: &SiegeArgs) -> Result<bool> {
    process::run_watched(&mut args.command(true)?, |_| {})
}

/// A short siege of the server as it was built for other steps: all attacks. Each counts as a test.
pub(crate) fn step(context: &Context) -> Result<Verdict> {
    let args = SiegeArgs {
        seconds: SHORT_SECONDS,
        requests: SHORT_REQUESTS,
        seed: 1,
        short: true,
        judge_latency: false,
        only: Vec::new(),
    };
    let mut rows = Vec::new();
    let ok = process::run_watched(&mut args.command(context.release)?, |line| {
        rows.extend(verdict(line));
    })?;
    let fell = rows.iter().filter_map(|stood| stood.clone().err());
    let failures: Vec<String> = fell.collect();
    let counts = Counts {
        passed: u32::try_from(rows.len() - failures.len())?,
        failed: u32::try_from(failures.len())?,
        ignored: 0,
        failures,
    };
    Ok(Verdict::Ran {
        ok,
        counts,
        note: format!("{} attacks", rows.len()),
    })
}

/// Whether the server stood, or how it fell, by the line that is printed after each attack.
fn verdict(line: &str) -> Option<Result<(), String>> {
    if line.starts_with("stood: ") {
        Some(Ok(()))
    } else {
        line.strip_prefix("FELL: ").map(|how| Err(how.to_owned()))
    }
}

impl SiegeArgs {
    fn command(&self, release: bool) -> Result<Command> {
        let server = build::server(release)?;
        let mut command = Tool::At(build::trial("siege", release)?).command();
        command.arg("--server").arg(server);
        command.args(["--seconds", &self.seconds.to_string()]);
        command.args(["--requests", &self.requests.to_string()]);
        command.args(["--seed", &self.seed.to_string()]);
        command.args(self.short.then_some("--short"));
        command.args(self.judge_latency.then_some("--judge-latency"));
        for name in &self.only {
            command.args(["--only", name]);
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_from_their_lines() {
        assert_eq!(verdict("stood: idle"), Some(Ok(())));
        assert_eq!(verdict("FELL: idle"), Some(Err("idle".to_owned())));
        assert_eq!(verdict("| idle | 10000 connections |"), None);
    }
}
