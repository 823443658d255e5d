//! The fuzz targets: a smoke of each in `cargo xtask test`, longer runs by `cargo xtask fuzz`.
//!
//! Inputs that a run finds, crashes and logs go below the target directory. The seeds in
//! `fuzz/corpus` are read, never written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use crate::counts::Counts;
use crate::metadata::Workspace;
use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};
use crate::tools::CARGO_FUZZ;

const SMOKE_SECONDS: u32 = 10;
/// One input may take this long before it counts as a hang.
const INPUT_SECONDS_MAX: u32 = 10;

/// The step of `cargo xtask test`: each target for a short while.
pub(crate) fn smoke(context: &Context) -> Result<Verdict> {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return Ok(Verdict::Skipped(reason));
    }
    let fuzz = Fuzz::build(&context.workspace)?;
    let targets = fuzz.targets()?;
    let counts = fuzz.run_all(&targets, SMOKE_SECONDS);
    Ok(Verdict::Ran {
        ok: true,
        counts,
        note: format!("{} targets", targets.len()),
    })
}

/// `cargo xtask fuzz`: one target, or all, for longer. Whether nothing was found.
pub(crate) fn run(workspace: &Workspace, target: Option<&str>, seconds: u32) -> Result<bool> {
    if let Some(reason) = missing() {
        bail!("{reason}");
    }
    let fuzz = Fuzz::build(workspace)?;
    let mut targets = fuzz.targets()?;
    if let Some(target) = target {
        if !targets.iter().any(|name| name == target) {
            bail!("no fuzz target {target}; there are {}", targets.join(", "));
        }
        targets.retain(|name| name == target);
    }
    let counts = fuzz.run_all(&targets, seconds);
    Ok(counts.failed == 0)
}

/// Why fuzzing cannot work on this machine, if so.
pub(crate) fn missing() -> Option<String> {
    if process::output(Tool::Nightly("rustc".into()).command().arg("--version")).is_err() {
        return Some("there is no nightly toolchain (rustup toolchain install nightly)".to_owned());
    }
    // libFuzzer is C++, built from source with each target.
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if process::output(Command::new(&compiler).arg("--version")).is_err() {
        let name = compiler.to_string_lossy();
        return Some(format!(
            "there is no C++ compiler `{name}` (Debian: apt install g++)"
        ));
    }
    None
}

/// The built targets.
struct Fuzz {
    cargo_fuzz: PathBuf,
    /// The package of the targets.
    package: PathBuf,
    /// Where this module's files go.
    home: PathBuf,
    /// Where the built targets are.
    programs: PathBuf,
}

impl Fuzz {
    /// Builds all targets at once.
    fn build(workspace: &Workspace) -> Result<Self> {
        let cargo_fuzz = CARGO_FUZZ.ensure(workspace)?;
        let package = workspace.root.join("fuzz");
        let home = workspace.target.join("fuzz");
        let mut build = Tool::Nightly(cargo_fuzz.clone()).command();
        build
            .arg("build")
            .arg("--fuzz-dir")
            .arg(&package)
            .arg("--target-dir")
            .arg(&home);
        process::run(&mut build)?;
        let programs = home.join(host()?).join("release");
        Ok(Self {
            cargo_fuzz,
            package,
            home,
            programs,
        })
    }

    fn targets(&self) -> Result<Vec<String>> {
        let mut list = Tool::Nightly(self.cargo_fuzz.clone()).command();
        let text = process::output(list.arg("list").arg("--fuzz-dir").arg(&self.package))?;
        let targets: Vec<String> = text.lines().map(str::to_owned).collect();
        if targets.is_empty() {
            bail!("there are no fuzz targets in {}", self.package.display());
        }
        Ok(targets)
    }

