//! What a server costs that has nothing to do: alone, and while ten thousand clients wait.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kjob_proto::StringMap;

use crate::cases::{SMALL, SOME};
use crate::facts::{Facts, mebibytes, millis};
use crate::generator::{Pace, load};
use crate::kjob::{self, Request, Submit, Tags, payload};
use crate::process::{Server, memory, processor};
use crate::sample::median;

/// Long polls that wait at once, each for a job of its own.
const POLLS: usize = 10_000;

/// How long each may wait; longer than it is looked at.
const POLL_MILLIS: &str = "250000";

/// For how long a server that rests is watched.
const WATCHED: Duration = Duration::from_secs(10);

const STARTS: usize = 5;

/// # Errors
/// The server, or the limit of open files.
pub(crate) fn measure(program: &Path, home: &Path, facts: &mut Facts) -> Result<()> {
    facts.add(
        "size of the program",
        mebibytes(std::fs::metadata(program)?.len()),
    );
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let fresh = tempfile::tempdir_in(home)?;
        starts.push(kjob::start(program, fresh.path())?.ready_in);
    }
    let start = median(starts).unwrap_or_default();
    facts.add(
        "from its start until it is ready, with an empty store",
        millis(start),
    );

    let fresh = tempfile::tempdir_in(home)?;
    let server = kjob::start(program, fresh.path())?;
    facts.add("memory, idle", mebibytes(memory(server.id())?));
    let used = used_while_resting(&server)?;
    facts.add("processor time in 10 s, idle", millis(used));

    let files = rlimit::increase_nofile_limit(u64::MAX)?;
    if files < POLLS as u64 + 100 {
        bail!("{POLLS} connections need as many open files, and {files} are allowed");
    }
    let jobs = waiting_jobs(&server)?;
    let before = memory(server.id())?;
    let mut polls = open_polls(&server, &jobs)?;
    await_rest(&server)?;
    let used = used_while_resting(&server)?;
    let each = memory(server.id())?.saturating_sub(before) / POLLS as u64;
    facts.add(
        format!("memory for each of {POLLS} connections with a long poll"),
        format!("{:.1} KiB", each as f64 / 1024.0),
    );
    facts.add(
        format!("processor time in 10 s while {POLLS} long polls wait"),
        millis(used),
    );
    still_wait(&mut polls)
}

fn used_while_resting(server: &Server) -> Result<Duration> {
    let before = processor(server.id())?;
    std::thread::sleep(WATCHED);
    Ok(processor(server.id())?.saturating_sub(before))
}

/// Ids of jobs that do not start today.
fn waiting_jobs(server: &Server) -> Result<Vec<i64>> {
    let payload = payload(SMALL);
    let pace = Pace {
        warm_up: Duration::ZERO,
        time: Duration::from_millis(200),
        threads: 1,
    };
    let mut ids = Vec::new();
    while ids.len() < POLLS {
        let submits = (0..SOME).map(|_| Submit::new(&payload, Tags::Server));
        let (_, submits) = load(
            &[server.address],
            submits.collect::<Result<_>>()?,
            pace,
            || (),
        )?;
        ids.extend(submits.into_iter().flat_map(|submit| submit.ids));
    }
    ids.truncate(POLLS);
    Ok(ids)
}

fn open_polls(server: &Server, jobs: &[i64]) -> Result<Vec<TcpStream>> {
    let mut request = Request::new(StringMap::from_iter([("wait_ms", POLL_MILLIS)]));
    let open = |id: &i64| {
        let mut stream = TcpStream::connect(server.address)?;
        request.ask_for(*id);
        stream.write_all(request.bytes())?;
        stream.set_nonblocking(true)?;
        anyhow::Ok(stream)
    };
    jobs.iter()
        .map(open)
        .collect::<Result<_>>()
        .context("a long poll")
}

/// Waits until it has done nothing for a while.
fn await_rest(server: &Server) -> Result<()> {
    let began = Instant::now();
    let mut used = processor(server.id())?;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = processor(server.id())?;
        if now == used {
            return Ok(());
        }
        if began.elapsed() > Duration::from_secs(60) {
            bail!("the server does not come to rest");
        }
        used = now;
    }
}

fn still_wait(polls: &mut [TcpStream]) -> Result<()> {
    for poll in polls {
        match poll.read(&mut [0; 256]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => bail!("a long poll was answered before its time: {other:?}"),
        }
    }
    Ok(())
}
