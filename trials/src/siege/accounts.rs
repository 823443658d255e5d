//! The two users of a server with accounts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Who besieges.
pub(crate) const ATTACKER: Account = Account {
    name: "attacker",
    password: "battering ram",
};

/// Who works beside.
pub(crate) const HONEST: Account = Account {
    name: "honest",
    password: "honest work",
};

/// A user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) name: &'static str,
    pub(crate) password: &'static str,
}

impl Account {
    /// The line of a request's head that says who asks, with its end.
    pub(crate) fn authorization(&self) -> String {
        let both = BASE64_STANDARD.encode(format!("{}:{}", self.name, self.password));
        format!("Authorization: Basic {both}\r\n")
    }
}

/// Makes a users file with both, as an operator would: with `program user add`.
pub(crate) fn users_file(program: &Path, home: &Path) -> Result<PathBuf> {
    let file = home.join("users.toml");
    for account in [ATTACKER, HONEST] {
        let mut child = Command::new(program)
            .args(["user", "add", account.name, "--password-stdin"])
            .arg("--users-file")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(account.password.as_bytes())?;
        }
        let ended = child.wait()?;
        ensure!(
            ended.success(),
            "user {} was not added: {ended}",
            account.name
        );
    }
    Ok(file)
}
