//! `/demo/primes`: counts the primes up to a limit, with a sieve that goes over the numbers in
//! pieces which fit into a processor's cache.

use kjob_core::Payload;
use kjob_core::engine::{HandlerError, JobContext};
use serde::{Deserialize, Serialize};

use super::{Info, read, write};

/// The largest limit: some tens of seconds of work, and 100,000 numbers to divide by.
const LIMIT_MAX: u64 = 10_000_000_000;

/// Odd numbers to a piece, each a byte: half of what a small second-level cache holds.
const PIECE_LEN: usize = 128 * 1024;

#[derive(Deserialize)]
struct Request {
    limit: i64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Response {
    count: u64,
    /// 0 if there is no prime up to the limit.
    largest: u64,
    info: Info,
}

pub(super) async fn primes(context: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    let Request { limit } = read(&payload)?;
    let limit = u64::try_from(limit)
        .ok()
        .filter(|limit| *limit <= LIMIT_MAX)
        .ok_or_else(|| {
            HandlerError::failed(format!("limit is {limit}, not in 0 ..= {LIMIT_MAX}"))
        })?;
    // If this future is dropped, the thread still sees that it is to stop.
    let work = tokio::task::spawn_blocking(move || {
        count(limit, |percent| {
            context.progress(percent);
            !context.is_cancelled()
        })
    });
    let found = work.await.map_err(HandlerError::failed)?;
    write(&found.ok_or(HandlerError::Stopped)?)
}

/// Counts the primes up to `limit`. `go_on` is told how far it is, in percent, before each piece;
/// `None` if it says no.
fn count(limit: u64, mut go_on: impl FnMut(u8) -> bool) -> Option<Response> {
    let mut response = Response {
        count: u64::from(limit >= 2),
        largest: if limit >= 2 { 2 } else { 0 },
        info: Info {},
    };
    // Each odd prime up to the root of the limit, with its next odd multiple.
    let mut multiples: Vec<(u64, u64)> = odd_primes(limit.isqrt())
        .into_iter()
        .map(|prime| (prime, prime * prime))
        .collect();
    let mut is_composite = vec![false; PIECE_LEN];
    let mut begin = 3;
    while begin <= limit {
        if !go_on(u8::try_from(begin * 100 / limit).unwrap_or(99)) {
            return None;
        }
        let end = begin + 2 * PIECE_LEN as u64;
        is_composite.fill(false);
        for (prime, multiple) in &mut multiples {
            if *multiple >= end {
                // The ones after it are larger, and so are their squares; but multiples of smaller
                // primes may skip a piece, so only squares tell that the rest is not needed yet.
                if *prime * *prime >= end {
                    break;
                }
                continue;
            }
            let mut at = place(*multiple, begin);
            while let Some(number) = is_composite.get_mut(at) {
                *number = true;
                at += usize::try_from(*prime).unwrap_or(usize::MAX);
            }
            *multiple = begin + 2 * at as u64;
        }
        let within = place(limit.min(end - 2) + 1, begin).min(PIECE_LEN);
        let piece = is_composite.get(..within).unwrap_or_default();
        response.count += piece.iter().filter(|composite| !**composite).count() as u64;
        if let Some(last) = piece.iter().rposition(|composite| !composite) {
            response.largest = begin + 2 * last as u64;
        }
        begin = end;
    }
    Some(response)
}

/// Where an odd number is in the piece that begins with the odd `begin`; for an even one, where
/// the next odd one is.
fn place(number: u64, begin: u64) -> usize {
    usize::try_from((number - begin).div_ceil(2)).unwrap_or(usize::MAX)
}

/// The odd primes up to `limit`, which is at most 100,000.
fn odd_primes(limit: u64) -> Vec<u64> {
    let mut primes: Vec<u64> = Vec::new();
    for number in (3..=limit).step_by(2) {
        let divisors = primes
            .iter()
            .take_while(|prime| **prime * **prime <= number);
        if !divisors
            .into_iter()
            .any(|prime| number.is_multiple_of(*prime))
        {
            primes.push(number);
        }
    }
    primes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(limit: u64) -> (u64, u64) {
        let response = count(limit, |_| true).unwrap();
        (response.count, response.largest)
    }

    /// Compared with trial division, at each limit, so at each edge of the first primes.
    #[test]
    fn small_limits_agree_with_trial_division() {
        let is_prime = |n: u64| {
            n >= 2
                && (2..n)
                    .take_while(|d| d * d <= n)
                    .all(|d| !n.is_multiple_of(d))
        };
        let mut expected = (0, 0);
        for limit in 0..2_000 {
            if is_prime(limit) {
                expected = (expected.0 + 1, limit);
            }
            assert_eq!(found(limit), expected, "{limit}");
        }
    }

    /// The numbers of primes are those of OEIS A006880; the limits need one piece and many.
    #[test]
    fn large_limits_agree_with_the_tables() {
        assert_eq!(found(100_000), (9_592, 99_991));
        assert_eq!(found(1_000_000), (78_498, 999_983));
        assert_eq!(found(10_000_000), (664_579, 9_999_991));
    }

    #[test]
    fn limits_at_the_edge_of_a_piece() {
        // Table-free: going one number on changes the count by at most one, and by none if even.
        let end = 3 + 2 * PIECE_LEN as u64;
        for limit in end - 4..end + 4 {
            let (before, now) = (found(limit - 1), found(limit));
            assert_eq!(now.0 - before.0, u64::from(now.1 == limit), "{limit}");
            assert!(limit % 2 == 1 || now == before, "{limit}");
        }
    }

    #[test]
    fn it_reports_and_stops_between_pieces() {
        let mut reports = Vec::new();
        let stopped = count(10_000_000, |percent| {
            reports.push(percent);
            reports.len() < 20
        });
        assert_eq!(stopped, None);
        assert_eq!(reports.len(), 20);
        assert!(reports.is_sorted() && reports.first() < reports.last());
    }
}
