//! Debian packages of the server and of the command line client.

mod checks;
mod root;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build;
use crate::metadata::Workspace;
use crate::process::{self, Tool};
use crate::tools;

pub(crate) use checks::step;

/// The packages that were built.
pub(crate) struct Packages {
    pub(crate) server: PathBuf,
    pub(crate) client: PathBuf,
}

/// `cargo xtask package`: builds both, optimised, and says where they are.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let packages = build(workspace, &workspace.target.join("debian"), true)?;
    for package in [&packages.server, &packages.client] {
        let bytes = fs::metadata(package)?.len();
        println!("{} ({bytes} bytes)", package.display());
    }
    Ok(())
}

/// Builds both packages in `to`. Without `release` they have the programs that other steps test, and are
/// compressed in haste.
fn build(workspace: &Workspace, to: &Path, release: bool) -> Result<Packages> {
    let cargo_deb = tools::CARGO_DEB.ensure(workspace)?;
    let stage = Stage::new(workspace, release)?;
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    let package = |name: &str| -> Result<PathBuf> {
        let mut deb = Tool::At(cargo_deb.clone()).command();
        deb.args(["deb", "--no-build", "--package", name, "--output"])
            .arg(to)
            .env("CARGO_TARGET_DIR", &stage.target);
        if !release {
            deb.arg("--fast");
        }
        let said = process::output(&mut deb)?;
        // The path of the package stands in a line of its own.
        let path = said.lines().map(Path::new).find(|path| path.is_file());
        path.map(Path::to_owned)
            .with_context(|| format!("cargo deb named no package: {said}"))
    };
    Ok(Packages {
        server: package("kjob-server")?,
        client: package("kjob-client")?,
    })
}

/// A target directory with all that goes into packages, as cargo-deb looks for it.
struct Stage {
    target: PathBuf,
}

impl Stage {
    fn new(workspace: &Workspace, release: bool) -> Result<Self> {
        let target = workspace.target.join("debian-stage");
        let built = target.join("release");
        // What is left from another version would be packed.
        process::empty_dir(&target)?;
        fs::create_dir_all(&built)?;
        let (server, client) = (build::server(release)?, build::cli(release)?);
        for program in [&server, &client] {
            let name = program.file_name().context("programs have names")?;
            let copy = built.join(name);
            fs::copy(program, &copy)?;
            if !release {
                process::run(Command::new("strip").arg(&copy))?;
            }
        }
        let files = built.join("package");
        let maker = build::example("package_files")?;
        process::run(Tool::At(maker).command().arg(&files))?;
        of_the_client(&client, &files)?;
        // cargo-deb would, if they were not among what is built. Without a name and a time in them, so that the
        // same pages are the same files.
        let pages = fs::read_dir(files.join("man"))?.map(|entry| Ok(entry?.path()));
        let pages: Vec<PathBuf> = pages.collect::<Result<_>>()?;
        process::run(Command::new("gzip").args(["-9", "--no-name"]).args(pages))?;
        Ok(Self { target })
    }
}

/// The client makes its files itself, which users of other systems may do too.
fn of_the_client(client: &Path, files: &Path) -> Result<()> {
    let kjob = || Tool::At(client.to_owned()).command();
    process::run(kjob().arg("man").arg(files.join("man")))?;
    let names = [
        ("bash", "kjob.bash"),
        ("fish", "kjob.fish"),
        ("zsh", "_kjob"),
    ];
    for (shell, name) in names {
        let script = process::output(kjob().args(["completions", shell]))?;
        if script.is_empty() {
            bail!("kjob completions {shell} printed nothing");
        }
        fs::write(files.join("completions").join(name), script)?;
    }
    Ok(())
}
