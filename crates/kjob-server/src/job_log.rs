//! Lines about jobs, the last of each: those that went to the log, and what commands wrote to their error output.
//!
//! They are the process's, as its log is, and in memory only. The jobs that had no line for the longest time give up
//! theirs first.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::{LazyLock, Mutex, PoisonError};

use kjob_core::engine::{Caller, SystemClock};
use kjob_core::{Clock, JobId};
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::ordinary::rfc3339;

/// The longest text of a line, in bytes.
const TEXT_LEN_MAX: usize = 1 << 10;

/// How many lines of a job are kept.
const LINES_MAX: usize = 50;

/// How many bytes all lines may take together, about.
const BYTES_MAX: usize = 4 << 20;

/// What a line takes beside its text, about.
const LINE_BYTES: usize = 64;

/// What a line may tell the job's owner beside its message. Anything else, as errors of the store or of an upstream,
/// names files and hosts, which are for those who run the server.
const FIELDS_FOR_OWNERS: [&str; 5] = ["attempt", "endpoint", "phase", "status", "total_ms"];

/// A line about a job.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    time: String,
    /// A level of the log, or `stderr`.
    level: &'static str,
    text: String,
    /// What admins see behind it.
    #[serde(skip)]
    internals: String,
}

/// The lines of many jobs.
#[derive(Debug, Default)]
struct Lines {
    jobs: HashMap<JobId, VecDeque<Line>>,
    /// Jobs in the order of their first lines.
    order: VecDeque<JobId>,
    bytes: usize,
}

static LINES: LazyLock<Mutex<Lines>> = LazyLock::new(Mutex::default);

/// The last lines about a job, the oldest first, as this caller may see them.
pub(crate) fn of(id: JobId, caller: &Caller) -> Vec<Line> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = lines.jobs.get(&id).into_iter().flatten().cloned();
    let as_seen = lines.map(|mut line| {
        if caller.admin {
            line.text.push_str(&line.internals);
        }
        line
    });
    as_seen.collect()
}

/// A command wrote a line to its error output.
pub(crate) fn of_command(id: JobId, text: &str) {
    note(id, "stderr", text.to_owned(), String::new());
}

fn note(id: JobId, level: &'static str, text: String, internals: String) {
    let line = Line {
        time: rfc3339(SystemClock.now()),
        level,
        text: cut(text),
        internals: cut(internals),
    };
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push(id, line);
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_LEN_MAX {
        text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
        text.push('…');
    }
    text
}

impl Lines {
    fn push(&mut self, id: JobId, line: Line) {
        self.bytes += line.bytes();
        let lines = self.jobs.entry(id).or_default();
        if lines.is_empty() {
            self.order.push_back(id);
        }
        lines.push_back(line);
        if lines.len() > LINES_MAX
            && let Some(first) = lines.pop_front()
        {
            self.bytes -= first.bytes();
        }
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.jobs.remove(&oldest).unwrap_or_default();
            self.bytes -= gone.iter().map(Line::bytes).sum::<usize>();
        }
    }
}

impl Line {
    fn bytes(&self) -> usize {
        self.text.len() + self.internals.len() + self.time.len() + LINE_BYTES
    }
}

/// Keeps the lines of the log that are about a job.
#[derive(Debug)]
pub(crate) struct Keeper;

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.fields().field("job_id").is_none() {
            return;
        }
        let mut found = Found::default();
        event.record(&mut found);
        if let Some(id) = found.job {
            let level = level_word(*metadata.level());
            note(id, level, found.text + &found.fields, found.internals);
        }
    }
}

fn level_word(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        _ => "trace",
    }
}

/// What an event says.
#[derive(Default)]
struct Found {
    job: Option<JobId>,
    text: String,
    /// Fields that anybody may see who sees the job.
    fields: String,
    internals: String,
}

impl Visit for Found {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A text takes any write.
        let _ = match field.name() {
            "job_id" => {
                let id = format!("{value:?}").parse().ok().and_then(JobId::new);
                self.job = id;
                Ok(())
            }
            // Every line would have them.
            "job_tag" | "query_id" => Ok(()),
            "message" => write!(self.text, "{value:?}"),
            name if FIELDS_FOR_OWNERS.contains(&name) => write!(self.fields, " {name}={value:?}"),
            name => write!(self.internals, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use kjob_core::Owner;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn id(number: i64) -> JobId {
        JobId::new(number).unwrap()
    }

    fn line(text: &str) -> Line {
        Line {
            time: String::new(),
            level: "info",
            text: text.to_owned(),
            internals: String::new(),
        }
    }

    #[test]
    fn lines_of_the_log_that_name_a_job_are_kept_with_it() {
        let (one, other) = (id(9_000_001), id(9_000_002));
        let subscriber = tracing_subscriber::registry().with(Keeper);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(job_id = %one, job_tag = "t", query_id = "q", attempt = 2, "queued again");
            tracing::error!(job_id = other.get(), error = %"no room", "failed");
            tracing::info!("of no job");
        });
        of_command(one, "half way");
        let (ann, admin) = (
            Caller::user(Owner::new("ann")),
            Caller::admin(Owner::new("root")),
        );
        let texts = |id, caller| {
            of(id, caller)
                .into_iter()
                .map(|line| (line.level, line.text))
                .collect::<Vec<_>>()
        };
        let warned = ("warn", "queued again attempt=2".to_owned());
        let of_one = [warned, ("stderr", "half way".to_owned())];
        assert_eq!(texts(one, &ann), of_one);
        assert_eq!(texts(one, &admin), of_one);
        assert_eq!(texts(other, &ann), [("error", "failed".to_owned())]);
        let whole = ("error", "failed error=no room".to_owned());
        assert_eq!(texts(other, &admin), [whole]);
        assert_eq!(texts(id(9_000_003), &admin), []);
    }

    #[test]
    fn memory_is_bounded_by_lines_of_a_job_and_bytes_of_all() {
        let mut lines = Lines::default();
        for number in 0..100 {
            lines.push(id(1), line(&number.to_string()));
        }
        let kept = &lines.jobs[&id(1)];
        assert_eq!((kept.len(), kept[0].text.as_str()), (LINES_MAX, "50"));
        let long = cut("ä".repeat(TEXT_LEN_MAX));
        assert!(long.len() <= TEXT_LEN_MAX + "…".len() && long.ends_with('…'));
        for number in 2..20_000 {
            lines.push(id(number), line(&long));
        }
        assert!(lines.bytes <= BYTES_MAX && !lines.jobs.contains_key(&id(1)));
        assert!(lines.jobs.contains_key(&id(19_999)));
        assert_eq!(lines.jobs.len(), lines.order.len());
        let counted = lines
            .jobs
            .values()
            .flatten()
            .map(Line::bytes)
            .sum::<usize>();
        assert_eq!(counted, lines.bytes);
    }
}
