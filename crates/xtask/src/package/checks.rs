//! Packages, installed and tried: in a root of their own, so that nothing is left on the machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::counts::Counts;
use crate::debian::{self, packaged};
use crate::process;
use crate::served::Served;
use crate::steps::{Context, Verdict};

use super::root::Root;
use super::{Packages, build};

const UNIT: &str = "/usr/lib/systemd/system/kjob-server.service";
const SERVER: &str = "/usr/bin/kjob-server";
const CLIENT: &str = "/usr/bin/kjob";
const CONFIG: &str = "/etc/kjob/kjob.toml";
const STATE: &str = "/var/lib/kjob";

/// What systemd may find of exposure in the unit: 2.0, times ten.
const EXPOSURE_MAX: &str = "20";

/// What the checks need, and the packages that have it.
const NEEDED: [debian::Packaged; 4] = [
    packaged("dpkg", "dpkg"),
    packaged("systemd-analyze", "systemd"),
    packaged("lintian", "lintian"),
    packaged("man", "man-db"),
];

/// The step of `cargo xtask test`. Each check counts as a test.
pub(crate) fn step(context: &Context) -> Result<Verdict> {
    if !Path::new("/etc/debian_version").is_file() {
        let reason = "this is no Debian".to_owned();
        println!("skipped: {reason}");
        return Ok(Verdict::Skipped(reason));
    }
    debian::ensure(&NEEDED);
    let scratch = context.workspace.target.join("package-check");
    let packages = build(&context.workspace, &scratch, context.release)?;
    let root = Root::new(scratch.join("root"))?;
    let mut counts = Counts::default();
    for (name, check) in CHECKS {
        let done = check(&packages, &root);
        counts.add_check(name, done.is_ok());
        if let Err(error) = done {
            println!("    {error:#}");
        }
    }
    Ok(Verdict::Ran {
        ok: counts.failed == 0,
        counts,
        note: String::new(),
    })
}

type Check = fn(&Packages, &Root) -> Result<()>;

/// In their order: what is installed by one is used by the next, and removed by the last.
const CHECKS: [(&str, Check); 11] = [
    ("the changelog is of this version", changelog),
    ("lintian has nothing to say", lintian),
    ("both are installed", install),
    ("the unit is well-formed", unit_is_well_formed),
    ("the unit leaves little exposed", unit_leaves_little_exposed),
    ("man pages", man_pages),
    ("completions", completions),
    ("the doctor finds the host well", doctor),
    ("the service runs a job of the client", job),
    ("an upgrade keeps the config", upgrade),
    ("a purge leaves nothing but jobs", purge),
];

fn changelog(_: &Packages, _: &Root) -> Result<()> {
    let text = fs::read_to_string(process::root().join("contrib/debian/changelog"))?;
    let first = text.lines().next().unwrap_or_default();
    let version = concat!("kjob (", env!("CARGO_PKG_VERSION"), "-1)");
    ensure!(
        first.starts_with(version),
        "contrib/debian/changelog begins with {first:?}, and not with {version}"
    );
    Ok(())
}

fn lintian(packages: &Packages, _: &Root) -> Result<()> {
    let mut lintian = Command::new("lintian");
    lintian
        .args(["--fail-on", "error,warning", "--allow-root"])
        .args(["--suppress-tags", SUPPRESSED])
        .args([&packages.server, &packages.client]);
    process::run(&mut lintian)
}

/// Nobody has asked Debian for a package, so there is no bug in its list that the first one closes.
const SUPPRESSED: &str = "initial-upload-closes-no-bugs";

fn install(packages: &Packages, root: &Root) -> Result<()> {
    root.dpkg(&["--install"], &[&packages.server, &packages.client])?;
    root.dpkg(&["--verify"], &[])?;
    for program in [SERVER, CLIENT] {
        let said = process::output(Command::new(root.at(program)).arg("--version"))?;
        ensure!(
            said.contains(env!("CARGO_PKG_VERSION")),
            "{program} is of another version: {said}"
        );
    }
    let enabled = "/etc/systemd/system/multi-user.target.wants/kjob-server.service";
    ensure!(
        fs::symlink_metadata(root.at(enabled)).is_ok(),
        "the service is not enabled"
    );
    Ok(())
}

/// With the path of the program in the root, as systemd looks whether it is there. Its pages of the manual are
/// looked for on the machine, so that is left out.
fn unit_is_well_formed(_: &Packages, root: &Root) -> Result<()> {
    let unit = fs::read_to_string(root.at(UNIT))?;
    let copy = root.at("/kjob-server.service");
    let here = unit.replace(SERVER, &root.at(SERVER).to_string_lossy());
    fs::write(&copy, here)?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&copy);
    let done = verify.output();
    fs::remove_file(&copy)?;
    let done = done?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && said.is_empty(), "{said}");
    Ok(())
}

fn unit_leaves_little_exposed(_: &Packages, root: &Root) -> Result<()> {
    let mut security = Command::new("systemd-analyze");
    security
        .args(["security", "--offline=true", "--no-pager"])
        .args(["--threshold", EXPOSURE_MAX])
        .arg(root.at(UNIT));
    let said = process::output(&mut security)?;
    println!("{}", said.lines().last().unwrap_or_default());
    Ok(())
}

