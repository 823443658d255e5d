//! `docs/dependencies.toml` says of each crate that kjob-proto and kjob-core depend on what is unsafe
//! in it, and why that is trusted. Here it is held against what cargo builds, so that no crate and
//! no version comes in that nobody looked at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use proc_macro2::{TokenStream, TokenTree};
use serde::Deserialize;
use serde_json::Value;

use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};

const NOTES: &str = "docs/dependencies.toml";

/// Whose dependencies are looked at, with default features and [`FEATURE`].
const PACKAGES: [&str; 2] = ["kjob-proto", "kjob-core"];

/// A feature that each of the packages has, and that the server is built with.
const FEATURE: &str = "dynamic";

/// What is looked at is the same on every machine that looks.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Name and version, in this order in every list.
type Key = (String, String);

/// All notes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    #[serde(rename = "crate")]
    crates: Vec<Note>,
}

/// What is known of one crate.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    name: String,
    /// The version that was looked at.
    version: String,
    /// How often the word `unsafe` stands in its code.
    #[serde(rename = "unsafe")]
    count: usize,
    /// What for, and why that is trusted.
    note: String,
}

/// Holds the notes against what is built.
pub(crate) fn run(context: &Context) -> Result<Verdict> {
    let path = context.workspace.root.join(NOTES);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let notes: Notes = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let sources = sources()?;
    let mut found = BTreeMap::new();
    for key in dependencies()? {
        let source = sources
            .get(&key)
            .with_context(|| format!("cargo does not say where {} {} is", key.0, key.1))?;
        let count = count_in(source)?;
        found.insert(key, count);
    }
    let problems = compare(&notes.crates, &found);
    for problem in &problems {
        println!("{NOTES}: {problem}");
    }
    let total: usize = found.values().sum();
    Ok(Verdict::Ran {
        ok: problems.is_empty(),
        counts: crate::counts::Counts::default(),
        note: format!("{} crates, {total} times unsafe", found.len()),
    })
}

/// What differs between the notes and what was found, each a line that says what to do.
fn compare(notes: &[Note], found: &BTreeMap<Key, usize>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut noted = BTreeMap::new();
    for note in notes {
        let Note { name, version, .. } = note;
        if noted
            .insert((name.clone(), version.clone()), note)
            .is_some()
        {
            problems.push(format!("{name} {version} has two notes"));
        } else if !found.contains_key(&(name.clone(), version.clone())) {
            problems.push(format!(
                "{name} {version} is no dependency, or not at this version; remove its note"
            ));
        }
        if note.note.trim().is_empty() {
            problems.push(format!("{name} {version} says nothing"));
        }
    }
    for (key, count) in found {
        let (name, version) = key;
        match noted.get(key) {
            None => problems.push(format!(
                "{name} {version} has no note; look at it, and write one (unsafe = {count})"
            )),
            Some(note) if note.count != *count => problems.push(format!(
                "{name} {version} has {count} times unsafe, and its note says {}",
                note.count
            )),
            Some(_) => {}
        }
    }
    problems
}

/// What the packages depend on, to build or to run: not our own, and not what only tests need.
fn dependencies() -> Result<Vec<Key>> {
    let mut tree = Tool::Cargo.command();
    tree.args([
        "tree",
        "--locked",
        "--edges",
        "normal,build",
        "--target",
        TARGET,
    ]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    for package in PACKAGES {
        tree.args(["--package", package]);
        tree.args(["--features", &format!("{package}/{FEATURE}")]);
    }
    let mut all: Vec<Key> = process::output(&mut tree)?
        .lines()
        .filter_map(dependency)
        .collect();
    all.sort();
    all.dedup();
    Ok(all)
}

/// Name and version in a line such as `syn v3.0.10 (*)`; none for our own, which have a path there.
fn dependency(line: &str) -> Option<Key> {
    let (name, rest) = line.split_once(" v")?;
    let (version, more) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_own = more.contains('/') || more.contains('\\');
    (!is_own).then(|| (name.to_owned(), version.to_owned()))
}

/// Where the sources of each package are.
fn sources() -> Result<BTreeMap<Key, PathBuf>> {
    let mut metadata = Tool::Cargo.command();
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    let text = process::output(&mut metadata)?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is JSON")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let source = |package: &Value| {
        let text = |key: &str| package[key].as_str().map(str::to_owned);
        let manifest = PathBuf::from(text("manifest_path")?);
        Some(((text("name")?, text("version")?), manifest.parent()?.into()))
    };
    Ok(packages.filter_map(source).collect())
}

