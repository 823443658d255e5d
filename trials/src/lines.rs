//! Files of JSON objects, one a line, that outlive the process that writes them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::server::AHEAD_VARIABLE;

/// Microseconds since the Unix epoch: the clock that all processes of a machine share, also those that were made
/// to take the time for another.
pub(crate) fn now() -> i64 {
    static AHEAD: LazyLock<i64> = LazyLock::new(|| {
        let ahead = std::env::var(AHEAD_VARIABLE).ok();
        ahead.and_then(|ahead| ahead.parse().ok()).unwrap_or(0)
    });
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX) - *AHEAD
}

/// A file that lines are appended to, each in one write, so that a kill cuts the last one at most.
#[derive(Debug)]
pub(crate) struct Lines(Mutex<File>);

impl Lines {
    pub(crate) fn append_to(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        Ok(Self(Mutex::new(file)))
    }

    pub(crate) fn write(&self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes())
    }
}

/// Reads such a file. A last line that was cut counts as never written; any other that cannot be
/// read is an error, and so is a missing file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let mut items = Vec::new();
    for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(whole) = line.strip_suffix(b"\n") else {
            break;
        };
        match serde_json::from_slice(whole) {
            Ok(item) => items.push(item),
            Err(error) => bail!("{}:{}: {error}", path.display(), at + 1),
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_is_not_there_but_a_bad_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        let lines = Lines::append_to(&path).unwrap();
        lines.write(&(1, "one")).unwrap();
        lines.write(&(2, "two")).unwrap();
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"[3,\"thr");
        std::fs::write(&path, &text).unwrap();
        let read: Vec<(u8, String)> = read(&path).unwrap();
        assert_eq!(read, [(1, "one".to_owned()), (2, "two".to_owned())]);

        text.extend_from_slice(b"\n[4,\"four\"]\n");
        std::fs::write(&path, &text).unwrap();
        let error = super::read::<(u8, String)>(&path).unwrap_err().to_string();
        assert!(error.contains("lines:3: "), "{error}");
        assert!(super::read::<u8>(&dir.path().join("none")).is_err());
    }
}
