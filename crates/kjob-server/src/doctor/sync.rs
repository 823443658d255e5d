//! How fast the disk is where it counts: a job is acknowledged once it is synced.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::report::Finding;

/// Syncs that are measured, unless the disk is so slow that fewer have to do.
const SYNCS: usize = 128;

/// No more is begun after this.
const TIME_MAX: Duration = Duration::from_secs(3);

/// What a commit of one small job writes at least.
const WRITTEN: usize = 4096;

/// The writes go around in so many bytes, as the store's logs are written over and over.
const FILE_BYTES: usize = 256 * 1024;

/// Above these the disk is worth a warning: one client that waits for each submit gets below a hundred
/// a second, or every hundredth one feels a hitch.
const MEDIAN_MAX: Duration = Duration::from_millis(10);
const P99_MAX: Duration = Duration::from_millis(100);

/// No disk is that fast.
const MEDIAN_MIN: Duration = Duration::from_micros(5);

/// Measures in a directory that is there.
pub(super) fn speed(dir: &Path) -> Finding {
    let expected = format!(
        "a median of at most {} ms, and {} ms for all but one in a hundred",
        MEDIAN_MAX.as_millis(),
        P99_MAX.as_millis()
    );
    match measure(dir) {
        Ok(times) => judged(times, expected),
        Err(error) => Finding::new("disk_sync", format!("{}: {error}", dir.display()), expected)
            .fail("give a directory that the server's user may write to"),
    }
}

/// Times of syncs, the shortest first.
fn measure(dir: &Path) -> io::Result<Vec<Duration>> {
    // It has no name, and is gone with this process, however that ends.
    let mut file = tempfile::tempfile_in(dir)?;
    file.write_all(&vec![0x6b; FILE_BYTES])?;
    file.sync_all()?;
    let began = Instant::now();
    let mut times = Vec::with_capacity(SYNCS);
    for number in 0..SYNCS {
        let before = Instant::now();
        write_and_sync(&mut file, number)?;
        times.push(before.elapsed());
        if began.elapsed() > TIME_MAX {
            break;
        }
    }
    times.sort_unstable();
    Ok(times)
}

fn write_and_sync(file: &mut File, number: usize) -> io::Result<()> {
    let at = (number * WRITTEN) % FILE_BYTES;
    file.seek(SeekFrom::Start(at as u64))?;
    file.write_all(&[u8::try_from(number % 251).unwrap_or_default(); WRITTEN])?;
    file.sync_data()
}

/// `times` are sorted.
fn judged(times: Vec<Duration>, expected: String) -> Finding {
    let (median, p99) = (share(&times, 50), share(&times, 99));
    // A client that submits one job after the other waits for one sync each time; jobs that come together
    // share one.
    let alone = Duration::from_secs(1).as_nanos() / median.as_nanos().max(1);
    let found = format!(
        "{} syncs of {WRITTEN} bytes take {} (median) and {} (p99): at most {alone} submits/s for a client \
         that waits for each, more for many, who share syncs",
        times.len(),
        shown(median),
        shown(p99),
    );
    let finding = Finding::new("disk_sync", found, expected)
        .figure("syncs", times.len())
        .figure("median_us", micros(median))
        .figure("p99_us", micros(p99))
        .figure(
            "submits_per_second_alone",
            u64::try_from(alone).unwrap_or(u64::MAX),
        );
    if median > MEDIAN_MAX || p99 > P99_MAX {
        finding.warn("each submit waits for a sync: give the data directory a faster disk")
    } else if median < MEDIAN_MIN {
        finding.warn(
            "no disk is that fast, so a sync does nothing here, and jobs may be lost with the power: \
             see the mount options, and the cache mode of a virtual disk",
        )
    } else {
        finding.ok()
    }
}

/// The time that so many in a hundred do not pass.
fn share(times: &[Duration], percent: usize) -> Duration {
    let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(place).copied().unwrap_or_default()
}

fn shown(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    fn of_millis(millis: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        millis.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn shares_are_of_the_sorted_times() {
        let times = of_millis(1..=100);
        assert_eq!(share(&times, 50), Duration::from_millis(50));
        assert_eq!(share(&times, 99), Duration::from_millis(99));
        assert_eq!(share(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(share(&[], 50), Duration::ZERO);
    }

    #[test]
    fn slow_and_impossible_disks_are_told() {
        for (times, verdict) in [
            (of_millis([1; 128]), Verdict::Ok),
            (of_millis([10; 128]), Verdict::Ok),
            (of_millis([11; 128]), Verdict::Warn),
            (
                of_millis([vec![1; 126], vec![101; 2]].concat()),
                Verdict::Warn,
            ),
            (
                of_millis([vec![1; 127], vec![101; 1]].concat()),
                Verdict::Ok,
            ),
            (vec![Duration::from_nanos(500); 128], Verdict::Warn),
        ] {
            let finding = judged(times, String::new());
            assert_eq!(finding.verdict(), verdict, "{finding:?}");
        }
    }

    #[test]
    fn a_real_directory_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let times = measure(dir.path()).unwrap();
        assert!(!times.is_empty() && times.is_sorted());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
