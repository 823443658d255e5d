//! How many instructions the codecs take, counted by callgrind and held against the counts in
//! `benches/instructions.toml`.
//!
//! Unlike times, counts do not depend on what else the machine does; but they do on the compiler and on the
//! processor. So the file tells with what it was counted, and says nothing about anything else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::counts::Counts;
use crate::metadata::Workspace;
use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};
use crate::{build, tools};

const ACCEPTED: &str = "benches/instructions.toml";

/// The program with the cases, and the function in it that is counted.
const PROGRAM: &str = "instructions";
const COUNTED: &str = "*instructions::counted*";

/// A case may take so many per cent more than was accepted. Another build of the same code differs by less.
const MORE_MAX_PERCENT: u64 = 5;

const HOW_TO_ACCEPT: &str = "`cargo xtask instructions --accept` writes the new counts";

#[derive(Args)]
pub(crate) struct InstructionsArgs {
    /// Accept what is counted now: write it to benches/instructions.toml
    #[arg(long)]
    accept: bool,
}

/// What was accepted.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    /// What it was counted with.
    with: With,
    /// Instructions of each case.
    counts: BTreeMap<String, u64>,
}

/// What counts depend on, beside the code.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct With {
    /// The compiler, as it names itself.
    rustc: String,
    /// The triple that it builds for.
    target: String,
    /// The widest vectors that callgrind shows to programs.
    vectors: String,
}

/// The step of `cargo xtask test`.
pub(crate) fn step(context: &Context) -> Result<Verdict> {
    let path = context.workspace.root.join(ACCEPTED);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let accepted: Accepted = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let with = With::here()?;
    let reason = accepted
        .with
        .differs(&with)
        .or_else(tools::missing_valgrind);
    if let Some(reason) = reason {
        println!("skipped: {reason}");
        return Ok(Verdict::Skipped(reason));
    }
    let found = count_all(&context.workspace)?;
    let problems = compare(&accepted.counts, &found);
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        println!("If that is as it should be, {HOW_TO_ACCEPT}.");
    }
    let failed = problems.len() as u32;
    Ok(Verdict::Ran {
        ok: failed == 0,
        counts: Counts {
            passed: (found.len() as u32).saturating_sub(failed),
            failed,
            ignored: 0,
            failures: problems,
        },
        note: format!("{} cases", found.len()),
    })
}

/// `cargo xtask instructions`: shows what is counted beside what was accepted. Whether that is well, or accepted now.
pub(crate) fn run(workspace: &Workspace, args: &InstructionsArgs) -> Result<bool> {
    if let Some(reason) = tools::missing_valgrind() {
        bail!("{reason}");
    }
    let path = workspace.root.join(ACCEPTED);
    // There may be none yet, or one of another form.
    let accepted = fs::read_to_string(&path)
        .ok()
        .and_then(|text| toml::from_str::<Accepted>(&text).ok());
    let with = With::here()?;
    let found = count_all(workspace)?;
    let before = accepted.as_ref().map(|accepted| &accepted.counts);
    for (name, count) in &found {
        let change = before
            .and_then(|before| before.get(name))
            .map_or_else(|| "new".to_owned(), |before| change(*before, *count));
        println!("{name:<34} {count:>12} {change:>9}");
    }
    if args.accept {
        let accepted = Accepted {
            with,
            counts: found,
        };
        fs::write(&path, accepted.to_text()?).with_context(|| path.display().to_string())?;
        println!("written to {ACCEPTED}");
        return Ok(true);
    }
    let Some(accepted) = accepted else {
        bail!("there is nothing to compare with; {HOW_TO_ACCEPT}");
    };
    if let Some(reason) = accepted.with.differs(&with) {
        bail!("{reason}");
    }
    let problems = compare(&accepted.counts, &found);
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(problems.is_empty())
}

impl Accepted {
    fn to_text(&self) -> Result<String> {
        let head = "# Instructions that each case of benches/instructions.rs takes, as callgrind counts them.\n\
            # `cargo xtask instructions --accept` writes this file; docs/testing.md says when to.\n\n";
        Ok(format!("{head}{}", toml::to_string(self)?))
    }
}

impl With {
    fn here() -> Result<Self> {
        let said = process::output(Tool::At("rustc".into()).command().arg("-vV"))?;
        let target = said.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self {
            rustc: said.lines().next().unwrap_or_default().to_owned(),
            target: target.context("rustc does not tell its host")?.to_owned(),
            vectors: vectors().to_owned(),
        })
    }

    /// Why counts made with the one cannot be held against counts made with the other.
    fn differs(&self, other: &Self) -> Option<String> {
        [
            (&self.rustc, &other.rustc),
            (&self.target, &other.target),
            (&self.vectors, &other.vectors),
        ]
        .into_iter()
        .find(|(accepted, here)| accepted != here)
        .map(|(accepted, here)| format!("{ACCEPTED} is of {accepted}, and here is {here}"))
    }
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    // Callgrind knows of none beyond, and hides them.
    if std::arch::is_x86_feature_detected!("avx2") {
        "avx2"
    } else {
        "sse"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    "those of every such processor"
}

