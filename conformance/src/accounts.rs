//! Accounts, made as an operator makes them: by `kjob-server user`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A users file.
pub struct Accounts {
    path: PathBuf,
    /// Kept for its drop, which deletes the file.
    _dir: TempDir,
}

impl Accounts {
    /// Everybody's.
    pub const PASSWORD: &'static str = "correct horse";

    /// One with these users, each with a role.
    pub fn new(users: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let path = dir.path().join("users.toml");
        let accounts = Self { path, _dir: dir };
        for (name, role) in users {
            accounts.user(&["add", name, "--role", role, "--password-stdin"]);
        }
        accounts
    }

    /// A new token of a user's.
    pub fn token(&self, name: &str, called: &str) -> String {
        self.user(&["token", name, called]).trim_end().to_owned()
    }

    /// Where the file is.
    pub fn path(&self) -> &str {
        self.path.to_str().expect("a path of UTF-8")
    }

    fn user(&self, arguments: &[&str]) -> String {
        let binary = std::env::var_os("KJOB_SERVER_BIN")
            .expect("KJOB_SERVER_BIN: the path of a built kjob-server");
        let mut child = Command::new(binary)
            .arg("user")
            .args(arguments)
            .args(["--users-file", self.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("kjob-server starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // A command that reads nothing may have ended already.
        let _ = stdin.write_all(Self::PASSWORD.as_bytes());
        drop(stdin);
        let done = child.wait_with_output().expect("kjob-server ends");
        assert!(done.status.success(), "{arguments:?}: {}", done.status);
        String::from_utf8(done.stdout).expect("UTF-8")
    }
}
