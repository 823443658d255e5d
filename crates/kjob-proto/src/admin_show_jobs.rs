//! `/admin/show/jobs` (docs/protocol.md section 4).

use crate::record::record;
use crate::{StringMap, Text};

record! {
    /// Asks for the list of jobs.
    AdminShowJobsRequest = "admin_show_jobs_request" {
        /// Options by name, such as `show_async_jobs` = `true` to list finished jobs as well.
        options: StringMap => Map,
    }
}

record! {
    /// The list of jobs as nine parallel arrays.
    AdminShowJobsResponse = "admin_show_jobs_response" {
        /// The ids.
        job_id: Vec<i64> => Longs,
        /// The statuses, in the words of [`GetJobResponse`](crate::GetJobResponse).
        status: Vec<Text> => Strings,
        /// The paths of the endpoints that the jobs call.
        endpoint_name: Vec<Text> => Strings,
        /// When the jobs were received, in milliseconds since 1970 UTC.
        time_received: Vec<i64> => Longs,
        /// The users that submitted them.
        auth_id: Vec<Text> => Strings,
        /// The addresses that they came from.
        source_ip: Vec<Text> => Strings,
        /// The texts of their queries, if they have any.
        query_text: Vec<Text> => Strings,
        /// What their submitters attached.
        user_data: Vec<Text> => Strings,
        /// A text for each job, with no documented values.
        flags: Vec<Text> => Strings,
        /// `job_tag` and further facts by name.
        info: StringMap => Map,
    }
}
