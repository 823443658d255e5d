//! Jobs that are programs on this machine: the payload on the standard input, the result from the standard
//! output.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_core::engine::{Handler, HandlerError, JobContext, JobInfo};
use kjob_core::{Output, Payload};
use kjob_proto::Encoding;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use super::answer::is_json;
use super::gather::{Gathering, Memory, TooLarge};
use super::launch::{Bounds, LAUNCH_WORD};
use super::process::{Group, Spawner};
use super::route::{CommandRoute, OutputForm};
use super::stderr::ErrorOutput;
use super::trace::traceparent;

/// Variables of the server's own environment that every command gets.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// Files that a command may have open, where its route does not say: what most systems give programs,
/// some of which take all that they may.
const OPEN_FILES: u64 = 1024;

/// The exit code by which a command says that another try may do better (`EX_TEMPFAIL` of sysexits.h).
const TRY_AGAIN: i32 = 75;

/// How long output may still come once a command and its group have ended: somebody who left the group
/// may hold the pipe.
const LEFT_WITHIN: Duration = Duration::from_secs(1);

/// What the operating system lets a command take. A limit above the server's own counts as that one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Seconds of processor time of each of its processes.
    pub cpu_seconds: Option<u64>,
    /// Bytes of address space of each of its processes.
    pub address_space: Option<u64>,
    /// Files that each of its processes may have open. Default 1024.
    pub open_files: u64,
    /// Bytes of each file that it writes.
    pub file_size: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_seconds: None,
            address_space: None,
            open_files: OPEN_FILES,
            file_size: None,
        }
    }
}

/// Starts commands, by way of a program that becomes them.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    program: Option<PathBuf>,
    spawner: Spawner,
}

impl Launcher {
    /// Commands are started by `program`, or by the one that runs.
    pub(super) fn new(program: Option<PathBuf>) -> Self {
        Self {
            program,
            spawner: Spawner::default(),
        }
    }
}

/// Runs a program for each job.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) route: CommandRoute,
    pub(super) launcher: Launcher,
    pub(super) memory: Memory,
    pub(super) max_result: usize,
}

/// Why a command gave no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the command cannot be started: {0}")]
    Start(io::Error),
    #[error("the command's output cannot be read: {0}")]
    Read(io::Error),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("the command ended with {}{}", ended(*.status), told(.text))]
    Ended { status: ExitStatus, text: String },
    #[error("the command's output is not JSON")]
    NotJson,
}

fn told(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

#[cfg(unix)]
fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(not(unix))]
fn ended(status: ExitStatus) -> String {
    status.to_string()
}

impl From<Failure> for HandlerError {
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Ended { status, .. } if status.code() == Some(TRY_AGAIN) => {
                Self::transient(failure)
            }
            _ => Self::failed(failure),
        }
    }
}

#[async_trait]
impl Handler for Command {
    async fn call(&self, context: JobContext, payload: Payload) -> Result<Output, HandlerError> {
        let encoding = payload.encoding;
        let (mut child, pipes) = self
            .start(&context, &payload)
            .await
            .map_err(Failure::Start)?;
        // Killed whole when it is dropped, as it is where the engine's patience ends.
        let group = Group::of(&child);
        let output = tokio::select! {
            biased;
            output = self.exchange(&context, &mut child, &group, pipes, payload.data) => output?,
            () = context.cancelled() => {
                group.ask_to_end();
                // Whatever it may still say, nobody listens; it has the time that the engine gives.
                group.leader_ended(&mut child).await.map_err(Failure::Read)?;
                return Err(HandlerError::Stopped);
            }
        };
        Ok(self.result(encoding, output).await?.into())
    }
}

