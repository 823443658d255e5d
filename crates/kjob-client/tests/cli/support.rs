//! Both programs as child processes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{env, fs};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// A running server with the demo endpoints; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) dir: TempDir,
    arguments: Vec<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let dir = tempdir().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let (child, url) = spawn(&dir, "127.0.0.1:0", &arguments);
        Self {
            child,
            url,
            dir,
            arguments,
        }
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it do nothing more, with its connections open.
    pub(crate) fn halt(&self) {
        signal(&self.child, "-STOP");
    }

    /// Starts it again, with the same data at the same address.
    pub(crate) fn revive(&mut self) {
        let address = self.url.split_once("://").unwrap().1.to_owned();
        (self.child, _) = spawn(&self.dir, &address, &self.arguments);
    }

    /// `kjob`, not yet run, and told where this server is.
    pub(crate) fn kjob<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = kjob(arguments);
        command.env("KJOB_URL", &self.url);
        command
    }

    /// Runs `kjob` to its end.
    pub(crate) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Ended {
        end(self.kjob(arguments))
    }

    /// Runs it, and takes it to go well: what it printed.
    pub(crate) fn done<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out
    }

    /// Submits a job that sleeps, under a tag.
    pub(crate) fn sleeper(&self, tag: &str, millis: u64) {
        let data = format!(r#"{{"millis":{millis}}}"#);
        self.done(["submit", "/demo/sleep", "--tag", tag, "--data", &data]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir, address: &str, arguments: &[String]) -> (Child, String) {
    let log = dir.path().join("log");
    let mut command = clean(Command::new(server_program()));
    command
        .args(["--demo", "--listen", address, "--data-dir"])
        .arg(dir.path().join("data"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("kjob-server listening on ");
    let url = url.unwrap_or_else(|| panic!("{}", fs::read_to_string(log).unwrap()));
    (child, url.to_owned())
}

/// The server stands beside `kjob`: tests of the workspace have built it. Where tests of this package alone
/// have not, it is built here.
pub(crate) fn server_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let kjob = Path::new(env!("CARGO_BIN_EXE_kjob"));
        let program = kjob.with_file_name(format!("kjob-server{}", env::consts::EXE_SUFFIX));
        if !program.is_file() {
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--package", "kjob-server", "--bin", "kjob-server"]);
            assert!(build.status().unwrap().success());
        }
        program
    })
}

/// How a run of `kjob` ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) error: String,
}

impl Ended {
    /// What was printed, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same with a document a line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// `kjob` with nothing of this process's own settings.
pub(crate) fn kjob<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_kjob")));
    command.args(arguments);
    command
}

pub(crate) fn end(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        error: text(output.stderr),
    }
}

/// Runs it with this on its standard input.
pub(crate) fn end_with_input(mut command: Command, input: &[u8]) -> Ended {
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running
        .child
        .stdin
        .take()
        .unwrap()
        .write_all(input)
        .unwrap();
    running.end()
}

fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("KJOB_") {
            command.env_remove(name);
        }
    }
    // No config file of whoever runs the tests.
    command.env("XDG_CONFIG_HOME", "/nowhere");
    command.stdin(Stdio::null());
    command
}

/// A bound for what never comes, on a machine that does other things too; no test waits for it to pass.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Kills a program that goes on for too long, unless what this gives is dropped before.
pub(crate) fn guard(child: &Child) -> Sender<()> {
    let (guarded, ended) = mpsc::channel();
    let pid = child.id().to_string();
    std::thread::spawn(move || {
        if ended.recv_timeout(RUN_MAX) == Err(RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
    });
    guarded
}

/// What Ctrl-C does to a program.
pub(crate) fn interrupt(child: &Child) {
    signal(child, "-INT");
}

fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
    assert!(sent.success());
}

/// A run of `kjob` that goes on; killed when dropped, or when it goes on for too long.
pub(crate) struct Running {
    /// Its end ends the thread that would kill the program.
    _guarded: Sender<()>,
    pub(crate) child: Child,
    pub(crate) out: Option<BufReader<ChildStdout>>,
    pub(crate) error: BufReader<ChildStderr>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            _guarded: guard(&child),
            out: child.stdout.take().map(BufReader::new),
            error: BufReader::new(child.stderr.take().unwrap()),
            child,
        }
    }

    /// The next line of output, as JSON.
    pub(crate) fn json_line(&mut self) -> Value {
        let mut line = String::new();
        self.out.as_mut().unwrap().read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Reads lines of stderr up to one with this text.
    pub(crate) fn wait_said(&mut self, text: &str) {
        let mut all = String::new();
        loop {
            let before = all.len();
            assert!(
                self.error.read_line(&mut all).unwrap() > 0,
                "{text:?} in {all}"
            );
            if all[before..].contains(text) {
                return;
            }
        }
    }

    pub(crate) fn interrupt(&self) {
        interrupt(&self.child);
    }

    /// Waits for the end; what was not read yet.
    pub(crate) fn end(mut self) -> Ended {
        let (mut out, mut error) = (String::new(), String::new());
        if let Some(stdout) = &mut self.out {
            stdout.read_to_string(&mut out).unwrap();
        }
        self.error.read_to_string(&mut error).unwrap();
        let code = self.child.wait().unwrap().code().unwrap();
        Ended { code, out, error }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
