//! `cargo xtask simulate`: more seeds of the engine's simulation than `cargo xtask test` runs, or
//! one of them to look at.

use anyhow::Result;
use clap::Args;

use crate::process::{self, Tool};

#[derive(Args)]
pub(crate) struct SimulateArgs {
    /// Replay this seed only
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "first", "counts"])]
    seed: Option<u64>,
    /// Print everything that happens
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run this many seeds
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    seeds: u64,
    /// Begin with this seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// Print how often each kind of event happened
    #[arg(long)]
    counts: bool,
}

/// Whether nothing was found.
pub(crate) fn run(args: &SimulateArgs) -> Result<bool> {
    let mut command = Tool::Cargo.command();
    command.args(["test", "--quiet", "--package", "kjob-core"]);
    command.args(["--test", "simulation", "--", "--nocapture"]);
    // The one test of the two that takes seeds.
    command.args(["--exact", "what_was_told_is_true_whatever_happens"]);
    for (variable, value) in args.variables() {
        command.env(variable, value);
    }
    process::run_watched(&mut command, |_| {})
}

impl SimulateArgs {
    /// How the test is told.
    fn variables(&self) -> Vec<(&'static str, String)> {
        let flag = |on: bool, name| on.then(|| (name, "1".to_owned()));
        let mut variables = match self.seed {
            Some(seed) => vec![("KJOB_SEED", seed.to_string())],
            None => vec![
                ("KJOB_FIRST_SEED", self.first.to_string()),
                ("KJOB_SEEDS", self.seeds.to_string()),
            ],
        };
        variables.extend(flag(self.trace, "KJOB_TRACE"));
        variables.extend(flag(self.counts, "KJOB_COUNTS"));
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn told(line: &str) -> String {
        let words = std::iter::once("simulate").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap();
        let variables = cli.args.variables().into_iter();
        let variables: Vec<_> = variables
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        variables.join(" ")
    }

    #[test]
    fn arguments_become_what_the_test_reads() {
        assert_eq!(told("--seed 7 --trace"), "KJOB_SEED=7 KJOB_TRACE=1");
        assert_eq!(told(""), "KJOB_FIRST_SEED=0 KJOB_SEEDS=20000");
        assert_eq!(
            told("--first 5 --seeds 9 --counts"),
            "KJOB_FIRST_SEED=5 KJOB_SEEDS=9 KJOB_COUNTS=1"
        );
        assert!(
            Cli::try_parse_from(["simulate", "--trace"]).is_err(),
            "of which seed?"
        );
    }
}
