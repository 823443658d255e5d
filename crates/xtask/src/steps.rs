//! The steps of `cargo xtask test`, in their order.

use std::num::NonZero;
use std::process::Command;

use anyhow::{Result, bail};

use crate::counts::Counts;
use crate::metadata::Workspace;
use crate::process::{self, Tool};
use crate::{
    acceptance, book, build, console, features, fuzz, instructions, package, promtool, siege, soak,
    tools, unsafe_notes,
};

/// All steps. Cheap ones stand first, so that a slip shows at once.
pub(crate) const STEPS: [Step; 18] = [
    Step {
        name: "fmt",
        about: "formatting is rustfmt's",
        run: fmt,
    },
    Step {
        name: "clippy",
        about: "all targets and features, warnings denied",
        run: clippy,
    },
    Step {
        name: "test",
        about: "all unit and integration tests",
        run: test,
    },
    Step {
        name: "doctest",
        about: "all examples in documentation",
        run: doctest,
    },
    Step {
        name: "features",
        about: "each public crate with no, each, and all of its features",
        run: features::run,
    },
    Step {
        name: "deny",
        about: "dependencies: duplicates, licences, sources",
        run: deny,
    },
    Step {
        name: "unsafe",
        about: "notes on the unsafe code of what kjob-proto and kjob-core depend on",
        run: unsafe_notes::run,
    },
    Step {
        name: "doc",
        about: "documentation builds, warnings denied",
        run: doc,
    },
    Step {
        name: "instructions",
        about: "instructions of the codecs, as many as were accepted",
        run: instructions::step,
    },
    Step {
        name: "models",
        about: "all states of the lease protocol",
        run: models,
    },
    Step {
        name: "metrics",
        about: "metrics, alerts and the dashboard, held against Prometheus",
        run: promtool::step,
    },
    Step {
        name: "acceptance",
        about: "the official clients against the real server",
        run: acceptance::run,
    },
    Step {
        name: "book",
        about: "links, commands and configs of the documentation",
        run: book::step,
    },
    Step {
        name: "console",
        about: "the console in a real browser, in front of the real server",
        run: console::step,
    },
    Step {
        name: "package",
        about: "Debian packages, installed, tried and purged",
        run: package::step,
    },
    Step {
        name: "siege",
        about: "the real server under load and bad input, in short",
        run: siege::step,
    },
    Step {
        name: "soak",
        about: "two minutes of killing the real server while clients work",
        run: soak::step,
    },
    Step {
        name: "fuzz",
        about: "each fuzz target for a short while (nightly)",
        run: fuzz::smoke,
    },
];

/// Packages that are no part of the workspace, each with a lock file of its own.
const OUTSIDE: [&str; 3] = ["conformance", "fuzz", "models"];

/// One step.
pub(crate) struct Step {
    /// The word for `--only` and `--skip`.
    pub(crate) name: &'static str,
    /// What it checks, in a few words.
    pub(crate) about: &'static str,
    /// Runs it. An error is a failure, as is a report that is not `ok`.
    pub(crate) run: fn(&Context) -> Result<Verdict>,
}

/// What steps may depend on.
pub(crate) struct Context {
    /// The workspace that is tested.
    pub(crate) workspace: Workspace,
    /// Whether the steps that run the server build it with optimisations.
    pub(crate) release: bool,
}

/// How a step ended.
pub(crate) enum Verdict {
    /// It ran to its end.
    Ran {
        /// Whether all was well.
        ok: bool,
        /// The tests in it, if it has any.
        counts: Counts,
        /// For the summary; may be empty.
        note: String,
    },
    /// It could not run on this machine, for this reason.
    Skipped(String),
}

impl Verdict {
    /// A step without tests of its own that went well.
    pub(crate) fn passed(note: impl Into<String>) -> Self {
        Verdict::Ran {
            ok: true,
            counts: Counts::default(),
            note: note.into(),
        }
    }
}

/// The names of all steps.
pub(crate) fn names() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).collect()
}

fn fmt(context: &Context) -> Result<Verdict> {
    let mut differing = 0;
    for name in [""].into_iter().chain(OUTSIDE) {
        let mut command = Tool::Cargo.command();
        command
            .args(["fmt", "--manifest-path"])
            .arg(context.workspace.root.join(name).join("Cargo.toml"));
        if name.is_empty() {
            command.arg("--all");
        }
        // Names only: `cargo fmt` shows the rest by doing it.
        let ok = process::run_watched(command.args(["--", "--check", "-l"]), |_| differing += 1)?;
        if !ok && differing == 0 {
            bail!("{} failed", process::shown(&command));
        }
    }
    let note = if differing > 0 {
        format!("{differing} files differ")
    } else {
        String::new()
    };
    Ok(Verdict::Ran {
        ok: differing == 0,
        counts: Counts::default(),
        note,
    })
}

