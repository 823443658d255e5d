//! A root of its own that packages are installed in: nothing of the machine's is touched, and no rights are
//! needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// The directory, with dpkg's own files in it. Gone when dropped.
pub(super) struct Root {
    path: PathBuf,
}

impl Root {
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        process::empty_dir(&path)?;
        let own = path.join("var/lib/dpkg");
        fs::create_dir_all(own.join("info"))?;
        fs::create_dir_all(own.join("updates"))?;
        fs::write(own.join("status"), "")?;
        fs::write(own.join("available"), "")?;
        Ok(Self { path })
    }

    /// Where a path of the packages is.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// dpkg in this root: scripts are run beside it and told of it, as a root without a shell has no other
    /// way; what packages depend on is the machine's.
    pub(super) fn dpkg(&self, arguments: &[&str], packages: &[&Path]) -> Result<()> {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.path.display()))
            .args(["--force-script-chrootless", "--force-not-root"])
            .args(["--force-depends", "--force-confold"])
            .arg(format!("--log={}", self.at("/dpkg.log").display()))
            .args(arguments)
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive");
        process::run(&mut dpkg)
    }

    /// All files below it but dpkg's own, as paths in the root, in order.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        collect(&self.path, &mut found)?;
        let mut names = Vec::new();
        for file in found {
            let name = file.strip_prefix(&self.path)?.to_string_lossy();
            if !name.starts_with("var/lib/dpkg/") && name != "dpkg.log" {
                names.push(format!("/{name}"));
            }
        }
        names.sort();
        Ok(names)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => collect(&entry.path(), found)?,
            false => found.push(entry.path()),
        }
    }
    Ok(())
}