/// How often the word stands in the code of a package: in `src`, for all systems and in its tests
/// too, and in its build script.
fn count_in(package: &Path) -> Result<usize> {
    let mut count = 0;
    let mut waiting = vec![package.join("src"), package.join("build.rs")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        } else if path.is_file() && path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            count += count_unsafe(&text).with_context(|| path.display().to_string())?;
        }
    }
    Ok(count)
}

/// How often `unsafe` stands in code: not in comments, texts or longer words.
fn count_unsafe(code: &str) -> Result<usize> {
    let tokens: TokenStream = code
        .parse()
        .map_err(|error| anyhow!("this is no Rust: {error}"))?;
    let mut count = 0;
    let mut waiting = vec![tokens];
    while let Some(tokens) = waiting.pop() {
        for token in tokens {
            match token {
                TokenTree::Ident(word) if word == "unsafe" => count += 1,
                TokenTree::Group(group) => waiting.push(group.stream()),
                _ => {}
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &str, version: &str, count: usize) -> Note {
        Note {
            name: name.to_owned(),
            version: version.to_owned(),
            count,
            note: "for a reason".to_owned(),
        }
    }

    fn found(all: &[(&str, &str, usize)]) -> BTreeMap<Key, usize> {
        let all = all.iter();
        all.map(|&(name, version, count)| ((name.into(), version.into()), count))
            .collect()
    }

    #[test]
    fn only_code_counts() {
        let code = r##"
            #![forbid(unsafe_code)]
            // unsafe
            const TEXT: (&str, &str) = ("unsafe", r#"unsafe"#);
            unsafe fn call() { unsafe { macro_call!(unsafe { 1 }) } }
        "##;
        assert_eq!(count_unsafe(code).unwrap(), 3);
        assert!(count_unsafe("fn open( {").is_err());
    }

    #[test]
    fn notes_that_say_what_is_there_are_well() {
        let notes = [note("a", "1.0.0", 2), note("a", "2.0.0", 0)];
        let found = found(&[("a", "1.0.0", 2), ("a", "2.0.0", 0)]);
        assert_eq!(compare(&notes, &found), [""; 0]);
    }

    #[test]
    fn whatever_differs_is_told() {
        let mut silent = note("silent", "1.0.0", 0);
        silent.note.clear();
        let notes = [
            note("new", "1.0.0", 2),
            note("more", "1.0.0", 2),
            silent,
            note("twice", "1.0.0", 0),
            note("twice", "1.0.0", 0),
        ];
        let found = found(&[
            ("more", "1.0.0", 3),
            ("new", "1.0.1", 2),
            ("silent", "1.0.0", 0),
            ("twice", "1.0.0", 0),
        ]);
        assert_eq!(
            compare(&notes, &found),
            [
                "new 1.0.0 is no dependency, or not at this version; remove its note",
                "silent 1.0.0 says nothing",
                "twice 1.0.0 has two notes",
                "more 1.0.0 has 3 times unsafe, and its note says 2",
                "new 1.0.1 has no note; look at it, and write one (unsafe = 2)",
            ]
        );
    }

    #[test]
    fn lines_of_cargo_tree() {
        let key = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(dependency("syn v3.0.10 (*)"), key("syn", "3.0.10"));
        assert_eq!(dependency("bytes v1.12.2"), key("bytes", "1.12.2"));
        assert_eq!(
            dependency("async-trait v0.1.92 (proc-macro)"),
            key("async-trait", "0.1.92")
        );
        assert_eq!(dependency("kjob-core v0.1.0 (/src/kjob-core)"), None);
        assert_eq!(dependency(""), None);
    }
}
