//! When an upstream is asked again that has surely not run a job: it was not reached, or it said so.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use rand::RngExt as _;
use tokio::time::Instant;

/// The wait after the first refusal, where the upstream names none; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest wait, whatever the upstream says: it may be free again sooner, and others ask as well.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The tries of one attempt. The job has not run, so asking again runs nothing twice.
#[derive(Debug)]
pub(super) struct Again {
    until: Instant,
    pause: Duration,
}

impl Again {
    /// Asks again for this long.
    pub(super) fn within(unavailable_timeout: Duration) -> Self {
        // A time past all clocks is no end.
        let now = Instant::now();
        let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        Self {
            until: now + unavailable_timeout.min(century),
            pause: PAUSE_MIN,
        }
    }

    /// Waits as long as the upstream said, or a little longer each time. `false` at once if the time is
    /// over before.
    pub(super) async fn wait(&mut self, told: Option<Duration>) -> bool {
        let jitter = rand::rng().random_range(0.5..=1.0);
        let pause = match told {
            // Not sooner than it said, and not all at the same moment.
            Some(told) => told + self.pause.mul_f64(jitter),
            None => self.pause.mul_f64(jitter),
        };
        let next = Instant::now() + pause.min(PAUSE_MAX);
        if next > self.until {
            return false;
        }
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        tokio::time::sleep_until(next).await;
        true
    }
}

/// How long an answer says to wait: in seconds, or until a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            // One that is over is no wait.
            Some(date.duration_since(SystemTime::now()).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_waits_longer_each_time_and_not_beyond_its_end() {
        let start = Instant::now();
        let mut again = Again::within(Duration::from_secs(60));
        let mut waits = Vec::new();
        loop {
            let before = Instant::now();
            if !again.wait(None).await {
                assert_eq!(Instant::now(), before, "it does not wait for nothing");
                break;
            }
            waits.push(before.elapsed());
        }
        assert!(start.elapsed() <= Duration::from_secs(60));
        assert!(start.elapsed() > Duration::from_secs(60) - PAUSE_MAX);
        assert!(waits[0] >= PAUSE_MIN / 2 && waits[0] <= PAUSE_MIN);
        assert!(waits.iter().all(|wait| *wait <= PAUSE_MAX));
        assert!((10..30).contains(&waits.len()), "{waits:?}");
        assert!(!Again::within(Duration::ZERO).wait(None).await);
        assert!(Again::within(Duration::MAX).wait(None).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_upstream_says_is_waited_for() {
        let mut again = Again::within(Duration::from_secs(5));
        let start = Instant::now();
        assert!(again.wait(Some(Duration::from_secs(3))).await);
        assert!(start.elapsed() >= Duration::from_secs(3));
        assert!(!again.wait(Some(Duration::from_secs(3))).await);
        assert!(!again.wait(Some(Duration::MAX / 2)).await);
    }

    #[test]
    fn the_header_is_seconds_or_a_date() {
        let of = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = SystemTime::now() + Duration::from_secs(100);
        let wait = of(&httpdate::fmt_http_date(soon)).unwrap();
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(100));
        for text in ["soon", "-1", "1.5", ""] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
