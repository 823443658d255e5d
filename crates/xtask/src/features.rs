//! Feature combinations: a crate must build with whatever part of its features a user takes.

use anyhow::{Result, bail};

use crate::metadata::Package;
use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};

/// Checks each public package with no features, with each alone and with all; warnings count.
pub(crate) fn run(context: &Context) -> Result<Verdict> {
    let mut count = 0;
    let mut bad = Vec::new();
    for package in &context.workspace.public {
        for features in combinations(package) {
            let shown = format!("{} [{}]", package.name, features.join(", "));
            let mut command = Tool::Cargo.command();
            command.args([
                "check",
                "--quiet",
                "--package",
                &package.name,
                "--no-default-features",
            ]);
            if !features.is_empty() {
                command.args(["--features", &features.join(",")]);
            }
            // Warnings are looked for here rather than denied by RUSTFLAGS, which would build every
            // dependency anew.
            let output = command.output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            let ok =
                output.status.success() && !said.lines().any(|line| line.starts_with("warning"));
            println!("{} {shown}", if ok { "ok    " } else { "FAILED" });
            if !ok {
                println!("{}\n{said}", process::shown(&command));
                bad.push(shown);
            }
            count += 1;
        }
    }
    if !bad.is_empty() {
        bail!("{} of {count} combinations: {}", bad.len(), bad.join(", "));
    }
    Ok(Verdict::passed(format!("{count} combinations")))
}

/// None, each alone, all: without repeating itself for a package with one feature or none.
fn combinations(package: &Package) -> Vec<Vec<&str>> {
    let all: Vec<&str> = package.features.iter().map(String::as_str).collect();
    let mut list = vec![Vec::new()];
    list.extend(all.iter().map(|&feature| vec![feature]));
    if all.len() > 1 {
        list.push(all);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(features: &[&str]) -> Package {
        Package {
            name: "some".to_owned(),
            features: features.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn none_each_and_all() {
        assert_eq!(combinations(&package(&[])), [Vec::<&str>::new()]);
        assert_eq!(combinations(&package(&["a"])), [vec![], vec!["a"]]);
        assert_eq!(
            combinations(&package(&["a", "b"])),
            [vec![], vec!["a"], vec!["b"], vec!["a", "b"]]
        );
    }
}
