//! The ids of spans.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use kjob_core::engine::JobInfo;
use kjob_core::{Header, JobId, Lease, QueryId, State};
use rand::RngExt as _;

/// A run of a job, and where it stands in traces. The first attempt is in the trace of the job, whose id is
/// the query id; each later one is a trace of its own, as whoever submitted the job is not waiting for it
/// any more.
///
/// Whoever needs its ids works them out, so that nothing is kept for it: they are a hash of the job and of
/// which start it is, keyed anew in each process, as another server in the same trace may have a job of
/// the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) trace: QueryId,
    pub(crate) span: u64,
    /// Whether it is in the trace of the job.
    pub(crate) is_first: bool,
}

impl Run {
    pub(crate) fn of_info(job: &JobInfo) -> Self {
        Self::new(job.id, job.query_id, job.attempt, job.lease)
    }

    pub(super) fn of_state(job: &Header, state: &State) -> Self {
        Self::new(job.id, job.query_id, state.attempt, state.lease)
    }

    fn new(job: JobId, query_id: QueryId, attempt: u32, lease: Lease) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = |word: u8| KEYS.hash_one((word, query_id, job, lease));
        let own = || u128::from(hash(1)) << 64 | u128::from(hash(2));
        let is_first = attempt <= 1;
        let trace = match is_first {
            true => query_id,
            // All but surely not zero.
            false => QueryId::from_bytes(own().to_be_bytes()).unwrap_or(query_id),
        };
        Self {
            trace,
            span: hash(0).max(1),
            is_first,
        }
    }
}

/// A new id.
pub(super) fn random() -> u64 {
    rand::rng().random_range(1..=u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_its_own_ids_and_they_stay() {
        let job = |id| JobId::new(id).unwrap();
        let query: QueryId = "4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap();
        let first = Run::new(job(1), query, 1, Lease(1));
        assert_eq!(first, Run::new(job(1), query, 1, Lease(1)));
        assert!(first.is_first && first.trace == query);
        // Cut off at no cost, and begun again.
        let again = Run::new(job(1), query, 1, Lease(2));
        assert!(again.trace == query && again.span != first.span);
        let second = Run::new(job(1), query, 2, Lease(2));
        assert!(!second.is_first && second.trace != query);
        assert_ne!(Run::new(job(2), query, 1, Lease(1)).span, first.span);
    }
}