/// The pipes of a command.
struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Command {
    async fn start(&self, context: &JobContext, payload: &Payload) -> io::Result<(Child, Pipes)> {
        let launcher = match &self.launcher.program {
            Some(program) => program.clone(),
            None => own_program()?,
        };
        let limits = &self.route.limits;
        let bounds = Bounds {
            cpu_seconds: limits.cpu_seconds,
            address_space: limits.address_space,
            open_files: Some(limits.open_files),
            file_size: limits.file_size,
        };
        let mut command = tokio::process::Command::new(launcher);
        command
            .arg(LAUNCH_WORD)
            .arg(std::process::id().to_string())
            .arg(bounds.to_argument())
            .args(&self.route.command)
            .env_clear()
            .envs(self.variables(context.job(), payload.encoding))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        if let Some(directory) = &self.route.directory {
            command.current_dir(directory);
        }
        let mut child = self.launcher.spawner.spawn(command).await?;
        let pipes = Pipes {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
        };
        Ok((child, pipes))
    }

    fn variables(&self, job: &JobInfo, encoding: Encoding) -> Vec<(String, String)> {
        let inherited = INHERITED.iter().filter_map(|name| {
            let value = std::env::var(name).ok()?;
            Some(((*name).to_owned(), value))
        });
        let of_job = [
            ("KJOB_JOB_ID", job.id.to_string()),
            ("KJOB_JOB_TAG", job.tag.to_string()),
            ("KJOB_ENDPOINT", job.endpoint.to_string()),
            ("KJOB_QUERY_ID", job.query_id.to_string()),
            ("KJOB_ATTEMPT", job.attempt.to_string()),
            ("KJOB_ENCODING", encoding.to_string()),
            ("TRACEPARENT", traceparent(job)),
        ];
        let of_job = of_job.map(|(name, value)| (name.to_owned(), value));
        // A zero byte ends a variable, and with one in it none of them could be set.
        let of_job = of_job.map(|(name, value)| (name, value.replace('\0', "")));
        let own = self.route.env.iter().cloned();
        inherited.chain(own).chain(of_job).collect()
    }

    /// Feeds a command, gathers what it says, and waits for its end.
    async fn exchange(
        &self,
        context: &JobContext,
        child: &mut Child,
        group: &Group,
        pipes: Pipes,
        input: Bytes,
    ) -> Result<Bytes, Failure> {
        let mut output = self.memory.gather(self.max_result);
        let mut errors = ErrorOutput::of(context.job().id);
        let is_read = AtomicBool::new(false);
        let status = {
            let mut feeding = std::pin::pin!(feed(pipes.stdin, input));
            // Too much output ends both: what else the command says is of no use then.
            let mut reading = std::pin::pin!(async {
                tokio::try_join!(gather(pipes.stdout, &mut output, &is_read), async {
                    listen(pipes.stderr, &mut errors, context).await;
                    Ok(())
                })
            });
            let mut is_fed = false;
            let mut ending = None;
            // A command that is over need not have taken its input, and may have left children that hold
            // its pipes; one that has closed its pipes may still be at work.
            let status = {
                let mut ended = std::pin::pin!(group.leader_ended(child));
                loop {
                    tokio::select! {
                        biased;
                        status = &mut ended => break status.map_err(Failure::Read)?,
                        () = &mut feeding, if !is_fed => is_fed = true,
                        both = &mut reading, if ending.is_none() => {
                            if both.is_err() {
                                group.kill();
                            }
                            ending = Some(both);
                        }
                    }
                }
            };
            while ending.is_none() {
                match tokio::time::timeout(LEFT_WITHIN, &mut reading).await {
                    Ok(both) => ending = Some(both),
                    // Somebody who left its group holds the pipes. All that the command wrote was there
                    // when it ended, and is read.
                    Err(_) if is_read.load(Ordering::Relaxed) => break,
                    // There is more, which waits for memory.
                    Err(_) => {}
                }
            }
            if let Some(ending) = ending {
                ending?;
            }
            status
        };
        if !status.success() {
            let text = errors.finish();
            return Err(Failure::Ended { status, text });
        }
        Ok(output.finish())
    }

    async fn result(&self, asked: Encoding, output: Bytes) -> Result<Payload, Failure> {
        let is_json = match self.route.output {
            OutputForm::Binary => false,
            OutputForm::Auto => asked == Encoding::Json && is_json(&output).await,
            OutputForm::Json => match is_json(&output).await {
                true => true,
                false => return Err(Failure::NotJson),
            },
        };
        let encoding = if is_json {
            Encoding::Json
        } else {
            Encoding::Binary
        };
        Ok(Payload {
            encoding,
            data: output,
        })
    }
}

/// The program that runs. On Linux by the system's own word for it: its file may have been replaced since, as
/// an upgrade does, and then its name leads to another, or nowhere.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe()
}

/// Writes the payload. A command need not read it.
async fn feed(stdin: Option<ChildStdin>, input: Bytes) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(&input).await;
    }
}

/// Reads the output to its end. `is_read` tells whether all was taken that has come by now.
async fn gather(
    stdout: Option<ChildStdout>,
    gathering: &mut Gathering,
    is_read: &AtomicBool,
) -> Result<(), Failure> {
    if let Some(mut stdout) = stdout {
        let mut buffer = vec![0; 64 << 10];
        loop {
            is_read.store(true, Ordering::Relaxed);
            let len = stdout.read(&mut buffer).await.map_err(Failure::Read)?;
            if len == 0 {
                break;
            }
            is_read.store(false, Ordering::Relaxed);
            gathering.push(&buffer[..len]).await?;
        }
    }
    is_read.store(true, Ordering::Relaxed);
    Ok(())
}

/// Reads the error output to its end.
async fn listen(stderr: Option<ChildStderr>, output: &mut ErrorOutput, context: &JobContext) {
    let Some(mut stderr) = stderr else {
        return;
    };
    let mut buffer = vec![0; 8 << 10];
    // What cannot be read is not told; the exit code is.
    while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
        if let Some(percent) = output.push(&buffer[..len]) {
            context.progress(percent);
        }
    }
}
