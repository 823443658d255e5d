//! The store in the data directory, without opening it.

use std::path::Path;

use kjob_store::embedded::{Glance, OpenError, glance};

use super::report::Finding;

/// What is there, and whether this version can open it.
pub(super) fn look(dir: &Path) -> (Finding, Option<Glance>) {
    let expected = "none yet, or one of a format that this version opens";
    let finding = |found: String| Finding::new("store", found, expected);
    match glance(dir) {
        Ok(None) => (finding("there is no store yet".to_owned()).ok(), None),
        Ok(Some(found)) => {
            let (format, segments) = (found.format, found.segments);
            let shown = format!("format {format}, {segments} segments");
            let finding = match &found.holder {
                Some(holder) => {
                    let who = holder.pid.map_or_else(
                        || "another process".to_owned(),
                        |pid| format!("process {pid}"),
                    );
                    finding(format!(
                        "{shown}; {who} has it open, so only its format was read"
                    ))
                    .ok()
                }
                None if found.converts => finding(shown).warn(
                    "it is converted when it is opened next, and no older version opens it then; \
                     back it up first (kjob-server store backup, with the version that wrote it)",
                ),
                None => finding(shown).ok(),
            };
            (
                finding
                    .figure("format", format)
                    .figure("segments", segments),
                Some(found),
            )
        }
        Err(error) => {
            let advice = match &error {
                OpenError::UnknownVersion { .. } => "use the version that wrote it, or a newer one",
                OpenError::Corrupt { .. } => {
                    "give another directory, or restore the store from a backup"
                }
                _ => "let the server's user read it",
            };
            (finding(error.to_string()).fail(advice), None)
        }
    }
}
