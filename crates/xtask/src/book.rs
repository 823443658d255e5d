//! The documentation: its links, its commands and its configs, held against the tree and the programs.

mod help;
mod links;
mod markdown;
mod shell;
mod site;
mod transcript;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use kjob_test_certificates::Authority;

use crate::build;
use crate::counts::Counts;
use crate::debian::{self, packaged};
use crate::steps::{Context, Verdict};

pub(crate) use help::write as write_reference;
pub(crate) use site::build as site;

use markdown::{Block, Item};
use shell::Shell;

/// The step of `cargo xtask test`. Each link, command, config and page of help counts as a test.
pub(crate) fn step(context: &Context) -> Result<Verdict> {
    debian::ensure(&[
        packaged("curl", "curl"),
        packaged("openssl", "openssl"),
        packaged("python3", "python3"),
    ]);
    let root = &context.workspace.root;
    let programs = build::both_programs(context.release)?;
    let scratch = context.workspace.target.join("book-test");
    let pages = links::pages(root)?;
    let mut found = Findings::default();

    let (dead, links) = links::check(root, &pages)?;
    found.counts.passed += links - dead.len() as u32;
    for link in dead {
        found.bad(link);
    }
    for page in not_in_summary(root, &pages)? {
        found.bad(format!("docs/SUMMARY.md: {page} is not in it"));
    }
    for stale in help::stale(root, &programs)? {
        found.bad(format!(
            "{stale} is not what the programs say: cargo xtask reference"
        ));
    }
    check_configs(root, &pages, &programs, &scratch, &mut found)?;
    check_code(root, &pages, &mut found)?;
    let mut commands = 0;
    for page in &pages {
        // The directory is called as the page, as readers are told to call theirs.
        let home = scratch.join(page.file_stem().unwrap_or_default());
        commands += run_page(root, page, &programs, &home, &mut found)?;
    }
    Ok(Verdict::Ran {
        ok: found.counts.failed == 0,
        counts: found.counts,
        note: format!("{links} links, {commands} commands"),
    })
}

#[derive(Default)]
struct Findings {
    counts: Counts,
}

impl Findings {
    fn good(&mut self) {
        self.counts.passed += 1;
    }

    fn bad(&mut self, what: impl std::fmt::Display) {
        println!("{what}");
        self.counts.failed += 1;
        self.counts.failures.push(what.to_string());
    }
}

/// Pages in `docs` that the book has no chapter of.
fn not_in_summary(root: &Path, pages: &[PathBuf]) -> Result<Vec<String>> {
    let docs = root.join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).context("docs/SUMMARY.md")?;
    let links = markdown::links(&summary).into_iter();
    let chapters: BTreeSet<String> = links.map(|link| link.target).collect();
    let names = pages.iter().filter_map(|page| {
        let name = page.strip_prefix(&docs).ok()?.to_str()?;
        (name != "SUMMARY.md" && !chapters.contains(name)).then(|| name.to_owned())
    });
    Ok(names.collect())
}

/// Looks whether the server takes each config that a page shows whole: blocks that name a file `kjob….toml`.
fn check_configs(
    root: &Path,
    pages: &[PathBuf],
    programs: &Path,
    scratch: &Path,
    found: &mut Findings,
) -> Result<()> {
    let place = scratch.join("configs");
    fs::create_dir_all(&place)?;
    make_files(&place, programs)?;
    for page in pages {
        for block in blocks(&fs::read_to_string(page)?) {
            let is_config = |name: &str| name.starts_with("kjob") && name.ends_with(".toml");
            let Some(name) = block.file.as_deref().filter(|name| is_config(name)) else {
                continue;
            };
            fs::write(place.join(name), block.text.join("\n"))?;
            let mut check = Command::new(programs.join("kjob-server"));
            check.args(["check", "--config", name]).current_dir(&place);
            // What routes may ask the environment for.
            check
                .env_clear()
                .env("REPORT_KEY", "key")
                .env("SERVICE_PASSWORD", "password");
            let output = check.output()?;
            if output.status.success() {
                found.good();
            } else {
                let said = String::from_utf8_lossy(&output.stderr);
                found.bad(format!("{}: {}", at(root, page, block.line), said.trim()));
            }
        }
    }
    Ok(())
}

