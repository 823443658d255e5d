//! What one measurement found.

use std::time::Duration;

use anyhow::Result;

use crate::generator::{Conversation, Load, Pace, load};
use crate::process::{Server, processor};

/// One measurement of one server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Requests or lives that ended.
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// The server's processor time for each, where it is known.
    pub(crate) processor: Option<Duration>,
}

/// Loads a server and looks at its processor time meanwhile.
///
/// # Errors
/// An answer was wrong, or the server ended.
pub(crate) fn sample<C: Conversation>(
    server: &Server,
    conversations: Vec<C>,
    pace: Pace,
) -> Result<Sample> {
    sample_all(std::slice::from_ref(server), conversations, pace)
}

/// Loads servers that are one service, as [`sample`] does; their processor times are added up.
///
/// # Errors
/// See there.
pub(crate) fn sample_all<C: Conversation>(
    servers: &[Server],
    conversations: Vec<C>,
    pace: Pace,
) -> Result<Sample> {
    let mut used = Vec::new();
    let looks = || used.push(servers.iter().map(|it| processor(it.id())).sum());
    let addresses: Vec<_> = servers.iter().map(|it| it.address).collect();
    let (load, _) = load(&addresses, conversations, pace, looks)?;
    let used: Vec<Duration> = used.into_iter().collect::<Result<_>>()?;
    let mut sample = Sample::from(&load);
    if let [before, after] = used[..] {
        let each = after.saturating_sub(before).as_secs_f64() / load.latencies.len().max(1) as f64;
        sample.processor = Some(Duration::from_secs_f64(each));
    }
    Ok(sample)
}

impl From<&Load> for Sample {
    fn from(load: &Load) -> Self {
        let at = |share| Duration::from_nanos(load.latencies.value_at_quantile(share));
        Self {
            per_second: load.latencies.len() as f64 / load.time.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            processor: None,
        }
    }
}

/// The middle of some numbers; of two in the middle the lower one.
pub(crate) fn median<T: Copy + PartialOrd>(numbers: impl IntoIterator<Item = T>) -> Option<T> {
    let mut numbers: Vec<T> = numbers.into_iter().collect();
    numbers.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let middle = numbers.len().saturating_sub(1) / 2;
    numbers.get(middle).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4, 1, 3, 2]), Some(2));
        assert_eq!(median([0_u8; 0]), None);
    }
}
