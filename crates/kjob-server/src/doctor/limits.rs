//! What the operating system lets a process have.

use crate::files;

use super::report::Finding;

/// Room for all connections and for the store. `None` where the limit cannot be read.
pub(super) fn open_files(connections: usize, segments: usize) -> Option<Finding> {
    // The server raises the soft limit to the hard one.
    let (_, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).ok()?;
    Some(judged(hard, connections, segments))
}

fn judged(limit: u64, connections: usize, segments: usize) -> Finding {
    let needed = files::needed(connections, segments);
    let fit = files::connections_within(limit, connections, segments);
    let shown = match limit {
        u64::MAX => "as many files as there are may be open".to_owned(),
        limit => format!("{limit} files may be open (the hard limit)"),
    };
    let expected = format!("{needed}, for max_connections = {connections} and the store");
    let finding = Finding::new("open_files", shown, expected)
        .figure("limit", limit)
        .figure("needed", needed)
        .figure("connections", fit);
    if fit < connections {
        finding.warn(format!(
            "the server would take {fit} connections; raise the limit (LimitNOFILE= of the unit, or \
             ulimit -Hn), or lower max_connections"
        ))
    } else {
        finding.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_limit_has_to_have_room_for_connections_and_store() {
        for (limit, connections, segments, verdict) in [
            (10_320, 10_000, 0, Verdict::Ok),
            (10_319, 10_000, 0, Verdict::Warn),
            (10_325, 10_000, 2, Verdict::Warn),
            (10_326, 10_000, 2, Verdict::Ok),
            (u64::MAX, 10_000, 0, Verdict::Ok),
        ] {
            let found = judged(limit, connections, segments);
            assert_eq!(found.verdict(), verdict, "{limit} {found:?}");
        }
    }
}