/// The files that configs name: they are looked into.
fn make_files(place: &Path, programs: &Path) -> Result<()> {
    let authority = Authority::new("the authority of the book");
    authority
        .server(&["localhost", "127.0.0.1", "jobs.example.org"])
        .write(place, "server")?;
    let users = place.join("users.toml");
    if !users.exists() {
        let mut add = Command::new(programs.join("kjob-server"));
        add.args([
            "user",
            "add",
            "root",
            "--role",
            "admin",
            "--no-password",
            "--users-file",
        ]);
        crate::process::run(add.arg(&users))?;
    }
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
    fs::write(place.join("callback.secret"), secret)?;
    Ok(())
}

/// Looks whether code that a page shows from a file of the tree stands there: Rust blocks that name one.
fn check_code(root: &Path, pages: &[PathBuf], found: &mut Findings) -> Result<()> {
    for page in pages {
        for block in blocks(&fs::read_to_string(page)?) {
            let Some(name) = block
                .file
                .as_deref()
                .filter(|name| name.starts_with("crates/"))
            else {
                continue;
            };
            let source = fs::read_to_string(root.join(name)).with_context(|| name.to_owned())?;
            if source.contains(&block.text.join("\n")) {
                found.good();
            } else {
                found.bad(format!(
                    "{}: {name} has no such lines",
                    at(root, page, block.line)
                ));
            }
        }
    }
    Ok(())
}

/// Runs the commands of a page that says `<!-- test: session -->`: how many.
fn run_page(
    root: &Path,
    page: &Path,
    programs: &Path,
    home: &Path,
    found: &mut Findings,
) -> Result<u32> {
    let text = fs::read_to_string(page)?;
    let items = markdown::items(&text);
    let is_session = |item: &Item| matches!(item, Item::Hint(_, hint) if hint == "session");
    if !items.iter().any(is_session) {
        return Ok(0);
    }
    let mut shell = Shell::start(home, programs, &text)?;
    let (mut commands, mut skip) = (0, false);
    for item in items {
        match item {
            Item::Hint(line, hint) => match hint.split_once(' ') {
                None if hint == "session" => {}
                None if hint == "skip" => skip = true,
                Some(("run", command)) => {
                    shell.run(command).with_context(|| at(root, page, line))?;
                }
                _ => bail!("{}: no such hint: {hint}", at(root, page, line)),
            },
            Item::Block(_) if std::mem::take(&mut skip) => {}
            Item::Block(Block {
                file: Some(name),
                text,
                ..
            }) => shell.write(&name, &text)?,
            Item::Block(block) if block.language == "console" => {
                let steps = transcript::steps(block.line, &block.text);
                let steps = steps
                    .map_err(|line| anyhow::anyhow!("{}: no command", at(root, page, line)))?;
                commands += steps.len() as u32;
                let codes = steps.iter().map(|step| step.command.contains("$?"));
                let asked: Vec<bool> = codes.skip(1).chain([false]).collect();
                for (step, is_asked) in steps.iter().zip(asked) {
                    // Later commands build on it.
                    if let Err(why) = run_step(&mut shell, step, is_asked) {
                        let line = why.0.unwrap_or(step.line);
                        found.bad(format!(
                            "{}: $ {}\n{}",
                            at(root, page, line),
                            step.command,
                            why.1
                        ));
                        return Ok(commands);
                    }
                    found.good();
                }
            }
            Item::Block(_) => {}
        }
    }
    Ok(commands)
}

/// Runs a command and compares. The line where it differs, if that is known, and why.
fn run_step(
    shell: &mut Shell,
    step: &transcript::Step,
    is_code_asked: bool,
) -> Result<(), (Option<usize>, String)> {
    let ran = shell.run(&step.command);
    let (printed, code) = ran.map_err(|error| (None, format!("{error:#}")))?;
    let printed_text = printed.join("\n");
    if let Err(at) = transcript::compare(&step.output, &printed) {
        let lines = step.command.lines().count();
        return Err((
            Some(step.line + lines + at),
            format!("printed otherwise:\n{printed_text}"),
        ));
    }
    // A command that fails is followed by one that shows how.
    if code != 0 && !is_code_asked {
        return Err((None, format!("ended with {code}:\n{printed_text}")));
    }
    Ok(())
}

fn blocks(page: &str) -> Vec<Block> {
    let items = markdown::items(page).into_iter();
    items
        .filter_map(|item| match item {
            Item::Block(block) => Some(block),
            Item::Hint(..) => None,
        })
        .collect()
}

fn at(root: &Path, page: &Path, line: usize) -> String {
    format!(
        "{}:{line}",
        page.strip_prefix(root).unwrap_or(page).display()
    )
}
