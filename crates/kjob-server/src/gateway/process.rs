//! Processes in groups: started so that they end with the server, and ended as a group.

use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// How many commands may wait to be started.
const STARTS_MAX: usize = 64;

/// Starts processes from one thread that lives as long as this, and all clones, do.
///
/// The system kills a child when the *thread* that started it ends, where it is asked to kill it with its
/// parent; threads of a runtime come and go.
#[derive(Clone, Debug, Default)]
pub(super) struct Spawner(Arc<OnceLock<mpsc::Sender<Start>>>);

struct Start {
    command: Command,
    runtime: Handle,
    started: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let Self(starts) = self;
        let starts = match starts.get() {
            Some(starts) => starts,
            None => {
                let new = start_thread()?;
                starts.get_or_init(|| new)
            }
        };
        let (started, outcome) = oneshot::channel();
        let runtime = Handle::current();
        let start = Start {
            command,
            runtime,
            started,
        };
        let gone = || io::Error::other("the thread that starts commands is gone");
        starts.send(start).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

fn start_thread() -> io::Result<mpsc::Sender<Start>> {
    let (sender, mut starts) = mpsc::channel::<Start>(STARTS_MAX);
    let run = move || {
        while let Some(start) = starts.blocking_recv() {
            let mut command = start.command;
            let _on = start.runtime.enter();
            // Nobody may wait any more: then the child is killed as it is dropped.
            let _ = start.started.send(command.spawn());
        }
    };
    let thread = std::thread::Builder::new().name("commands".to_owned());
    thread.spawn(run)?;
    Ok(sender)
}

/// The process group of a child that leads one. Killed when this is dropped.
#[derive(Debug)]
pub(super) struct Group {
    #[cfg(unix)]
    id: Option<rustix::process::Pid>,
    /// Once the leader is reaped and its group is killed, the id may be another's.
    over: AtomicBool,
}

#[cfg(unix)]
impl Group {
    /// The group of a child that was just started.
    pub(super) fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            id: id.and_then(rustix::process::Pid::from_raw),
            over: AtomicBool::new(false),
        }
    }

    /// Asks all of it to end.
    pub(super) fn ask_to_end(&self) {
        self.signal(rustix::process::Signal::TERM);
        // What was stopped hears of it only when it goes on.
        self.signal(rustix::process::Signal::CONT);
    }

    /// Ends all of it.
    pub(super) fn kill(&self) {
        self.signal(rustix::process::Signal::KILL);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(id) = self.id
            && !self.over.load(Ordering::Relaxed)
        {
            // It fails where nothing of the group is left.
            let _ = rustix::process::kill_process_group(id, signal);
        }
    }

    /// Waits for the end of the leader, and kills what it has left behind in its group.
    pub(super) async fn leader_ended(&self, child: &mut Child) -> io::Result<ExitStatus> {
        // Seen to have ended, but not reaped yet: then its group's id is surely its own.
        let seen = exited(self.id).await;
        if seen {
            self.kill();
        }
        let status = child.wait().await?;
        if !seen {
            self.kill();
        }
        self.over.store(true, Ordering::Relaxed);
        Ok(status)
    }
}

/// Completes when a child has ended, and leaves it to be reaped. False at once where that cannot be known.
#[cfg(unix)]
async fn exited(id: Option<rustix::process::Pid>) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use tokio::signal::unix::{SignalKind, signal};

    let (Some(id), Ok(mut changes)) = (id, signal(SignalKind::child())) else {
        return false;
    };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    loop {
        match waitid(WaitId::Pid(id), look) {
            Ok(Some(_)) => return true,
            // Some child or other ends, and it is looked again.
            Ok(None) if changes.recv().await.is_some() => {}
            _ => return false,
        }
    }
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// There are no groups elsewhere: only the child itself is ended.
#[cfg(not(unix))]
impl Group {
    pub(super) fn of(_: &Child) -> Self {
        let over = AtomicBool::new(false);
        Self { over }
    }

    pub(super) fn ask_to_end(&self) {}

    pub(super) fn kill(&self) {}

    pub(super) async fn leader_ended(&self, child: &mut Child) -> io::Result<ExitStatus> {
        child.wait().await
    }
}
