//! What a release needs beside its tests (RELEASING.md).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::metadata::Workspace;
use crate::process::{self, Tool};
use crate::tools;

/// The packages with programs, which are released as such too, and the features that those need.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("kjob-server", "kjob-server", ""),
    ("kjob-client", "kjob", "cli"),
];

/// `cargo xtask semver`: holds the public API of each crate against a commit, by default that of the last
/// release. Whether nothing breaks that the versions do not allow for.
pub(crate) fn semver(workspace: &Workspace, against: Option<String>) -> Result<bool> {
    let baseline = match against {
        Some(commit) => commit,
        None => last_release()?,
    };
    println!("against {baseline}");
    let checks = tools::CARGO_SEMVER_CHECKS.ensure(workspace)?;
    let mut command = Tool::At(checks).command();
    command.args(["semver-checks", "--baseline-rev", &baseline]);
    for package in &workspace.public {
        command.args(["--package", &package.name]);
    }
    Ok(process::run(&mut command).is_ok())
}

fn last_release() -> Result<String> {
    let mut describe = Tool::At("git".into()).command();
    describe.args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]);
    let tag = process::output(&mut describe)
        .context("there is no release yet; name a commit: cargo xtask semver --against COMMIT")?;
    Ok(tag.trim().to_owned())
}

/// `cargo xtask sbom`: a bill of materials of each program, which says of what crates it is made.
///
/// The tool writes into the directories of all members, and tells of paths. So it works on a copy of what is
/// committed, and what it says of where that was is left out.
pub(crate) fn sbom(workspace: &Workspace) -> Result<()> {
    let cyclonedx = tools::CARGO_CYCLONEDX.ensure(workspace)?;
    let to = workspace.target.join("sbom");
    let source = export(&to)?;
    let place = format!("file://{}", source.display());
    for (package, program, features) in PROGRAMS {
        let dir = source.join("crates").join(package);
        let mut command = Tool::At(cyclonedx.clone()).command();
        command
            .args(["cyclonedx", "--format", "json", "--spec-version", "1.5"])
            .args(["--describe", "binaries", "--no-build-deps"])
            .arg("--manifest-path")
            .arg(dir.join("Cargo.toml"));
        if !features.is_empty() {
            command.args(["--features", features]);
        }
        process::run(&mut command)?;
        let made = dir.join(format!("{program}_bin.cdx.json"));
        let text = fs::read_to_string(&made).with_context(|| made.display().to_string())?;
        let bill = to.join(format!("{program}.cdx.json"));
        fs::write(&bill, text.replace(&place, "file:///kjob"))?;
        println!("{}", bill.display());
    }
    fs::remove_dir_all(&source)?;
    Ok(())
}

/// A copy of what is committed.
fn export(to: &Path) -> Result<PathBuf> {
    let source = to.join("source");
    process::empty_dir(&source)?;
    let archive = to.join("source.tar");
    let mut git = Tool::At("git".into()).command();
    git.args(["archive", "--format=tar", "HEAD", "--output"]);
    process::run(git.arg(&archive))?;
    let mut tar = Tool::At("tar".into()).command();
    tar.arg("--extract").arg("--file").arg(&archive);
    process::run(tar.arg("--directory").arg(&source))?;
    fs::remove_file(&archive)?;
    Ok(source)
}
