//! Packages of Node, in the versions of a lock file.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::{self, Tool};

const LOCK: &str = "package-lock.json";

/// Installs the packages that the files in `home` name, unless they are there.
pub(crate) fn install(home: &Path) -> Result<()> {
    let wanted = fs::read_to_string(home.join(LOCK)).context(LOCK)?;
    // A copy of what was installed is written last: without it, or with another, the packages are not
    // complete.
    let installed = home.join("node_modules").join(LOCK);
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    println!("installing the packages of {}", home.display());
    // No script of a package is run: what they would build has a form without it.
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let mut npm = Tool::At("npm".into()).command();
    process::run(npm.current_dir(home).args(arguments))?;
    fs::write(&installed, wanted).with_context(|| installed.display().to_string())
}
