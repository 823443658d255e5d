//! Packages of Node, in the versions of a lock file.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::{self, Tool};

const LOCK: &str = "package-lock.json";

/// Copies the files of `source` to `home` and installs the packages that they name, unless those are there.
pub(crate) fn install(source: &Path, home: &Path) -> Result<()> {
    // Beside what was installed: without it, or with another, the packages are not complete.
    let installed = home.join("node_modules").join(LOCK);
    fs::create_dir_all(home)?;
    for entry in fs::read_dir(source).with_context(|| source.display().to_string())? {
        let entry = entry?;
        fs::copy(entry.path(), home.join(entry.file_name()))?;
    }
    let wanted = fs::read_to_string(source.join(LOCK))?;
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    println!("installing the packages of {}", source.display());
    // No script of a package is run: what they would build has a form without it.
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let mut npm = Tool::At("npm".into()).command();
    process::run(npm.current_dir(home).args(arguments))?;
    fs::write(&installed, wanted).with_context(|| installed.display().to_string())
}
