//! Giving back the space of expired jobs: whole segments at once, and nearly dead ones by
//! rewriting them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use kjob_core::{Expired, StoreError, Timestamp};

use super::error::in_segment;
use super::layout::{self, Layout, ignore_missing};
use super::pool::Length;
use super::requests::{Swept, Thoroughness};
use super::rewrite::{Copied, RewritePlan, cutoff};
use super::segment::{self, Access};
use super::writer::Writer;
use super::{blobs, error, packs};
use crate::values::millis;

/// Segments that one sweep drops.
const DROPPED_MAX: u64 = 4;

/// A segment is rewritten once less than one in this many of its jobs is needed: what is copied
/// is then never more than what is freed.
const NEEDED_SHARE: u64 = 2;

/// The newest segment is not sealed for being mostly expired while it is smaller than both.
const WORTH_JOBS: u64 = 1_000;
const WORTH_BYTES: u64 = 1 << 20;

impl Writer {
    /// Drops segments of which nothing is needed, and says which one to rewrite. Looks at counts,
    /// never at jobs; and, but for a thorough one, only at segments where there is something to do.
    pub(crate) fn sweep(
        &mut self,
        now: Timestamp,
        thoroughness: Thoroughness,
    ) -> Result<Swept, StoreError> {
        let pays = |needed: u64, jobs: u64| match thoroughness {
            Thoroughness::WhatPays => needed < jobs / NEEDED_SHARE,
            Thoroughness::All => needed < jobs,
        };
        let age = millis(self.shared.options.segment_age);
        let rolls = self.newest().is_some_and(|newest| {
            let needed = newest.live + newest.expiries.unexpired(now);
            let old = newest
                .opened_at
                .is_some_and(|at| now.as_millis().saturating_sub(at) >= age);
            // One job that is kept must not hold on to the bytes of all that have expired.
            let worth = newest.jobs >= WORTH_JOBS
                || newest.bytes() >= WORTH_BYTES
                || thoroughness == Thoroughness::All;
            newest.jobs > 0 && (needed == 0 || old || (worth && pays(needed, newest.jobs)))
        });
        if rolls {
            self.roll()?;
        }
        let mut expired = Expired::default();
        let mut dropped = 0;
        let mut rewrite = None;
        for number in self.worth_a_look(now, thoroughness) {
            let Some(ledger) = self.segments.get_mut(&number) else {
                continue;
            };
            let needed = ledger.live + ledger.expiries.unexpired(now);
            if needed == 0 && dropped < DROPPED_MAX {
                dropped += 1;
                expired.jobs += ledger.jobs;
                expired.bytes += ledger.bytes();
                self.drop_segment(number)?;
            } else if needed == 0 {
                expired.more = true;
            } else if pays(needed, ledger.jobs) && rewrite.is_none() && !ledger.damaged {
                let (generation, changes) = (ledger.generation, ledger.changes);
                // What comes from now on keeps none of the packs from going that there are.
                self.packs.remove(&number);
                ledger.moved.get_or_insert_default();
                rewrite = Some(RewritePlan {
                    number,
                    generation,
                    changes,
                    cutoff: cutoff(now),
                });
            }
        }
        self.refresh_summaries();
        Ok(Swept { expired, rewrite })
    }

    /// Sealed segments of which something may have to go, the oldest first.
    fn worth_a_look(&mut self, now: Timestamp, thoroughness: Thoroughness) -> Vec<u32> {
        let segments = &self.segments;
        match thoroughness {
            Thoroughness::All => {
                let sealed = segments.values().filter(|ledger| ledger.sealed);
                sealed.map(|ledger| ledger.number).collect()
            }
            Thoroughness::WhatPays => self.due.at(now, |number| {
                let ledger = segments.get(&number).filter(|ledger| ledger.sealed)?;
                // It pays below this share, and a segment of which nothing is needed always goes.
                ledger.second_of_at_most((ledger.jobs / NEEDED_SHARE).saturating_sub(1))
            }),
        }
    }

    /// Forgets a segment, then deletes its files.
    fn drop_segment(&mut self, number: u32) -> Result<(), StoreError> {
        self.shared.noted(self.catalogue.remove(number))?;
        let Some(ledger) = self.segments.remove(&number) else {
            return Ok(());
        };
        self.due.note(number);
        self.connections.remove(&number);
        self.packs.remove(&number);
        self.publish_table();
        for (owner, usage) in &ledger.usage {
            self.shared
                .count(owner, -usage.jobs.cast_signed(), -usage.bytes.cast_signed());
        }
        let layout = self.shared.layout.clone();
        self.delete_unnamed(move || {
            let files = layout::remove_database(&layout.segment(number, ledger.generation));
            files.and_then(|()| ignore_missing(fs::remove_dir_all(layout.blobs_of(number))))
        });
        Ok(())
    }

