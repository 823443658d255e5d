//! The console in a real browser, in front of the real server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::build;
use crate::counts::Counts;
use crate::debian::{self, packaged};
use crate::metadata::Workspace;
use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};
use crate::tools;

const BROWSER: &str = "chromium";

/// Where the tests look for the server.
const SERVER_VARIABLE: &str = "KJOB_SERVER_BIN";

/// Where they look for the browser.
const BROWSER_VARIABLE: &str = "KJOB_BROWSER";

/// Where they put pictures, if they are to make any.
const PICTURES_VARIABLE: &str = "KJOB_CONSOLE_PICTURES";

/// The step of `cargo xtask test`.
pub(crate) fn step(context: &Context) -> Result<Verdict> {
    let Some(browser) = browser() else {
        let reason = format!("there is no {BROWSER} (Debian: apt install {BROWSER})");
        println!("skipped: {reason}");
        return Ok(Verdict::Skipped(reason));
    };
    let (ok, counts) = run(&context.workspace, &browser, context.release, None)?;
    Ok(Verdict::Ran {
        ok,
        counts,
        note: String::new(),
    })
}

/// `cargo xtask screenshots`: makes the pictures of the documentation anew.
pub(crate) fn screenshots(workspace: &Workspace) -> Result<bool> {
    let browser = browser().with_context(|| format!("there is no {BROWSER}"))?;
    let pictures = workspace.root.join("docs/console");
    std::fs::create_dir_all(&pictures).with_context(|| pictures.display().to_string())?;
    Ok(run(workspace, &browser, false, Some(&pictures))?.0)
}

/// The browser of this machine, which is installed where that can be done: the one that Playwright would fetch is
/// larger than all else together.
fn browser() -> Option<PathBuf> {
    debian::ensure(&[packaged(BROWSER, BROWSER)]);
    debian::find(BROWSER)
}

fn run(
    workspace: &Workspace,
    browser: &Path,
    release: bool,
    pictures: Option<&Path>,
) -> Result<(bool, Counts)> {
    let python = tools::PLAYWRIGHT.ensure(workspace, "python")?;
    let server = build::server(release)?;
    let mut pytest = Tool::At(python).command();
    pytest
        .current_dir(workspace.root.join("acceptance/console"))
        .args(["-m", "pytest"])
        .env(SERVER_VARIABLE, &server)
        .env(BROWSER_VARIABLE, browser)
        // The tree stays as it was.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(pictures) = pictures {
        pytest.env(PICTURES_VARIABLE, pictures);
    }
    let mut counts = Counts::default();
    let ok = process::run_watched(&mut pytest, |line| counts.add_pytest_line(line))?;
    Ok((ok, counts))
}
