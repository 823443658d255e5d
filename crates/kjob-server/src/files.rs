//! Open files: each connection is one, and so is much of the store.

/// Files that are kept for the store and for the process itself.
const RESERVE: usize = 256;

/// How many of `wanted` connections fit. Raises the soft limit of open files to the hard one first;
/// says so in the log where fewer fit.
///
/// A process without a free file can read no jobs either, so it is better to let connections wait
/// than to accept all of them.
pub(crate) fn connections_that_fit(wanted: usize) -> usize {
    let limit = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be read or raised");
            return wanted;
        }
    };
    let fit = connections_within(limit, wanted);
    if fit < wanted {
        tracing::warn!(
            max_connections = wanted,
            open_files_max = limit,
            connections = fit,
            "max_connections does not fit the limit of open files, and is lowered"
        );
    }
    fit
}

/// The connections, at most `wanted` and at least one, that a limit of open files leaves room for.
/// Under a small limit, where the reserve would leave little, half of the files are for connections.
fn connections_within(limit: u64, wanted: usize) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let reserve = RESERVE.min(limit.div_ceil(2));
    wanted.min(limit - reserve).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_its_files() {
        for (limit, wanted, fit) in [
            (u64::MAX, 10_000, 10_000),
            (10_256, 10_000, 10_000),
            (10_255, 10_000, 9_999),
            (1024, 10_000, 768),
            (1024, 100, 100),
            (300, 10_000, 150),
            (32, 10_000, 16),
            (0, 10_000, 1),
        ] {
            assert_eq!(connections_within(limit, wanted), fit, "{limit} {wanted}");
        }
    }
}
