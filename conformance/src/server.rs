//! The real `kjob-server` binary as a child process on a loopback address.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::{NamedTempFile, TempDir};

const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(30);

/// One server process. Dropped without [`Server::stop`] it is killed, as after a failed test.
pub struct Server {
    child: Child,
    url: String,
    /// What it says on stderr, for the report of a failed test.
    log: NamedTempFile,
    /// Kept for its drop, which deletes the data; none if the caller owns the directory.
    _data: Option<TempDir>,
}

impl Server {
    /// A server on 127.0.0.1 with data of its own.
    pub fn start() -> Self {
        Self::start_with("127.0.0.1", &[])
    }

    /// A server on `host` that speaks HTTPS. The client trusts whom the system trusts, so the tests
    /// are run with `SSL_CERT_FILE` naming the certificate's authority.
    pub fn start_secure(host: &str) -> Self {
        let dir = std::env::var("KJOB_TLS_DIR")
            .expect("KJOB_TLS_DIR: a directory with server.pem and server.key");
        let (cert, key) = (format!("{dir}/server.pem"), format!("{dir}/server.key"));
        let server = Self::start_with(host, &["--tls-cert", &cert, "--tls-key", &key]);
        assert!(server.url().starts_with("https://"), "{}", server.url());
        server
    }

    /// A server on `host` (a loopback address; the system picks the port), with more `arguments`.
    pub fn start_with(host: &str, arguments: &[&str]) -> Self {
        let data = TempDir::new().expect("a temporary directory");
        let mut server = Self::start_on(data.path(), host, arguments);
        server._data = Some(data);
        server
    }

    /// A server on data that outlives it.
    pub fn start_on(data_dir: &Path, host: &str, arguments: &[&str]) -> Self {
        let binary = std::env::var_os("KJOB_SERVER_BIN")
            .expect("KJOB_SERVER_BIN: the path of a built kjob-server");
        let log = NamedTempFile::new().expect("a temporary file");
        let mut child = Command::new(binary)
            .args(["--listen", &format!("{host}:0"), "--data-dir"])
            .arg(data_dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().expect("a temporary file"))
            .spawn()
            .expect("kjob-server starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut server = Self {
            child,
            url: String::new(),
            log,
            _data: None,
        };

        // Read to its end on a thread: the server must never block on a full pipe, nor the test on
        // a silent server.
        let (sender, first_line) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout)
                .lines()
                .map_while(std::io::Result::ok)
            {
                // Only the first line has a receiver.
                let _ = sender.send(line);
            }
        });
        let line = first_line
            .recv_timeout(START_MAX)
            .expect("a ready line on stdout");
        let (_, url) = line
            .split_once("listening on ")
            .unwrap_or_else(|| panic!("not a ready line: {line:?}"));
        server.url = url.trim().trim_end_matches('/').to_owned();
        server
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks for a drain (SIGTERM) and returns at once.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, Signal::TERM).expect("the process takes a signal");
    }

    /// Ends the process as a power cut would (SIGKILL): no handler of its own runs.
    pub fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }

    /// Stops it in the ordinary way; it must end with exit code 0.
    pub fn stop(self) {
        self.terminate();
        self.wait_stopped();
    }

    /// Waits for the end of a server that was told to stop; it must be exit code 0.
    pub fn wait_stopped(mut self) {
        let status = self.wait();
        assert!(status.success(), "the server ended with {status}");
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_MAX;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("the process can be waited for")
            {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the server did not stop within {STOP_MAX:?} of SIGTERM"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail on a process that has ended, which is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.log.path()).unwrap_or_default();
            eprintln!("the server at {} said:\n{said}", self.url);
        }
    }
}
