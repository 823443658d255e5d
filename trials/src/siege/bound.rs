//! The memory that the server is held to (docs/server.md, "Memory").

use std::num::NonZero;

use anyhow::Result;
use kjob_server::config::{Config, Keys, Settings};

/// What the process takes before anything is asked of it, with room for what its allocator keeps.
const BASE: u64 = 128 << 20;

/// What a connection takes beside the head that it may be sending.
const CONNECTION: u64 = 24 << 10;

/// What a request takes, with a body and an answer that are too small to count.
const REQUEST: u64 = 40 << 10;

/// What a refused request takes.
const REFUSED: u64 = 4 << 10;

/// What a waiting job takes.
const QUEUED: u64 = 256;

/// The bound of a server that was given these arguments, with jobs as small as those of the siege.
pub(crate) fn memory_bound(arguments: &[&str]) -> Result<u64> {
    let settings =
        Config::resolve(Keys::from_toml(&as_toml(arguments), "siege".as_ref())?)?.settings;
    Ok(bound_of(&settings))
}

fn bound_of(settings: &Settings) -> u64 {
    let bytes = |count: usize, each: u64| count as u64 * each;
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let head = settings.max_header_bytes as u64;
    BASE + settings.max_body_memory as u64
        + bytes(settings.max_connections, head + CONNECTION)
        + bytes(settings.max_connections + settings.max_streams, REQUEST)
        + bytes(settings.max_streams, REFUSED)
        + bytes(settings.max_queued, QUEUED)
        + bytes(processors, 2 * settings.max_decompressed as u64)
}

/// Pairs of a flag and its value, as the config file has them.
fn as_toml(arguments: &[&str]) -> String {
    let pairs = arguments.chunks_exact(2);
    let lines = pairs.map(|pair| {
        let name = pair[0].trim_start_matches("--").replace('-', "_");
        format!("{name} = {:?}\n", pair[1])
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_bound_follows_the_limits() {
        let default = memory_bound(&[]).unwrap();
        let smaller = memory_bound(&["--max-body-memory", "512MiB", "--max-connections", "100"]);
        assert!(default - smaller.unwrap() > 512 << 20);
        assert!(memory_bound(&["--max-body-memory", "many"]).is_err());
    }
}
