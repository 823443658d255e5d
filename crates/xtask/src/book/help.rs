//! Pages of the documentation that the programs write themselves.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build;
use crate::metadata::Workspace;
use crate::process::{self, Tool};

/// A page of what a program and its commands say to `-h`.
struct Page {
    path: &'static str,
    program: &'static str,
    head: &'static str,
    commands: &'static [&'static str],
    /// The heading of what all commands have in common, with which the help of each ends.
    common: &'static str,
    /// Whether the program's own help has it all the same.
    is_common_shown: bool,
}

const PAGES: [Page; 2] = [
    Page {
        path: "docs/kjob-server-help.md",
        program: "kjob-server",
        head: "\
# Commands of the server

What `kjob-server` and its commands say to `-h`. `cargo xtask reference` writes this page, and the step `book` of the tests
holds it against the program. Every command takes the settings as well; they are in [configuration.md](configuration.md),
and left out here. What the commands are for is told in [server.md](server.md).
",
        commands: &[
            "check",
            "doctor",
            "migrate",
            "store",
            "store check",
            "store stats",
            "store backup",
            "store compact",
            "store purge",
            "user",
            "user add",
            "user passwd",
            "user role",
            "user token",
            "user remove",
            "user list",
        ],
        common: "Settings:",
        is_common_shown: false,
    },
    Page {
        path: "docs/kjob-help.md",
        program: "kjob",
        head: "\
# Commands of kjob

What `kjob` and its commands say to `-h`. `cargo xtask reference` writes this page, and the step `book` of the tests holds
it against the program. The options under *Connection* are those of every command, and shown once. What the commands are
for is told in [cli.md](cli.md).
",
        commands: &[
            "submit",
            "get",
            "wait",
            "result",
            "list",
            "cancel",
            "status",
            "completions",
        ],
        common: "Connection:",
        is_common_shown: true,
    },
];

/// Pages that examples of the server write, which tests of its own hold against the code.
const EXAMPLES: [(&str, &str); 2] = [
    ("metrics_reference", "docs/metrics.md"),
    ("configuration_reference", "docs/configuration.md"),
];

/// `cargo xtask reference`: writes all pages that come from the code anew.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    for (example, path) in EXAMPLES {
        let mut run = Tool::Cargo.command();
        run.args(["run", "--quiet", "--package", "kjob-server", "--example"]);
        fs::write(
            workspace.root.join(path),
            process::output(run.arg(example))?,
        )?;
    }
    let programs = build::both_programs(false)?;
    for page in &PAGES {
        fs::write(workspace.root.join(page.path), page.text(&programs)?)?;
    }
    Ok(())
}

/// Pages of help that are not as the programs have it, and commands that none of them shows.
pub(crate) fn stale(root: &Path, programs: &Path) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for page in &PAGES {
        let text = fs::read_to_string(root.join(page.path)).unwrap_or_default();
        if text != page.text(programs)? {
            stale.push(page.path.to_owned());
        }
        stale.extend(page.missing(&text));
    }
    Ok(stale)
}

impl Page {
    fn text(&self, programs: &Path) -> Result<String> {
        let mut text = self.head.to_owned();
        for command in [""].iter().chain(self.commands) {
            let words = command.split_whitespace();
            let mut help = Command::new(programs.join(self.program));
            help.args(words).arg("-h").env_clear();
            let help = process::output(&mut help).with_context(|| self.program)?;
            let is_whole = command.is_empty() && self.is_common_shown;
            let shown = if is_whole {
                help
            } else {
                without_section(&help, self.common)
            };
            let name = [self.program, command].join(" ");
            write!(
                text,
                "\n## {}\n\n```text\n{}\n```\n",
                name.trim(),
                without_trailing_spaces(&shown)
            )?;
        }
        Ok(text)
    }

    /// Commands that the help of another names, and that have no section of their own.
    fn missing(&self, text: &str) -> Vec<String> {
        let mut missing = Vec::new();
        let mut section = "";
        let mut is_list = false;
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                section = title;
            }
            if !line.starts_with(' ') {
                is_list = line == "Commands:";
            } else if is_list {
                let name = line.split_whitespace().next().unwrap_or_default();
                let title = format!("## {section} {name}");
                if name != "help" && !text.lines().any(|line| line == title) {
                    missing.push(format!("{}: {section} {name}", self.path));
                }
            }
        }
        missing
    }
}

/// Without the paragraph that a line begins.
fn without_section(text: &str, heading: &str) -> String {
    let Some((before, rest)) = text.split_once(&format!("\n{heading}\n")) else {
        return text.to_owned();
    };
    let behind = rest.split_once("\n\n").map_or("", |(_, behind)| behind);
    [before, behind].join("\n")
}

fn without_trailing_spaces(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_have_in_common_is_cut_out() {
        let help = "a\nb\n\nSettings:\n  c\n";
        assert_eq!(without_section(help, "Settings:"), "a\nb\n\n");
        let help = "a\n\nSettings:\n  c\n\nd\n";
        assert_eq!(without_section(help, "Settings:"), "a\n\nd\n");
        assert_eq!(without_section("a\nb\n", "Settings:"), "a\nb\n");
    }

    #[test]
    fn a_command_without_a_section_is_named() {
        let text = "## kjob\n\nCommands:\n  get   Shows\n  wait  Waits\n  help  Helps\n\n\
            Options:\n  -h\n\n## kjob get\n";
        assert_eq!(PAGES[1].missing(text), ["docs/kjob-help.md: kjob wait"]);
    }
}