fn clippy(context: &Context) -> Result<Verdict> {
    let deny_warnings = ["--", "-D", "warnings"];
    let targets = ["--all-targets", "--all-features"];
    process::run(
        Tool::Cargo
            .command()
            .args(["clippy", "--workspace"])
            .args(targets)
            .args(deny_warnings),
    )?;
    for package in ["conformance", "models"] {
        let mut outside = build::outside(&context.workspace, package, "clippy");
        process::run(outside.args(targets).args(deny_warnings))?;
    }
    Ok(Verdict::passed(""))
}

fn test(_: &Context) -> Result<Verdict> {
    // One server for all tests, and not one for each program of them.
    let cluster = tools::postgres()?;
    // As programs, which tests run: `cargo test --examples` would build the tests in them.
    let examples = ["build", "--workspace", "--all-features", "--examples"];
    process::run(Tool::Cargo.command().args(examples))?;
    // Not --all-targets, which would run the benches too.
    let kinds = ["--lib", "--bins", "--tests"];
    let mut test = Tool::Cargo.command();
    test.args(["test", "--workspace", "--all-features", "--no-fail-fast"])
        .args(kinds)
        .env(kjob_test_postgres::URL_VARIABLE, cluster.url());
    if std::env::var_os(THREADS_VARIABLE).is_none() {
        test.env(THREADS_VARIABLE, test_threads().to_string());
    }
    cargo_test(&mut test)
}

/// How many tests of a program run at a time.
const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";

/// Twice as many as there are processors, as most tests of whole programs wait: for leases, for disks, for each
/// other.
fn test_threads() -> usize {
    2 * std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn models(context: &Context) -> Result<Verdict> {
    let mut test = build::outside(&context.workspace, "models", "test");
    test.args(["--", "--nocapture"]);
    let (mut counts, mut states) = (Counts::default(), Vec::new());
    let ok = process::run_watched(&mut test, |line| {
        counts.add_cargo_line(line);
        if line.contains(" states, ") {
            states.push(line.to_owned());
        }
    })?;
    Ok(Verdict::Ran {
        ok,
        counts,
        note: states.join("; "),
    })
}

fn doctest(_: &Context) -> Result<Verdict> {
    cargo_test(Tool::Cargo.command().args([
        "test",
        "--workspace",
        "--all-features",
        "--no-fail-fast",
        "--doc",
    ]))
}

fn deny(context: &Context) -> Result<Verdict> {
    let cargo_deny = Tool::At(tools::CARGO_DENY.ensure(&context.workspace)?);
    // Not advisories: their list is on the network, and changes while the code does not.
    process::run(
        cargo_deny
            .command()
            .args(["check", "-D", "warnings", "bans", "licenses", "sources"]),
    )?;
    let root = &context.workspace.root;
    for name in OUTSIDE {
        let mut outside = cargo_deny.command();
        outside
            .args(["--locked", "--manifest-path"])
            .arg(root.join(name).join("Cargo.toml"))
            .arg("--config")
            .arg(root.join("deny.toml"))
            // Nothing of these is given away, so that licences and duplicates are nobody's matter; but it is
            // run on the same machines.
            .args(["check", "-D", "warnings", "sources"]);
        process::run(&mut outside)?;
    }
    Ok(Verdict::passed(""))
}

/// Looks for known holes in the dependencies. Needs the network.
pub(crate) fn advisories(workspace: &Workspace) -> Result<()> {
    let cargo_deny = tools::CARGO_DENY.ensure(workspace)?;
    let arguments = ["check", "-D", "warnings", "advisories"];
    process::run(Tool::At(cargo_deny).command().args(arguments))
}

fn doc(_: &Context) -> Result<Verdict> {
    let mut command = Tool::Cargo.command();
    command
        .args(["doc", "--workspace", "--all-features", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    process::run(&mut command)?;
    Ok(Verdict::passed(""))
}

fn cargo_test(command: &mut Command) -> Result<Verdict> {
    let mut counts = Counts::default();
    let ok = process::run_watched(command, |line| counts.add_cargo_line(line))?;
    Ok(Verdict::Ran {
        ok,
        counts,
        note: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// One that is not in the list would be neither formatted nor looked at.
    #[test]
    fn whatever_has_a_lock_file_of_its_own_is_known() {
        let entries = fs::read_dir(process::root()).unwrap();
        let mut found: Vec<String> = entries
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().join("Cargo.lock").is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, OUTSIDE);
    }
}
