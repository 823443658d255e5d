//! How often and when to try again.

use std::time::Duration;

use rand::RngExt;

/// The first wait between two tries; each further one doubles it.
const WAIT_FIRST: Duration = Duration::from_millis(100);

/// The longest wait of our own choice.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The longest wait that a server's Retry-After makes us take.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The first and the longest pause between two polls.
const POLL_FIRST: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(2);

/// How long to wait before the next try, after `tries` failed: doubling, less a jitter of up to
/// half, so that clients that failed together do not come back together; but not less than the
/// server asks for.
pub(crate) fn wait_after(tries: u32, retry_after: Option<Duration>) -> Duration {
    let own = jittered(doubled(WAIT_FIRST, tries.saturating_sub(1)).min(WAIT_MAX));
    match retry_after {
        Some(asked) => own.max(asked.min(RETRY_AFTER_MAX)),
        None => own,
    }
}

/// The pauses of a client that polls.
#[derive(Debug, Default)]
pub(crate) struct Polls(u32);

impl Polls {
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = doubled(POLL_FIRST, self.0).min(POLL_MAX);
        self.0 += 1;
        jittered(pause)
    }
}

/// How long to pause until a job is looked at again, a look each `every`: less than that, by a jitter of up
/// to half, so that clients that began together do not go on together; and less what the last look took.
pub(crate) fn until_next_look(every: Duration, took: Duration) -> Duration {
    jittered(every).saturating_sub(took)
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(20))
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_jitter_up_to_a_bound() {
        for (tries, full) in [(1, 100), (2, 200), (3, 400), (7, 5_000), (99, 5_000)] {
            for _ in 0..100 {
                let wait = wait_after(tries, None).as_millis();
                assert!((full / 2..=full).contains(&wait), "{tries}: {wait}");
            }
        }
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it_up_to_a_bound() {
        let asked = Duration::from_secs(7);
        assert_eq!(wait_after(1, Some(asked)), asked);
        assert_eq!(wait_after(1, Some(Duration::MAX)), RETRY_AFTER_MAX);
        assert!(wait_after(1, Some(Duration::ZERO)) >= WAIT_FIRST / 2);
    }

    /// A watch of a server that does not wait asked at the very same interval each time.
    #[test]
    fn looks_are_apart_by_their_interval_less_a_jitter() {
        let (every, took) = (Duration::from_millis(500), Duration::from_millis(100));
        let pauses: Vec<_> = (0..100).map(|_| until_next_look(every, took)).collect();
        for pause in &pauses {
            assert!((150..=400).contains(&pause.as_millis()), "{pause:?}");
        }
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!(until_next_look(every, every), Duration::ZERO);
    }

    #[test]
    fn polls_slow_down() {
        let mut polls = Polls::default();
        assert!(polls.pause() <= POLL_FIRST);
        for _ in 0..40 {
            polls.pause();
        }
        assert!(polls.pause() >= POLL_MAX / 2);
    }
}
