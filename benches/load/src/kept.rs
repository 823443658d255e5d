//! A store with many jobs in it, that all measurements of kjob share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cases::{SMALL, SOME};
use crate::facts::{Facts, mebibytes, millis};
use crate::fill::{Count, fill};
use crate::generator::{Pace, load};
use crate::kjob::{self, Submit, Tags, payload};
use crate::process::memory;

/// Where it is, and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) home: PathBuf,
    /// Of jobs that are done.
    pub(crate) ids: Arc<[i64]>,
}

impl Kept {
    /// Fills a store below `home`, and tells what a server on it costs and how fast it starts.
    ///
    /// # Errors
    /// The store's and the server's.
    pub(crate) fn new(
        program: &Path,
        home: &Path,
        count: Count,
        facts: &mut Facts,
    ) -> Result<Self> {
        let Count { stored, queued, .. } = count;
        let data = home.join("data");
        fs::create_dir_all(&data)?;
        let begin = Instant::now();
        let ids = fill(&data, count, SMALL)?;
        let jobs = format!("{stored} jobs stored and {queued} queued");
        facts.add(format!("{jobs}, filled in"), millis(begin.elapsed()));
        let each = size(&data)? / count.all().max(1);
        facts.add("bytes on disk for each", each.to_string());

        let server = kjob::start(program, home)?;
        facts.add(
            "from its start until it is ready on them",
            millis(server.ready_in),
        );
        facts.add("its memory then", mebibytes(memory(server.id())?));
        let submits = (0..SOME).map(|_| Submit::new(&payload(SMALL), Tags::Server));
        let pace = Pace {
            warm_up: Duration::ZERO,
            time: Duration::from_secs(1),
            threads: 1,
        };
        load(
            &[server.address],
            submits.collect::<Result<_>>()?,
            pace,
            || (),
        )?;
        facts.add(
            "its memory after a second of submits",
            mebibytes(memory(server.id())?),
        );
        // Kills it.
        drop(server);
        let server = kjob::start(program, home)?;
        facts.add(
            "until it is ready again after a kill -9",
            millis(server.ready_in),
        );
        Ok(Self {
            home: home.to_owned(),
            ids: ids.into(),
        })
    }
}

/// Bytes of all files below a directory.
pub(crate) fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => size(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}
