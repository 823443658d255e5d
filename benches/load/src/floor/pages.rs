//! Pages of files, read at random: the least that a server does to find a job among many, each row of which is in a page of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rand::RngExt;

use crate::fill::REMEMBERED;

/// The bytes of a page.
const PAGE: u64 = 4096;

/// Rows of a job that is done, each of another table.
const ROWS: u64 = 3;

/// Files, and how many pages each of them has.
#[derive(Clone, Debug)]
pub(super) struct Pages(Arc<[(File, u64)]>);

impl Pages {
    /// Those of all files in a directory.
    ///
    /// # Errors
    /// It cannot be read, or has no page.
    pub(super) fn of(dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let file = File::open(entry?.path())?;
            let pages = file.metadata()?.len() / PAGE;
            files.push((file, pages));
        }
        files.retain(|(_, pages)| *pages > 0);
        files.first().context("no page to read")?;
        Ok(Self(files.into()))
    }

    /// Reads as many as a job has rows: of as many different ones as the load asks for jobs, which are evenly over all of them.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn read(&self) -> Result<()> {
        let all: u64 = self.0.iter().map(|(_, pages)| pages).sum();
        let different = all.min(ROWS * REMEMBERED);
        let mut random = rand::rng();
        for _ in 0..ROWS {
            let chosen = random.random_range(0..different) * (all / different);
            self.read_one(chosen)?;
        }
        Ok(())
    }

    fn read_one(&self, mut number: u64) -> Result<()> {
        for (file, pages) in self.0.iter() {
            if number < *pages {
                return Ok(file.read_exact_at(&mut [0; PAGE as usize], number * PAGE)?);
            }
            number -= pages;
        }
        anyhow::bail!("there is no page {number} after the last one")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_every_file_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Pages::of(dir.path()).is_err());
        let pages = |name: &str, bytes: u64| {
            fs::write(dir.path().join(name), vec![0; bytes as usize]).unwrap();
        };
        pages("less than one", PAGE - 1);
        pages("two", 2 * PAGE);
        pages("one and a part", PAGE + 1);
        let found = Pages::of(dir.path()).unwrap();
        for number in 0..3 {
            found.read_one(number).unwrap();
        }
        assert!(found.read_one(3).is_err());
        found.read().unwrap();
    }
}
