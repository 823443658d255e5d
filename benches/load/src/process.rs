//! Servers as processes: started, awaited, looked at, and ended by their ids.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a server has to get ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Not in everybody's search path.
const SERVERS_PLACES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Clock ticks of `/proc` in a second, on every Linux there is.
const TICKS: f64 = 100.0;

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From its start until it was ready.
    pub(crate) ready_in: Duration,
}

impl Server {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server that prints a line with its URL or address last when it is ready.
///
/// # Errors
/// It ends before that.
pub(crate) fn announced(mut command: Command, home: &Path) -> Result<Server> {
    command.stdout(Stdio::piped());
    let began = Instant::now();
    let mut child = spawn(command, home)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let ready_in = began.elapsed();
    let address = line.rsplit([' ', '/']).next().unwrap_or_default().trim();
    match address.parse() {
        Ok(address) => Ok(Server {
            child,
            address,
            ready_in,
        }),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{line:?} {}", said(home))
        }
    }
}

/// Starts a server on a port that it was told, and waits until it takes connections there.
///
/// # Errors
/// It ends before that, or takes too long.
pub(crate) fn listening(mut command: Command, home: &Path, address: SocketAddr) -> Result<Server> {
    command.stdout(Stdio::null());
    let began = Instant::now();
    let mut server = Server {
        child: spawn(command, home)?,
        address,
        ready_in: Duration::ZERO,
    };
    while TcpStream::connect(address).is_err() {
        if let Some(status) = server.child.try_wait()? {
            bail!("ended with {status}: {}", said(home));
        }
        if began.elapsed() > READY_TIMEOUT {
            bail!("does not get ready: {}", said(home));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    server.ready_in = began.elapsed();
    Ok(server)
}

/// A program by its name: in the search path, or where systems keep servers.
pub(crate) fn program(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(SERVERS_PLACES.map(Into::into));
    let found = places.map(|place| place.join(name)).find(|it| it.is_file());
    Command::new(found.unwrap_or_else(|| name.into()))
}

/// A loopback address that nobody listens on.
///
/// # Errors
/// There is none.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// A process's time on processors since its start.
///
/// # Errors
/// It has ended, or this is not Linux.
pub(crate) fn processor(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may have spaces; after it come fields 3 and on.
    let (_, fields) = stat.rsplit_once(')').context("stat")?;
    let mut ticks = 0.0;
    for place in [14, 15] {
        let word = fields.split_whitespace().nth(place - 3).context("stat")?;
        ticks += word.parse::<f64>()?;
    }
    Ok(Duration::from_secs_f64(ticks / TICKS))
}

/// A process's resident memory, in bytes.
///
/// # Errors
/// It has ended, or this is not Linux.
pub(crate) fn memory(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    Ok(word.context("VmRSS")?.parse::<u64>()? << 10)
}

fn spawn(mut command: Command, home: &Path) -> Result<Child> {
    let log = File::create(home.join("log")).context("a server's log")?;
    command.stdin(Stdio::null()).stderr(log);
    command
        .spawn()
        .with_context(|| format!("could not start {}", command.get_program().display()))
}

/// The log, for an error.
fn said(home: &Path) -> String {
    fs::read_to_string(home.join("log")).unwrap_or_default()
}
