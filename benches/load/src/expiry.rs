//! What it costs a server that serves when a quarter of its stored jobs has expired, and their space is given
//! back.
//!
//! A server looks for such jobs a minute after its start for the first time, so it is loaded until some time
//! after that, and what it does then is held against what it did before.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cases::{SMALL, SOME};
use crate::facts::{Facts, mebibytes};
use crate::fill::{Count, fill};
use crate::generator::{Pace, load};
use crate::http;
use crate::kept::size;
use crate::kjob::{self, Life, payload};
use crate::process::Server;
use crate::sample::median;
use crate::table::{shown_count, shown_ratio};
use crate::windows::{Counted, Windows};

/// One in so many of the stored jobs has expired.
const SHARE: u64 = 4;

const WINDOW: Duration = Duration::from_secs(2);

/// Windows from the server's start on.
const WINDOWS: usize = 40;

/// Those in which it serves and nothing else: no longer new, and not yet looking for expired jobs.
const BEFORE: Range<usize> = 3..27;

/// Those from shortly before it looks for them.
const AFTER: Range<usize> = 28..WINDOWS;

/// Where the server counts jobs whose space it gave back.
const COUNTER: &str = "kjob_expired_jobs_total";

/// # Errors
/// The store's and the server's; and if there is nothing to see, as no job's space was given back.
pub(crate) fn measure(program: &Path, home: &Path, stored: u64, facts: &mut Facts) -> Result<()> {
    let expired = stored / SHARE;
    if expired == 0 {
        bail!("`--only expiry` needs a store: `--stored N`, with {SHARE} jobs at least");
    }
    let filled = tempfile::tempdir_in(home)?;
    let data = filled.path().join("data");
    fs::create_dir(&data)?;
    let count = Count {
        expired,
        stored: stored - expired,
        ..Count::default()
    };
    fill(&data, count, SMALL)?;
    let size_before = size(&data)?;
    let server = kjob::start(program, filled.path())?;
    let windows = live(&server)?;
    let given_back = given_back(&server)?;
    // Kills it: no file comes or goes while they are added up.
    drop(server);
    let size_after = size(&data)?;
    if given_back == 0 {
        bail!("{expired} jobs have expired, and the server gave back the space of none");
    }

    let per_second = windows.per_second();
    let rates = |of: Range<usize>| per_second.get(of).and_then(Rates::of).context("no window");
    let (before, after) = (rates(BEFORE)?, rates(AFTER)?);
    let share = |rate: f64| shown_ratio(rate / before.middle);
    facts.add(
        format!(
            "lives a second beside {stored} stored jobs, {} after the start",
            span(&BEFORE)
        ),
        format!(
            "{} in the middle window of {} s, {} in the lowest",
            shown_count(before.middle),
            WINDOW.as_secs(),
            shown_count(before.lowest)
        ),
    );
    facts.add(
        format!("the same, {}, with expiry after a minute", span(&AFTER)),
        format!(
            "{} in the middle window, {} of that before; {} in the lowest, {} of it",
            shown_count(after.middle),
            share(after.middle),
            shown_count(after.lowest),
            share(after.lowest)
        ),
    );
    facts.add(
        "jobs that had expired, and those whose space was given back",
        format!("{expired}, {given_back}"),
    );
    facts.add(
        format!(
            "data on disk before the start, and {} lives later",
            windows.sum()
        ),
        format!("{}, {}", mebibytes(size_before), mebibytes(size_after)),
    );
    let each: Vec<String> = per_second.iter().copied().map(shown_count).collect();
    facts.add("lives a second in each window", each.join(", "));
    Ok(())
}

/// Lives over many connections at once, as in `together`.
fn live(server: &Server) -> Result<Windows> {
    let payload = payload(SMALL);
    let pace = Pace {
        warm_up: Duration::ZERO,
        time: WINDOW * WINDOWS as u32,
        threads: 1,
    };
    let mut windows = Windows::new(Instant::now(), WINDOW, WINDOWS);
    let life = |_| Counted::new(Life::new(&payload), windows.clone());
    let lives = (0..SOME).map(life).collect();
    let (_, lives) = load(&[server.address], lives, pace, || ())?;
    for life in &lives {
        windows.add(&life.windows);
    }
    Ok(windows)
}

/// How many jobs' space the server says that it gave back since its start.
fn given_back(server: &Server) -> Result<u64> {
    let mut stream = TcpStream::connect(server.address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut input = Vec::new();
    stream.read_to_end(&mut input)?;
    let answer = http::answer(&input)?.context("half a page of metrics")?;
    counter(std::str::from_utf8(answer.body)?, COUNTER)
}

/// A counter without labels on a page of metrics.
fn counter(page: &str, name: &str) -> Result<u64> {
    let mut lines = page.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("the page of metrics has no {name}"))?;
    // All values are floating-point numbers there.
    Ok(value.trim().parse::<f64>()? as u64)
}

/// What some windows say.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    middle: f64,
    lowest: f64,
}

impl Rates {
    fn of(per_second: &[f64]) -> Option<Self> {
        Some(Self {
            middle: median(per_second.iter().copied())?,
            lowest: per_second.iter().copied().reduce(f64::min)?,
        })
    }
}

/// When these windows are.
fn span(windows: &Range<usize>) -> String {
    let seconds = |window: usize| window as u64 * WINDOW.as_secs();
    format!("{} to {} s", seconds(windows.start), seconds(windows.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let page = "# TYPE a_total counter\na_total_of_all 3\na_total 2750000\n";
        assert_eq!(counter(page, "a_total").unwrap(), 2_750_000);
        assert!(counter(page, "b_total").is_err());
    }

    #[test]
    fn windows_have_a_middle_and_a_lowest() {
        let (middle, lowest) = (3.0, 1.0);
        assert_eq!(Rates::of(&[4.0, 1.0, 3.0]), Some(Rates { middle, lowest }));
        assert_eq!(Rates::of(&[]), None);
    }

    #[test]
    fn nothing_is_measured_without_a_store_to_fill() {
        for stored in [0, SHARE - 1] {
            let (program, home) = (Path::new("no program"), Path::new("no home"));
            let error = measure(program, home, stored, &mut Facts::default());
            let error = error.unwrap_err().to_string();
            assert!(error.contains("--stored"), "{error}");
        }
    }

    #[test]
    fn the_first_look_for_expired_jobs_is_in_the_windows_after_and_not_before() {
        assert_eq!(span(&BEFORE), "6 to 54 s");
        assert_eq!(span(&AFTER), "56 to 80 s");
    }
}
