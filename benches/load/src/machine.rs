//! The machine that figures are from, in a line.

use std::fs;
use std::path::Path;

/// Processor, cores, system and the filesystem of `dir`, as far as they are known.
pub(crate) fn described(dir: &Path) -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let model = first_value("/proc/cpuinfo", "model name", ':');
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{processors} processors ({}), {} {}, {}, load before {load}",
        model.as_deref().unwrap_or("unknown"),
        std::env::consts::OS,
        kernel.trim(),
        filesystem(dir).as_deref().unwrap_or("unknown filesystem"),
    )
}

fn first_value(file: &str, name: &str, separator: char) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(separator)?.1.trim().to_owned())
}

/// The type of the filesystem that is mounted nearest above `dir`.
fn filesystem(dir: &Path) -> Option<String> {
    let dir = fs::canonicalize(dir).ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = mounts.filter(|(place, _)| dir.starts_with(place));
    let nearest = above.max_by_key(|(place, _)| place.len())?;
    Some(nearest.1.to_owned())
}
