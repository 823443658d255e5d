//! Open files: each connection is one, and so is much of the store.

/// Files that are kept for the store and for the process itself, a backup of some 60 segments that
/// will come included, and the 64 that the store may keep open to read from at once.
const RESERVE: usize = 320;

/// Files that a backup holds of each segment until it is copied: the database, its log, and the index
/// of that.
const FILES_PER_SEGMENT: usize = 3;

/// How many of `wanted` connections fit beside a store that has so many segments. Raises the soft limit of open files to the hard one first;
/// says so in the log where fewer fit.
///
/// A process without a free file can read no jobs either, so it is better to let connections wait
/// than to accept all of them.
pub(crate) fn connections_that_fit(wanted: usize, segments: usize) -> usize {
    let limit = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be read or raised");
            return wanted;
        }
    };
    let fit = connections_within(limit, wanted, segments);
    if fit < wanted {
        tracing::warn!(
            max_connections = wanted,
            open_files_max = limit,
            segments,
            connections = fit,
            "max_connections does not fit the limit of open files, and is lowered"
        );
    }
    fit
}

/// The connections, at most `wanted` and at least one, that a limit of open files leaves room for.
/// Under a small limit, where the reserve would leave little, half of the files are for connections.
pub(crate) fn connections_within(limit: u64, wanted: usize, segments: usize) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let reserve = needed(0, segments).min(limit.div_ceil(2));
    wanted.min(limit - reserve).max(1)
}

/// The limit of open files under which so many connections fit beside a store of so many segments.
pub(crate) fn needed(connections: usize, segments: usize) -> usize {
    let reserve = RESERVE.saturating_add(segments.saturating_mul(FILES_PER_SEGMENT));
    reserve.saturating_add(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_its_files() {
        for (limit, wanted, segments, fit) in [
            (u64::MAX, 10_000, 0, 10_000),
            (10_320, 10_000, 0, 10_000),
            (10_319, 10_000, 0, 9_999),
            (10_320, 10_000, 2, 9_994),
            (20_000, 10_000, 1_000, 10_000),
            (1024, 10_000, 0, 704),
            (1024, 10_000, 1_000, 512),
            (1024, 100, 0, 100),
            (300, 10_000, 0, 150),
            (32, 10_000, usize::MAX, 16),
            (0, 10_000, 0, 1),
        ] {
            let found = connections_within(limit, wanted, segments);
            assert_eq!(found, fit, "{limit} {wanted} {segments}");
        }
    }
}
