//! How the program ends, and what it says when that is not well.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kjob_client::{Error, Status};

use super::text::shown;

/// What the exit code says. The numbers are documented, in the help and in docs/cli.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Misused = 2,
    JobFailed = 3,
    JobCancelled = 4,
    JobRunning = 5,
    NoSuchJob = 6,
    /// 128 and SIGINT, as shells say it.
    Interrupted = 130,
    /// 128 and SIGPIPE.
    NobodyReads = 141,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Status> for Exit {
    fn from(status: &Status) -> Self {
        match status {
            Status::Done => Self::Done,
            Status::Error => Self::JobFailed,
            Status::Cancelled => Self::JobCancelled,
            Status::Running => Self::JobRunning,
            _ => Self::Failed,
        }
    }
}

/// Why the program could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] Error),
    #[error("{path:?}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("{path:?}: {why}")]
    Config { path: PathBuf, why: String },
    #[error("{0}")]
    Usage(&'static str),
    #[error("{0} is not shown on a terminal, which it might act on: use -o FILE")]
    NotForTerminal(&'static str),
    #[error("kjob cannot start: {0}")]
    Runtime(io::Error),
    // Its cause is told after it, as all are.
    #[error("the output cannot be written")]
    Output(#[from] io::Error),
}

impl Failure {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |error| Self::File {
            path: path.to_owned(),
            error,
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Client(error) if error.is_no_such_job() => Exit::NoSuchJob,
            Self::Client(error) if error.is_usage() => Exit::Misused,
            Self::Config { .. } | Self::Usage(_) => Exit::Misused,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::NobodyReads,
            _ => Exit::Failed,
        }
    }

    /// For people: in one line, with its causes and the server that it is about.
    pub(crate) fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(line, ": {error}");
            cause = error.source();
        }
        if let Self::Client(error) = self
            && !error.is_refused()
            && let Some(server) = error.server()
        {
            let _ = write!(line, " ({server})");
        }
        shown(&line).into_owned()
    }
}

/// A JSON text cannot be made of what the program itself prints: never, as it has no odd keys.
impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}