    /// Puts a rewritten segment in the place of the old one.
    pub(crate) fn swap(&mut self, copied: Copied) -> Result<Expired, StoreError> {
        let layout = self.shared.layout.clone();
        let RewritePlan {
            number,
            generation,
            changes,
            ..
        } = copied.plan;
        let same = self
            .segments
            .get(&number)
            .filter(|ledger| (ledger.generation, ledger.changes) == (generation, changes));
        let Some(old) = same else {
            // A job or a tag came or went between, or the whole segment did: begin anew, if at all.
            return Ok(Expired {
                more: true,
                ..Expired::default()
            });
        };
        let completed = copied.complete(&layout, old).map_err(in_segment(number));
        let completed = self.shared.noted(completed);
        if let (Err(StoreError::Corrupt { .. }), Some(old)) =
            (&completed, self.segments.get_mut(&number))
        {
            // Said once; the next call would find the same.
            old.damaged = true;
        }
        let new = completed?;
        let Some(old) = self.segments.get(&number) else {
            return Ok(Expired::default());
        };
        let named = self.catalogue.set_generation(number, new.generation);
        // Also if that failed: it may be so on disk.
        copied.keep();
        self.shared.noted(named)?;
        let expired = Expired {
            jobs: old.jobs.saturating_sub(new.jobs),
            bytes: old.bytes().saturating_sub(new.bytes()),
            more: true,
        };
        for (owner, usage) in &old.usage {
            self.shared
                .count(owner, -usage.jobs.cast_signed(), -usage.bytes.cast_signed());
        }
        for (owner, usage) in &new.usage {
            self.shared
                .count(owner, usage.jobs.cast_signed(), usage.bytes.cast_signed());
        }
        let path = layout.segment(number, new.generation);
        self.segments.insert(number, new);
        self.due.note(number);
        self.connections.remove(&number);
        self.publish_table();
        let packs = self.unused_packs(number);
        self.delete_unnamed(move || {
            let old = layout.segment(number, generation);
            let of_blobs = prune_blobs(&layout, number, &old, &path);
            prune_packs(&layout, number, &path, &packs).map_err(std::io::Error::other)?;
            // The last: it says that there may be packs that nobody needs.
            layout::remove_database(&old)?;
            of_blobs.map_err(std::io::Error::other)
        });
        Ok(expired)
    }

    /// Deletes packs of a segment that are left over from a rewriting, and then its other file, which says so.
    pub(crate) fn prune_packs(&mut self, number: u32, other: PathBuf) {
        let Some(ledger) = self.segments.get(&number) else {
            return;
        };
        let layout = self.shared.layout.clone();
        let path = layout.segment(number, ledger.generation);
        let packs = self.unused_packs(number);
        self.delete_unnamed(move || {
            prune_packs(&layout, number, &path, &packs).map_err(std::io::Error::other)?;
            layout::remove_database(&other)
        });
    }

    /// The packs that a segment has; from now on nothing is appended to them.
    fn unused_packs(&mut self, number: u32) -> BTreeSet<u32> {
        self.packs.remove(&number);
        // Where they cannot be told now, they go with the next rewriting.
        packs::numbers(&self.shared.layout.blobs_of(number)).unwrap_or_default()
    }

    /// Deletes files beside the writer, once no reader holds them and no backup copies them. What
    /// is left over by a crash is deleted at the next open.
    fn delete_unnamed(&self, delete: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
        let (done, wait) = channel::<()>();
        self.readers.submit_to_each(move |reader| {
            reader.purge();
            drop(done.clone());
        });
        let delete = move || {
            // Who looked at the old rows may be about to open what they name.
            let _ = wait.recv();
            delete()
        };
        if let Some(delete) = self.shared.deletions.admit(Box::new(delete)) {
            self.background.submit(Length::Long, move |()| delete());
        }
    }
}

/// Deletes those of these packs that no row of a segment names. Nothing may be appended to them any more.
fn prune_packs(
    layout: &Layout,
    number: u32,
    segment: &Path,
    packs: &BTreeSet<u32>,
) -> Result<(), StoreError> {
    if packs.is_empty() {
        return Ok(());
    }
    let connection = segment::open(segment, Access::Read)?;
    packs::prune(&layout.blobs_of(number), packs, &connection, number)
}

/// Deletes the blobs of jobs that stayed behind in the old file. Nobody writes for those any more,
/// while a blob that belongs to no job of either may be that of a submit under way.
fn prune_blobs(layout: &Layout, number: u32, old: &Path, new: &Path) -> Result<(), StoreError> {
    let dir = layout.blobs_of(number);
    if !dir.is_dir() {
        return Ok(());
    }
    let doing = || error::sql("remove old blob files");
    let (old, new) = (
        segment::open(old, Access::Read)?,
        segment::open(new, Access::Read)?,
    );
    let known = "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = ?1)";
    let mut before = old.prepare(known).map_err(doing())?;
    let mut after = new.prepare(known).map_err(doing())?;
    blobs::prune(&dir, |name| {
        let is_in = |file: &mut rusqlite::Statement<'_>| {
            file.query_row([name.id.get()], |row| row.get::<_, bool>(0))
                .map_err(doing())
        };
        Ok(!is_in(&mut before)? || is_in(&mut after)?)
    })
}
