//! Traces of jobs, as upstreams and commands are told them.

use kjob_core::engine::JobInfo;
use rand::RngExt as _;

/// A `traceparent` (W3C Trace Context) for one attempt. The first attempt is in the trace of the job, whose
/// id is the query id; each later one is a trace of its own, as whoever submitted the job is not waiting
/// for it any more.
pub(super) fn traceparent(job: &JobInfo) -> String {
    let mut rng = rand::rng();
    let trace = match job.attempt {
        0 | 1 => job.query_id.to_string(),
        _ => format!("{:032x}", rng.random_range(1..=u128::MAX)),
    };
    let span = rng.random_range(1..=u64::MAX);
    // Whether the caller records its trace is not kept; each job is recorded here.
    format!("00-{trace}-{span:016x}-01")
}
