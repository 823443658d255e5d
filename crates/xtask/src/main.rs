//! Developer commands: `cargo xtask test` is all that a change has to pass.
//!
//! Everything that is installed or built goes below the target directory.

// These commands talk to a person at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod acceptance;
mod bench;
mod book;
mod build;
mod console;
mod counts;
mod debian;
mod features;
mod fuzz;
mod instructions;
mod metadata;
mod npm;
mod package;
mod picture;
mod process;
mod promtool;
mod release;
mod runner;
mod served;
mod siege;
mod simulate;
mod soak;
mod steps;
mod tools;
mod unsafe_notes;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::metadata::Workspace;

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    about = "Developer commands of kjob",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check and test, with a summary at the end
    Test(TestArgs),
    /// Install what `test` and `fuzz` need, below the target directory
    Setup,
    /// Look for known holes in the dependencies, in a list that is fetched anew
    Advisories,
    /// Build Debian packages of the server and of the client, optimised
    Package,
    /// Write a bill of materials of each program
    Sbom,
    /// Hold the public API against that of the last release
    Semver(SemverArgs),
    /// Make the pictures of the console in the documentation anew
    Screenshots,
    /// Make pages for browsers of the documentation, below the target directory
    Book,
    /// Write the pages of the documentation anew that come from the code
    Reference,
    /// Play the session of the README's moving picture, and draw it anew
    Picture,
    /// Fuzz one target, or each in turn
    Fuzz(FuzzArgs),
    /// Count the instructions of the codecs, beside the counts that were accepted
    Instructions(instructions::InstructionsArgs),
    /// Measure an optimised server beside its floors and its peers, and print a table
    Bench(bench::BenchArgs),
    /// Besiege an optimised server with load and bad input, and print how it stood
    Siege(siege::SiegeArgs),
    /// Kill servers while clients work, and check what clients were told
    Soak(soak::SoakArgs),
    /// Simulate the engine under trouble: many seeds, or one to look at
    Simulate(simulate::SimulateArgs),
}

#[derive(Args)]
struct TestArgs {
    /// Run only this step (may be repeated)
    #[arg(long, value_name = "STEP", value_parser = steps::names())]
    only: Vec<String>,
    /// Leave this step out (may be repeated)
    #[arg(long, value_name = "STEP", value_parser = steps::names())]
    skip: Vec<String>,
    /// List the steps and stop
    #[arg(long)]
    list: bool,
    /// Hold the official clients against a release build of the server, and kill that
    #[arg(long)]
    release: bool,
}

#[derive(Args)]
struct SemverArgs {
    /// A commit, branch or tag; the tag of the last release if left out
    #[arg(long, value_name = "COMMIT")]
    against: Option<String>,
}

#[derive(Args)]
struct FuzzArgs {
    /// A target in fuzz/fuzz_targets; all of them if left out
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

impl Command {
    /// Whether all went well; an error is what kept the command from finding out.
    fn run(self) -> Result<bool> {
        match self {
            Command::Test(args) if args.list => {
                for step in &steps::STEPS {
                    println!("{:<12} {}", step.name, step.about);
                }
                Ok(true)
            }
            Command::Test(args) => {
                let context = steps::Context {
                    workspace: Workspace::load()?,
                    release: args.release,
                };
                Ok(runner::run(&context, &args.only, &args.skip))
            }
            Command::Advisories => steps::advisories(&Workspace::load()?).map(|()| true),
            Command::Package => package::run(&Workspace::load()?).map(|()| true),
            Command::Sbom => release::sbom(&Workspace::load()?).map(|()| true),
            Command::Semver(args) => release::semver(&Workspace::load()?, args.against),
            Command::Setup => tools::install_all(&Workspace::load()?).map(|()| true),
            Command::Book => book::site(&Workspace::load()?).map(|()| true),
            Command::Reference => book::write_reference(&Workspace::load()?).map(|()| true),
            Command::Picture => picture::draw(&Workspace::load()?).map(|()| true),
            Command::Screenshots => console::screenshots(&Workspace::load()?),
            Command::Instructions(args) => instructions::run(&Workspace::load()?, &args),
            Command::Bench(args) => bench::run(&args, &Workspace::load()?),
            Command::Siege(args) => siege::run(&args),
            Command::Soak(args) => soak::run(args),
            Command::Fuzz(args) => {
                fuzz::run(&Workspace::load()?, args.target.as_deref(), args.seconds)
            }
            Command::Simulate(args) => simulate::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_step_is_refused_by_name() {
        let Err(error) = Cli::try_parse_from(["xtask", "test", "--only", "clipy"]) else {
            panic!("no such step");
        };
        assert!(error.to_string().contains("clippy"), "{error}");
    }
}
