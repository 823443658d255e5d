//! Log lines about a job: each carries what it can be found by, and none its payload.

/// A line at a level (`info`, `warn`, …) about the job of a header, with more fields and a text.
macro_rules! job_log {
    ($level:ident, $header:expr, $($rest:tt)+) => {{
        let header = &$header;
        tracing::$level!(
            job_id = %header.id,
            job_tag = %header.tag,
            query_id = %header.query_id,
            $($rest)+
        )
    }};
}

pub(super) use job_log;