fn man_pages(_: &Packages, root: &Root) -> Result<()> {
    let mut pages = root.files()?;
    pages.retain(|path| path.starts_with("/usr/share/man/"));
    for page in ["man1/kjob.1.gz", "man8/kjob-server.8.gz"] {
        let path = format!("/usr/share/man/{page}");
        ensure!(pages.contains(&path), "there is no {path}");
    }
    for page in &pages {
        let mut man = Command::new("man");
        man.args(["--warnings", "--encoding=UTF-8", "--local-file"]);
        man.arg("--troff-device=utf8").arg("--ditroff");
        let done = man.arg(root.at(page)).env("MANWIDTH", "80").output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success() && said.is_empty(), "{page}: {said}");
        // What whatis and apropos find it by.
        process::output(Command::new("lexgrog").arg(root.at(page)))?;
    }
    Ok(())
}

/// Bash loads them, and knows how to complete both. The other shells look at theirs where they are there.
fn completions(_: &Packages, root: &Root) -> Result<()> {
    for program in ["kjob", "kjob-server"] {
        let script = root.at(&format!("/usr/share/bash-completion/completions/{program}"));
        let known = process::output(
            Command::new("bash")
                .args([
                    "--norc",
                    "-c",
                    "source \"$1\" && complete -p \"$2\"",
                    "bash",
                ])
                .arg(script)
                .arg(program),
        )?;
        ensure!(known.contains(program), "{known}");
        let zsh = root.at(&format!("/usr/share/zsh/vendor-completions/_{program}"));
        let fish = root.at(&format!(
            "/usr/share/fish/vendor_completions.d/{program}.fish"
        ));
        for (shell, script) in [("zsh", zsh), ("fish", fish)] {
            ensure!(script.is_file(), "there is no {}", script.display());
            if debian::is_there(shell) {
                process::run(Command::new(shell).arg("-n").arg(script))?;
            }
        }
    }
    Ok(())
}

fn doctor(_: &Packages, root: &Root) -> Result<()> {
    let state = root.at(STATE);
    fs::create_dir_all(&state)?;
    only_owner(&state)?;
    let said = process::output(served(root).args(["doctor", "--listen", "127.0.0.1:0"]))?;
    print!("{said}");
    Ok(())
}

fn job(_: &Packages, root: &Root) -> Result<()> {
    let service = start(root)?;
    let mut kjob = Command::new(root.at(CLIENT));
    kjob.args(["--url", &service.url, "submit", "/show/system/status"])
        .args(["--data", "{\"options\": {}}", "--wait"])
        .env("HOME", root.at("/"));
    let said = process::output(&mut kjob)?;
    ensure!(said.contains("status_map"), "{said}");
    service.stop()
}

fn upgrade(packages: &Packages, root: &Root) -> Result<()> {
    let config = root.at(CONFIG);
    let text = fs::read_to_string(&config)? + "\nworkers = 7\n";
    fs::write(&config, &text)?;
    root.dpkg(&["--install"], &[&packages.server])?;
    ensure!(
        fs::read_to_string(&config)? == text,
        "the config was replaced"
    );
    let said = process::output(served(root).arg("check"))?;
    ensure!(said.contains("workers = \"7\"  # config file"), "{said}");
    Ok(())
}

fn purge(_: &Packages, root: &Root) -> Result<()> {
    let names = [Path::new("kjob-server"), Path::new("kjob-client")];
    root.dpkg(&["--remove"], &names)?;
    let left = root.files()?;
    ensure!(
        left.iter().any(|path| path == CONFIG),
        "the config went with a mere remove"
    );
    root.dpkg(&["--purge"], &names)?;
    let left = root.files()?;
    let (jobs, other): (Vec<_>, Vec<_>) = left
        .into_iter()
        .partition(|path| path.starts_with(&format!("{STATE}/")));
    ensure!(other.is_empty(), "left behind: {}", other.join(", "));
    ensure!(!jobs.is_empty(), "the jobs are gone");
    Ok(())
}

/// The command that the unit starts, with its paths in the root. Where it says nothing of a directory, the unit
/// made that one the working directory.
fn served(root: &Root) -> Command {
    let mut command = Command::new(root.at(SERVER));
    command
        .arg("--config")
        .arg(root.at(CONFIG))
        .arg("--data-dir")
        .arg(root.at(STATE));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KJOB_") {
            command.env_remove(name);
        }
    }
    command
}

/// A server as the unit starts it, at a free port.
fn start(root: &Root) -> Result<Served> {
    let unit = fs::read_to_string(root.at(UNIT))?;
    let expected = format!("ExecStart={SERVER} --config {CONFIG}");
    ensure!(
        unit.lines().any(|line| line == expected),
        "the unit does not start {expected}"
    );
    let path = root.at("/server.log");
    let log = fs::File::create(&path)?;
    let service = Served::start(served(root).args(["--listen", "127.0.0.1:0"]).stderr(log));
    let said = fs::read_to_string(&path)?;
    fs::remove_file(&path)?;
    service.context(said)
}

#[cfg(unix)]
fn only_owner(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?)
}

#[cfg(not(unix))]
fn only_owner(_: &Path) -> Result<()> {
    Ok(())
}
