//! What a submit may ask for beside the call itself, in whatever form it comes.

use std::time::Duration;

use kjob_core::engine::Submission;
use kjob_core::{Priority, TagReuse};
use kjob_proto::Text;

use crate::options::{OptionError, Options, SECONDS_MAX};

/// The longest `user_data`, in bytes. It is kept in memory for as long as the job lives.
const USER_DATA_LEN_MAX: usize = 4096;

/// The official clients' name for `user_data`.
const OTHER_USER_DATA: &str = "job_user_data";

/// The options' names on the wire.
pub(crate) const WIRE_NAMES: &[&str] = &[
    "job_tag",
    "tag_reuse",
    "priority",
    "delay_ms",
    "timeout_ms",
    "retention_seconds",
    "remove_job_on_complete",
    "user_data",
    "callback_url",
    OTHER_USER_DATA,
];

/// The options' names elsewhere: each has one.
pub(crate) const NAMES: &[&str] = WIRE_NAMES.split_at(WIRE_NAMES.len() - 1).0;

/// Those of the options that are numbers, where a form has numbers.
pub(crate) const NUMBERS: &[&str] = &["priority", "delay_ms", "timeout_ms", "retention_seconds"];

/// Those that are `true` or `false`, where a form has these.
pub(crate) const FLAGS: &[&str] = &["remove_job_on_complete"];

/// Puts the options into the submission.
pub(crate) fn apply(options: &Options<'_>, submission: &mut Submission) -> Result<(), OptionError> {
    submission.tag = options.job_tag()?;
    let reuse = [
        ("never", TagReuse::Never),
        ("if_failed", TagReuse::IfFailed),
    ];
    submission.tag_reuse = options.word("tag_reuse", &reuse)?.unwrap_or_default();
    submission.timeout = options.millis("timeout_ms", 1)?;
    submission.delay = options.millis("delay_ms", 0)?.unwrap_or_default();
    let retention = options.number("retention_seconds", 0..=SECONDS_MAX)?;
    submission.retention = retention.map(Duration::from_secs);
    let remove = options.flag("remove_job_on_complete")?;
    submission.remove_on_complete = remove.unwrap_or(false);
    let highest = Priority::COUNT as u64 - 1;
    if let Some(number) = options.number("priority", 0..=highest)? {
        let priority = u8::try_from(number).ok().and_then(Priority::new);
        submission.priority = priority.unwrap_or_default();
    }
    // Its length is judged with the rest of it.
    submission.callback_url = options.text("callback_url").map(|url| Text::copy_from(url));
    let user_data = options.short_text("user_data", USER_DATA_LEN_MAX)?;
    let other_name = options.short_text(OTHER_USER_DATA, USER_DATA_LEN_MAX)?;
    submission.user_data = user_data.or(other_name).unwrap_or_default();
    Ok(())
}
