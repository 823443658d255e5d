//! The clock of the host: jobs expire by it, callbacks are signed with it, and certificates end by it.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::process::Command;

use super::report::Finding;

/// systemd-timesyncd keeps this file from the first time on that it has set the clock.
const SYNCHRONISED_FILE: &str = "/run/systemd/timesync/synchronized";

/// How long systemd may take to tell.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// 2026-01-01, before any version with this check was made: a clock that shows an earlier time was never
/// set.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);

/// How far the clock of the day may have moved against one that only goes forward, while the checks were
/// made.
const STEP_MAX: Duration = Duration::from_millis(250);

/// How far ahead of the clock something may have been changed: file systems may keep whole seconds, and
/// servers of files have clocks of their own.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// Whether somebody keeps the clock right.
pub(super) async fn is_synchronised() -> Finding {
    let expected = "a clock that is kept right over the network";
    let finding = |found: &str| Finding::new("clock_sync", found, expected);
    let advice = "run chrony, systemd-timesyncd or another client of NTP";
    if Path::new(SYNCHRONISED_FILE).exists() {
        return finding("systemd-timesyncd has set the clock").ok();
    }
    match kernel_says().await {
        Some(true) => finding("the kernel says that the clock is synchronised").ok(),
        Some(false) => finding("the kernel says that nobody keeps the clock right").warn(advice),
        None => finding("nobody here can tell whether the clock is synchronised").warn(format!(
            "in a container that is the host's affair, look there (timedatectl); on a host, {advice}"
        )),
    }
}

/// What the kernel was told by whoever sets the clock, be that chrony, ntpd or another. The call for it has no
/// safe words; systemd reads it out.
async fn kernel_says() -> Option<bool> {
    let mut ask = Command::new("timedatectl");
    ask.args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let told = tokio::time::timeout(TOLD_WITHIN, ask.output()).await;
    match told.ok()?.ok()?.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

/// Both clocks at one moment.
pub(super) struct Clocks {
    steady: Instant,
    wall: SystemTime,
}

impl Clocks {
    pub(super) fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Whether the time can be what the clock shows. `newest` is when something in the data directory was
    /// changed last.
    pub(super) fn sanity(&self, newest: Option<SystemTime>) -> Finding {
        judged(self.steady.elapsed(), self.wall, SystemTime::now(), newest)
    }
}

/// While `steady` passed, the clock of the day went from `from` to `to`.
fn judged(
    steady: Duration,
    from: SystemTime,
    to: SystemTime,
    newest: Option<SystemTime>,
) -> Finding {
    let found = format!("it is {}", humantime::format_rfc3339_seconds(to));
    let expected = "a time that can be, later than all that is stored, and that makes no steps";
    let finding = |found| Finding::new("clock", found, expected);
    let set = "set the clock of the host";
    if to < UNIX_EPOCH + EARLIEST {
        return finding(format!("{found}, which is long ago")).fail(set);
    }
    let ahead = newest.and_then(|newest| newest.duration_since(to).ok());
    if let Some(ahead) = ahead.filter(|ahead| *ahead > AHEAD_MAX) {
        let ahead = humantime::format_duration(Duration::from_secs(ahead.as_secs()));
        return finding(format!(
            "{found}, and the data directory was changed {ahead} after that"
        ))
        .warn(format!(
            "the clock was set back, or was wrong before: {set}; jobs of later expire late"
        ));
    }
    let step = match to.duration_since(from) {
        Ok(wall) => wall.abs_diff(steady),
        Err(back) => back.duration().saturating_add(steady),
    };
    if step > STEP_MAX {
        let millis = step.as_millis();
        return finding(format!(
            "{found}, and was set by {millis} ms during the checks"
        ))
        .warn("if it goes on so, let a client of NTP slew the clock instead of setting it");
    }
    finding(found).ok()
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_clock_that_cannot_be_right_is_told() {
        let now = UNIX_EPOCH + EARLIEST + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        for (steady, from, to, newest, verdict) in [
            (second, now, now + second, None, Verdict::Ok),
            (second, now, now + second, Some(now), Verdict::Ok),
            (
                second,
                now,
                now + second,
                Some(now + 61 * second),
                Verdict::Ok,
            ),
            (
                second,
                now,
                now + second,
                Some(now + 62 * second),
                Verdict::Warn,
            ),
            (second, now, now + second + STEP_MAX, None, Verdict::Ok),
            (second, now, now + 3 * second, None, Verdict::Warn),
            (second, now, now - second, None, Verdict::Warn),
            (second, UNIX_EPOCH, UNIX_EPOCH + second, None, Verdict::Fail),
        ] {
            let finding = judged(steady, from, to, newest);
            assert_eq!(finding.verdict(), verdict, "{finding:?}");
        }
    }
}
