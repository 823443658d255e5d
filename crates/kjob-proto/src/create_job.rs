//! `/create/job` (docs/protocol.md section 4).

use bytes::Bytes;

use crate::record::record;
use crate::{StringMap, Text};

record! {
    /// Submits a job: the call of another endpoint, to be run later.
    CreateJobRequest = "create_job_request" {
        /// The path of the endpoint that the job calls, such as `/insert/records`.
        endpoint: Text => String,
        /// How the payload is encoded: `binary`, `json` or `snappy`, see [`Encoding`](crate::Encoding).
        /// Independent of the encoding of this request.
        request_encoding: Text => Word,
        /// The payload if `request_encoding` is `binary` or `snappy`: the endpoint's own request record,
        /// with no envelope. A slice of the received body.
        #[cfg_attr(feature = "serde", serde(with = "crate::serde_impls::payload"))]
        data: Bytes => Payload,
        /// The payload if `request_encoding` is `json`. A slice of the received body.
        data_str: Text => PayloadText,
        /// Options by name, such as `job_tag`.
        options: StringMap => Map,
    }
}

record! {
    /// Names the job that was submitted.
    CreateJobResponse = "create_job_response" {
        /// The job's id, positive and below 2^53.
        job_id: i64 => Long,
        /// `job_tag`, the caller's or a generated one, and `query_id`.
        info: StringMap => Map,
    }
}
