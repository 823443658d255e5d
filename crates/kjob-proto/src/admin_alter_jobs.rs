//! `/admin/alter/jobs` (docs/protocol.md section 4).

use crate::record::record;
use crate::{StringMap, Text};

record! {
    /// Does something to jobs; the one documented action is to cancel them.
    AdminAlterJobsRequest = "admin_alter_jobs_request" {
        /// The ids of the jobs.
        job_ids: Vec<i64> => Longs,
        /// What to do: `cancel`.
        action: Text => Word,
        /// Options by name: `job_tag` names a job by its tag.
        options: StringMap => Map,
    }
}

record! {
    /// What became of the action, a text for each job.
    AdminAlterJobsResponse = "admin_alter_jobs_response" {
        /// The ids of the jobs.
        job_ids: Vec<i64> => Longs,
        /// The action that was asked for.
        action: Text => Word,
        /// A text for each id, in the same order.
        status: Vec<Text> => Strings,
        /// Further facts by name.
        info: StringMap => Map,
    }
}
