//! Traces of jobs, as upstreams and commands are told them.

use kjob_core::engine::JobInfo;

use crate::traces::Run;

/// A `traceparent` (W3C Trace Context) for one run: that of its span.
pub(super) fn traceparent(job: &JobInfo) -> String {
    let Run { trace, span, .. } = Run::of_info(job);
    // Whether the caller records its trace is not kept; each job is recorded here.
    format!("00-{trace}-{span:016x}-01")
}
