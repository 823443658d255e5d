//! Where PostgreSQL's programs are, and as whom they run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Where Debian keeps programs that its own do not call by their names, below their versions.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Whom servers run as where we are root, as which they refuse to run.
#[derive(Clone, Copy, Debug)]
pub struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whether there is a server to start.
pub fn is_installed() -> bool {
    find("postgres").is_some()
}

/// A program of PostgreSQL's, of the newest version that there is.
pub fn tool(name: &str, user: Option<User>) -> Command {
    as_user(find(name).unwrap_or_else(|| name.into()), user)
}

pub(crate) fn as_user(program: PathBuf, user: Option<User>) -> Command {
    let mut command = Command::new(program);
    if let Some(User { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn find(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name));
    let newest = programs
        .filter(|program| program.is_file())
        .max_by_key(|program| {
            let version = program.ancestors().nth(2).and_then(Path::file_name);
            version.and_then(|version| version.to_str()?.parse::<u32>().ok())
        });
    newest.or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|place| place.join(name));
        places.find(|program| program.is_file())
    })
}

/// The user `postgres` where we are root; `None` where we are not, as servers can run as us.
pub(crate) fn user_of_servers() -> Result<Option<User>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let user = users
        .lines()
        .find_map(|line| line.strip_prefix("postgres:"));
    let mut fields = user
        .context("there is no user postgres")?
        .split(':')
        .skip(1);
    let mut id = || -> Result<u32> { Ok(fields.next().context("/etc/passwd")?.parse()?) };
    Ok(Some(User {
        uid: id()?,
        gid: id()?,
    }))
}
