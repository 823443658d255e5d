//! How many ended in each of some windows of time, one right after the other, over one load.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::generator::{Conversation, Heard};

/// Counts by the time since a beginning.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    begin: Instant,
    each: Duration,
    counts: Vec<u64>,
}

impl Windows {
    pub(crate) fn new(begin: Instant, each: Duration, count: usize) -> Self {
        let counts = vec![0; count];
        Self {
            begin,
            each,
            counts,
        }
    }

    /// What ends after the last window does not count.
    fn note(&mut self, at: Instant) {
        let since = at.saturating_duration_since(self.begin);
        let place = since.div_duration_f64(self.each) as usize;
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
    }

    /// Adds what ended in the same windows elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        for (own, others) in self.counts.iter_mut().zip(&other.counts) {
            *own += others;
        }
    }

    pub(crate) fn per_second(&self) -> Vec<f64> {
        let each = self.each.as_secs_f64();
        let counts = self.counts.iter();
        counts.map(|count| *count as f64 / each).collect()
    }

    pub(crate) fn sum(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Has a conversation, and notes when what is counted ends.
#[derive(Debug)]
pub(crate) struct Counted<C> {
    inner: C,
    pub(crate) windows: Windows,
}

impl<C> Counted<C> {
    pub(crate) fn new(inner: C, windows: Windows) -> Self {
        Self { inner, windows }
    }
}

impl<C: Conversation> Conversation for Counted<C> {
    fn request(&self) -> &[u8] {
        self.inner.request()
    }

    fn hear(&mut self, input: &[u8]) -> Result<Heard> {
        let heard = self.inner.hear(input)?;
        if matches!(heard, Heard::Answer { ends: true, .. }) {
            self.windows.note(Instant::now());
        }
        Ok(heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: Duration = Duration::from_secs(2);

    #[test]
    fn each_is_in_the_window_that_it_ended_in() {
        let begin = Instant::now();
        let mut windows = Windows::new(begin, EACH, 3);
        for millis in [0, 1_999, 2_000, 5_999, 6_000, 60_000] {
            windows.note(begin + Duration::from_millis(millis));
        }
        assert_eq!(windows.per_second(), [1.0, 0.5, 0.5]);
        windows.add(&windows.clone());
        assert_eq!(windows.per_second(), [2.0, 1.0, 1.0]);
        assert_eq!(windows.sum(), 8);
    }

    /// Has two answers to each of what is counted.
    struct Halves(bool);

    impl Conversation for Halves {
        fn request(&self) -> &[u8] {
            b"half"
        }

        fn hear(&mut self, input: &[u8]) -> Result<Heard> {
            if input.is_empty() {
                return Ok(Heard::Part);
            }
            let ends = self.0;
            self.0 = !ends;
            let len = input.len();
            Ok(Heard::Answer { len, ends })
        }
    }

    #[test]
    fn what_does_not_end_is_not_counted() {
        let windows = Windows::new(Instant::now(), Duration::from_secs(3600), 1);
        let mut counted = Counted::new(Halves(false), windows);
        assert_eq!(counted.request(), b"half");
        for (input, sum) in [("", 0), ("a", 0), ("", 0), ("a", 1), ("a", 1), ("a", 2)] {
            counted.hear(input.as_bytes()).unwrap();
            assert_eq!(counted.windows.sum(), sum);
        }
    }
}