/// Builds the program and counts each of its cases.
fn count_all(workspace: &Workspace) -> Result<BTreeMap<String, u64>> {
    let program = build::counted(PROGRAM)?;
    let names = process::output(&mut Command::new(&program))?;
    let out = workspace.target.join("instructions.callgrind");
    let count = |name: &str| {
        let count = count_one(&program, name, &out).with_context(|| format!("case {name:?}"))?;
        Ok((name.to_owned(), count))
    };
    names.lines().map(count).collect()
}

fn count_one(program: &Path, name: &str, out: &PathBuf) -> Result<u64> {
    let mut callgrind = Tool::At("valgrind".into()).command();
    callgrind
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(name);
    process::output(&mut callgrind)?;
    let profile = fs::read_to_string(out).with_context(|| out.display().to_string())?;
    // None at all is what comes of a function that callgrind does not find.
    match total(&profile) {
        Some(count) if count > 0 => Ok(count),
        _ => bail!("callgrind counted nothing in {COUNTED}"),
    }
}

/// The count in a profile of callgrind.
fn total(profile: &str) -> Option<u64> {
    let line = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals:"));
    line?.trim().parse().ok()
}

/// What is not as accepted, each a line. That something takes less is told as well: else it could grow back unseen.
fn compare(accepted: &BTreeMap<String, u64>, found: &BTreeMap<String, u64>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, count) in found {
        match accepted.get(name) {
            None => problems.push(format!("{name}: {count} instructions, and none accepted")),
            Some(before) if is_more(*before, *count) => problems.push(format!(
                "{name}: {count} instructions, {before} were accepted ({})",
                change(*before, *count)
            )),
            Some(before) if is_more(*count, *before) => problems.push(format!(
                "{name}: {count} instructions, {before} were accepted ({}); keep that",
                change(*before, *count)
            )),
            Some(_) => {}
        }
    }
    let gone = accepted.keys().filter(|name| !found.contains_key(*name));
    problems.extend(gone.map(|name| format!("{name}: accepted, and no longer a case")));
    problems
}

/// Whether the second is too much more than the first.
fn is_more(before: u64, count: u64) -> bool {
    count * 100 > before * (100 + MORE_MAX_PERCENT)
}

fn change(before: u64, count: u64) -> String {
    let percent = 100.0 * (count as f64 / before as f64 - 1.0);
    format!("{percent:+.1} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
        all.iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn five_per_cent_are_well_and_no_more() {
        let accepted = counts(&[("a", 1000), ("b", 1000)]);
        let found = counts(&[("a", 1050), ("b", 953)]);
        assert_eq!(compare(&accepted, &found), [""; 0]);
        let found = counts(&[("a", 1051), ("b", 952)]);
        assert_eq!(
            compare(&accepted, &found),
            [
                "a: 1051 instructions, 1000 were accepted (+5.1 %)",
                "b: 952 instructions, 1000 were accepted (-4.8 %); keep that",
            ]
        );
    }

    #[test]
    fn cases_come_and_go_with_their_counts() {
        assert_eq!(
            compare(&counts(&[("old", 7)]), &counts(&[("new", 8)])),
            [
                "new: 8 instructions, and none accepted",
                "old: accepted, and no longer a case",
            ]
        );
    }

    #[test]
    fn counts_of_another_compiler_say_nothing() {
        let with = |rustc: &str| With {
            rustc: rustc.to_owned(),
            target: "t".to_owned(),
            vectors: "v".to_owned(),
        };
        assert_eq!(with("rustc 1").differs(&with("rustc 1")), None);
        assert_eq!(
            with("rustc 1").differs(&with("rustc 2")).unwrap(),
            "benches/instructions.toml is of rustc 1, and here is rustc 2"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let accepted = Accepted {
            with: With {
                rustc: "rustc 1".to_owned(),
                target: "t".to_owned(),
                vectors: "v".to_owned(),
            },
            counts: counts(&[("decode a", 7)]),
        };
        let text = accepted.to_text().unwrap();
        assert_eq!(toml::from_str::<Accepted>(&text).unwrap(), accepted);
    }

    #[test]
    fn the_total_is_read_from_a_profile() {
        assert_eq!(total("events: Ir\nfn=x\n1 7\n\ntotals: 1716\n"), Some(1716));
        assert_eq!(total("events: Ir\n"), None);
    }
}
