//! Reading beside the writer: each reader thread has connections of its own, and sees what was
//! committed when it began.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use kjob_core::{Filter, Job, JobId, JobTag, Owner, Page, Parts, Status, StoreError, Timestamp};
use rusqlite::{Connection, Row};

use super::error::sql;
use super::query::{Segment, Stored};
use super::segment::{self, Access};
use super::shared::{SegmentEntry, Shared};
use super::tags;

/// Connections that a reader keeps; more segments than these are opened anew each time.
const CONNECTIONS_MAX: usize = 24;

/// Rows that one call of `list` looks at; the caller comes again for more.
const SCANNED_MAX: usize = 50_000;

/// A reader thread's own.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    /// The least recently used first.
    open: Vec<(u32, u32, Connection)>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            open: Vec::new(),
        }
    }

    /// Lets go of files that are no longer part of the store, so that their space comes back.
    pub(crate) fn purge(&mut self) {
        let table = self.shared.table();
        self.open.retain(|(number, generation, _)| {
            table
                .by_number(*number)
                .is_some_and(|entry| entry.generation == *generation)
        });
    }

    /// Lets go of all files.
    pub(crate) fn close(&mut self) {
        self.open.clear();
    }

    pub(crate) fn get(
        &mut self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        let job = self
            .in_segment_of(id, |segment| segment.job(id, parts))?
            .flatten();
        Ok(job.filter(|job| job.expires_at.is_none_or(|at| at > now)))
    }

    pub(crate) fn find(
        &mut self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        let hash = tags::hash_of(tag, owner);
        let table = self.shared.table();
        for entry in table.segments.iter().rev() {
            if !entry.filter.may_hold(hash) {
                continue;
            }
            let found = self.in_segment(entry.number, |segment| segment.tagged(owner, tag))?;
            if let Some(stored) = found.flatten().filter(|stored| !stored.is_expired(now)) {
                return Ok(Some(stored.job.header.id));
            }
        }
        let Some(carried) = tag.carried_id() else {
            return Ok(None);
        };
        let found = self.in_segment_of(carried, |segment| segment.carried(owner, tag, carried))?;
        let found = found.flatten().filter(|stored| !stored.is_expired(now));
        Ok(found.map(|stored| stored.job.header.id))
    }

    pub(crate) fn list(&mut self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        if !filter.statuses.is_empty() && filter.statuses.iter().all(|s| *s == Status::Running) {
            return self.list_live(filter, now);
        }
        let limit = filter.limit.max(1);
        let mut page = Page::default();
        let mut after = filter.after.map_or(0, JobId::get);
        let mut left = SCANNED_MAX;
        let mut full = false;
        let table = self.shared.table();
        let borders = table.segments.iter().skip(1).map(|next| next.first_id - 1);
        for (entry, last) in table.segments.iter().zip(borders.chain([i64::MAX])) {
            if full || last <= after {
                continue;
            }
            self.in_segment(entry.number, |segment| {
                segment.scan(after, last, |row| {
                    if left == 0 || page.jobs.len() >= limit {
                        full = true;
                        return Ok(ControlFlow::Break(()));
                    }
                    left -= 1;
                    after = row.get(0).map_err(sql("list jobs"))?;
                    // Other owners' rows are passed over without reading the rest of them.
                    if !is_of(row, filter.owner.as_ref()).map_err(sql("list jobs"))? {
                        return Ok(ControlFlow::Continue(()));
                    }
                    let stored = Stored::read(row)?;
                    if !stored.is_expired(now) {
                        page.jobs
                            .extend(Some(stored.into_job()).filter(|job| filter.matches(job)));
                    }
                    Ok(ControlFlow::Continue(()))
                })
            })?;
        }
        page.next = if full { JobId::new(after) } else { None };
        Ok(page)
    }

    /// The jobs that have not ended, found in memory.
    fn list_live(&mut self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        let limit = filter.limit.max(1);
        let mut page = Page::default();
        let mut ids = BTreeSet::new();
        let mut after = filter.after;
        let mut more = false;
        {
            let live = self.shared.live();
            let above = filter.after.map_or(Bound::Unbounded, Bound::Excluded);
            let candidates = live.range((above, Bound::Unbounded));
            for (looked, (id, job)) in candidates.enumerate() {
                if looked >= SCANNED_MAX || ids.len() >= limit {
                    more = true;
                    break;
                }
                after = Some(*id);
                if filter
                    .owner
                    .as_ref()
                    .is_none_or(|owner| *owner == job.owner)
                {
                    ids.insert(*id);
                }
            }
        }
        for id in ids {
            // It may have ended since; then it is no longer asked for.
            if let Some(job) = self
                .get(id, Parts::NONE, now)?
                .filter(|job| filter.matches(job))
            {
                page.jobs.push(job);
            }
        }
        page.next = after.filter(|_| more);
        Ok(page)
    }

    fn in_segment_of<T>(
        &mut self,
        id: JobId,
        read: impl FnMut(Segment<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match self.shared.table().of(id) {
            Some(entry) => self.in_segment(entry.number, read),
            None => Ok(None),
        }
    }

    /// Reads in a segment; `None` if it is gone.
    fn in_segment<T>(
        &mut self,
        number: u32,
        mut read: impl FnMut(Segment<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let layout = &shared.layout;
        loop {
            let table = self.shared.table();
            let Some(entry) = table.by_number(number) else {
                return Ok(None);
            };
            let done = match self.connection(entry) {
                Ok(connection) => read(Segment {
                    connection,
                    layout,
                    number,
                }),
                Err(error) => Err(error),
            };
            match done {
                Ok(value) => return Ok(Some(value)),
                // The file may have been replaced or deleted since the table was read.
                Err(error) => {
                    let now = self.shared.table();
                    let same =
                        now.by_number(number).map(|e| e.generation) == Some(entry.generation);
                    if same {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn connection(&mut self, entry: &SegmentEntry) -> Result<&Connection, StoreError> {
        let known = |(number, generation, _): &(u32, u32, Connection)| {
            (*number, *generation) == (entry.number, entry.generation)
        };
        let connection = match self.open.iter().position(known) {
            Some(at) => self.open.remove(at),
            None => {
                if self.open.len() >= CONNECTIONS_MAX {
                    self.open.remove(0);
                }
                let path = self.shared.layout.segment(entry.number, entry.generation);
                (
                    entry.number,
                    entry.generation,
                    segment::open(&path, Access::Read)?,
                )
            }
        };
        Ok(&self.open.push_mut(connection).2)
    }
}

fn is_of(row: &Row<'_>, owner: Option<&Owner>) -> rusqlite::Result<bool> {
    match owner {
        Some(owner) => Ok(row.get_ref(2)?.as_str()? == owner.as_str()),
        None => Ok(true),
    }
}
