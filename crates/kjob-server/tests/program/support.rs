//! The real program as a child process.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kjob_client::Client;
use tempfile::TempDir;

/// A bound for a log line that never comes; no test waits for it to pass.
const LOGGED_WITHIN: Duration = Duration::from_secs(30);

/// The program, not yet started, with nothing of this process's own settings.
pub(crate) fn program() -> Command {
    without_settings(env!("CARGO_BIN_EXE_kjob-server"))
}

/// Any program, with nothing of this process's own settings.
pub(crate) fn without_settings(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KJOB_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end: exit code, standard output, error output.
pub(crate) fn run<A: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = A>,
) -> (i32, String, String) {
    let output = program().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A running server; killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    /// As it says itself.
    pub(crate) url: String,
    pub(crate) address: String,
}

impl Running {
    /// Starts a server on a free port with its data in `dir`, and waits until it is ready.
    pub(crate) fn start(dir: &TempDir, arguments: &[&str]) -> Self {
        let mut command = program();
        command
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"));
        command.args(arguments);
        Self::spawn(command, &dir.path().join("log"))
    }

    pub(crate) fn spawn(mut command: Command, log: &Path) -> Self {
        command
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("kjob-server listening on ");
        let parts = url.and_then(|url| Some((url, url.split_once("://")?.1)));
        let (url, address) =
            parts.unwrap_or_else(|| panic!("{line:?}\n{}", fs::read_to_string(log).unwrap()));
        let (url, address) = (url.to_owned(), address.to_owned());
        Self {
            child,
            stdout,
            log: log.to_owned(),
            url,
            address,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits until the log has a text this many times.
    pub(crate) fn wait_logged(&self, text: &str, times: usize) {
        let deadline = Instant::now() + LOGGED_WITHIN;
        loop {
            let log = fs::read_to_string(&self.log).unwrap();
            if log.matches(text).count() >= times {
                return;
            }
            assert!(Instant::now() < deadline, "{times} × {text:?}:\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end: how it was, what else was printed, and the log.
    pub(crate) fn end(mut self) -> (ExitStatus, String, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        (status, rest, fs::read_to_string(&self.log).unwrap())
    }

    /// The status and the body of a GET, over a bare socket.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
        #[allow(clippy::print_stdout, reason = "it is shown with the test that failed")]
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            println!("{} said:\n{log}", self.url);
        }
    }
}

/// All files below a directory: their names, and what is in them.
pub(crate) fn read_all(dir: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => read_all(&path, into),
            false => into.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
}

/// Whether a text is among bytes.
pub(crate) fn has(bytes: &[u8], text: &str) -> bool {
    let mut windows = bytes.windows(text.len());
    windows.any(|window| window == text.as_bytes())
}