    /// Runs them side by side, one for each processor, and tells of each as it ends.
    fn run_all(&self, targets: &[String], seconds: u32) -> Counts {
        let waiting = Mutex::new(targets.iter());
        let counts = Mutex::new(Counts::default());
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..processors.min(targets.len()) {
                scope.spawn(|| {
                    while let Some(target) = next(&waiting) {
                        let outcome = self.run_one(target, seconds);
                        let mut counts = counts
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner);
                        match outcome {
                            Ok(executions) => {
                                println!("ok     {target}: {executions} inputs in {seconds} s");
                                counts.passed += 1;
                            }
                            Err(error) => {
                                println!("FAILED {target}: {error:#}");
                                counts.failed += 1;
                                counts.failures.push(format!("{target}: {error:#}"));
                            }
                        }
                    }
                });
            }
        });
        counts
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns how many inputs were tried.
    fn run_one(&self, target: &str, seconds: u32) -> Result<u64> {
        let found = self.directory("corpus", target)?;
        let crashes = self.directory("artifacts", target)?;
        let log = self.directory("logs", target)?.join("log");
        let seeds = self.package.join("corpus").join(target);

        let mut command = Tool::At(self.programs.join(target)).command();
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        // It is a prefix, not a directory: the slash is part of it.
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        command.arg("-print_final_stats=1");
        // New inputs go to the first directory only.
        command.arg(found).args(seeds.is_dir().then_some(seeds));
        command
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);

        let status = command
            .status()
            .with_context(|| format!("could not start {}", process::shown(&command)))?;
        let said = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())?;
        if !status.success() {
            let lines: Vec<&str> = said.lines().collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            bail!(
                "{status}; the input is in {}, the log in {}\n{end}",
                crashes.display(),
                log.display()
            );
        }
        executions(&said).context("the log has no count of inputs")
    }

    fn directory(&self, kind: &str, target: &str) -> Result<PathBuf> {
        let directory = self.home.join(kind).join(target);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(directory)
    }
}

fn next<'a>(waiting: &Mutex<impl Iterator<Item = &'a String>>) -> Option<&'a String> {
    waiting
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .next()
}

/// The triple that cargo-fuzz builds for, which is in the path of what it builds.
fn host() -> Result<String> {
    let version = process::output(
        Tool::Nightly(Path::new("rustc").into())
            .command()
            .arg("-vV"),
    )?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its host")?.to_owned())
}

fn executions(log: &str) -> Option<u64> {
    let line = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_counted_by_how_they_end() {
        let home = std::env::temp_dir().join(format!("kjob-xtask-fuzz-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        let fuzz = Fuzz {
            cargo_fuzz: "unused".into(),
            package: home.join("package"),
            home: home.clone(),
            programs: home.clone(),
        };
        // Written by another process: a program that we hold open for writing, or that a child
        // forked at that moment by another test holds, cannot be started.
        let program = |name: &str, script: &str| {
            let write = "echo '#!/bin/sh' > $1; echo \"$2\" >> $1; chmod +x $1";
            let path = home.join(name);
            process::run(
                Command::new("sh")
                    .args(["-c", write, "sh"])
                    .arg(path)
                    .arg(script),
            )
            .unwrap();
            name.to_owned()
        };
        let good = program("good", "echo stat::number_of_executed_units: 7 >&2");
        let bad = program("bad", "echo found it >&2; exit 77");
        let silent = program("silent", "true");

        let error = fuzz.run_one(&bad, 1).unwrap_err().to_string();
        assert!(
            error.contains("77") && error.ends_with("found it"),
            "{error}"
        );
        assert!(fuzz.run_one(&silent, 1).is_err(), "it may have run nothing");
        assert_eq!(fuzz.run_one(&good, 1).unwrap(), 7);
        let counts = fuzz.run_all(&[good, bad.clone(), silent], 1);
        assert_eq!((counts.passed, counts.failed, counts.ignored), (1, 2, 0));
        assert_eq!(counts.failures.len(), 2);
        let named = |failure: &String| failure.starts_with(&bad);
        assert!(counts.failures.iter().any(named), "{counts:?}");
        fs::remove_dir_all(&home).unwrap();
    }

    #[test]
    fn the_count_of_inputs_is_read_from_the_log() {
        let log = "Done 1202 runs in 31 second(s)\nstat::number_of_executed_units: 1202\nstat::peak_rss_mb: 80\n";
        assert_eq!(executions(log), Some(1202));
        assert_eq!(executions("INFO: nothing\n"), None);
    }
}
