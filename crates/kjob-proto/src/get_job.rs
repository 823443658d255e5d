//! `/get/job` (docs/protocol.md section 4).

use bytes::Bytes;

use crate::record::record;
use crate::{StringMap, Text};

record! {
    /// Asks for the status and the result of a job.
    GetJobRequest = "get_job_request" {
        /// The job's id; ignored if `options` has a `job_tag`.
        job_id: i64 => Long,
        /// Options by name, such as `job_tag`.
        options: StringMap => Map,
    }
}

record! {
    /// The status of a job and, once it is done, its result.
    GetJobResponse = "get_job_response" {
        /// The path of the endpoint that the job calls.
        endpoint: Text => String,
        /// `RUNNING`, `DONE`, `ERROR` or `CANCELLED`; a waiting job reads `RUNNING`.
        job_status: Text => Word,
        /// Whether the job has not ended.
        running: bool => Boolean,
        /// Progress in percent, 0 to 100.
        progress: i32 => Int,
        /// Whether the job ended with a result.
        successful: bool => Boolean,
        /// How the result is encoded: `binary` or `json`; there is no snappy result.
        response_encoding: Text => Word,
        /// The result if `response_encoding` is `binary`. A slice of the received body.
        #[cfg_attr(feature = "serde", serde(with = "crate::serde_impls::payload"))]
        job_response: Bytes => Payload,
        /// The result if `response_encoding` is `json`. A slice of the received body.
        job_response_str: Text => PayloadText,
        /// `error_message` if `job_status` is `ERROR`.
        status_map: StringMap => Map,
        /// Further facts by name.
        info: StringMap => Map,
    }
}
