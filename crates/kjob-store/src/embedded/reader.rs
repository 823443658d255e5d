//! Reading beside the writer: each reader thread has connections of its own, and sees what was
//! committed when it began.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use kjob_core::{
    Filter, Job, JobId, JobTag, LivePage, Order, Owner, Page, Parts, Status, StoreError, Timestamp,
};
use rusqlite::{Connection, Row};

use super::error::{in_segment, sql};
use super::job_row;
use super::lives::Entry;
use super::pool::Length;
use super::query::{Found, Segment, Stored};
use super::segment::{self, Access};
use super::shared::{SegmentEntry, Shared, Table};
use super::state_row;
use super::tags;
use super::totals::Totals;

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

/// By how much clocks are set back and forth at most, as far as lists of a time are to have every job of it.
const CLOCK_SET_BY_MAX: Duration = Duration::from_secs(60 * 60);

/// What is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoundByTag {
    /// The job that has it, if one has.
    Job(Option<JobId>),
    /// None has it, unless this segment has lost it.
    Unproven(u32),
}

/// What is to be said of a job; or the error, if it is not changing just now.
type Look = Result<Option<Found>, StoreError>;

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            open: Vec::new(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
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

    /// A job without bytes.
    pub(crate) fn get(&mut self, id: JobId, now: Timestamp) -> Result<Option<Job>, StoreError> {
        let found = self.get_within(id, Parts::NONE, now, Length::Short)?;
        Ok(found.map(|found| found.job))
    }

    /// A job with the bytes that `parts` asks for, but for those that take longer to read than this.
    pub(crate) fn get_within(
        &mut self,
        id: JobId,
        parts: Parts,
        now: Timestamp,
        length: Length,
    ) -> Result<Option<Found>, StoreError> {
        let first = self.look(id, parts, length)?;
        let looked = match first {
            // Perhaps it was stored, or ended, at this very moment. Once everything that is
            // committed is published too, there is no such doubt.
            Err(_) => {
                let shared = Arc::clone(&self.shared);
                let _published = shared.publishing();
                self.look(id, parts, length)?
            }
            known => known,
        };
        match looked {
            Ok(found) => Ok(found.filter(|found| found.job.expires_at.is_none_or(|at| at > now))),
            Err(error) => Err(match self.shared.table().of(id) {
                Some(entry) => in_segment(entry.number)(error),
                None => error,
            }),
        }
    }

    /// A job as it is stored, held against what is known in memory.
    fn look(&mut self, id: JobId, parts: Parts, length: Length) -> Result<Look, StoreError> {
        let found = self
            .in_segment_of(id, |segment| segment.job_within(id, parts, length))?
            .flatten();
        let Some(mut found) = found else {
            return Ok(self.shared.absent(id).map(|()| None));
        };
        if found.job.expires_at.is_none() {
            let live = self.shared.live().get(id).map(|job| job.state());
            let Some(state) = live else {
                return Ok(Err(self.shared.lost_end(id)));
            };
            found.job.state = state;
        }
        Ok(Ok(Some(found)))
    }

    /// Bytes of a job's payload and result, by its rows.
    pub(crate) fn bytes_of(
        &mut self,
        id: JobId,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        let stored = self
            .in_segment_of(id, |segment| segment.stored(id))?
            .flatten();
        Ok(stored.filter(|stored| !stored.is_expired(now)).map(|s| {
            let result = s.state.end.map_or(0, |end| end.result.len);
            s.job.payload.len + result
        }))
    }

    /// The job that has a tag, if one has; or the segment that has to [prove](Self::prove_tags) first that none has it.
    pub(crate) fn find(
        &mut self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<FoundByTag, StoreError> {
        let hash = tags::hash_of(tag, owner);
        let table = self.shared.table();
        for entry in table.segments.iter().rev() {
            if !entry.filter.may_hold(hash) {
                continue;
            }
            let found = self.in_segment(entry.number, |segment| segment.tagged(owner, tag))?;
            match found.flatten() {
                Some(stored) if !stored.is_expired(now) => {
                    return self.found(stored, now).map(FoundByTag::Job);
                }
                None if !entry.tags_whole.is_known() => {
                    return Ok(FoundByTag::Unproven(entry.number));
                }
                _ => {}
            }
        }
        let Some(carried) = tag.carried_id() else {
            return Ok(FoundByTag::Job(None));
        };
        let found = self.in_segment_of(carried, |segment| segment.carried(owner, tag, carried))?;
        let found = match found.flatten() {
            Some(stored) if !stored.is_expired(now) => self.found(stored, now),
            Some(_) => Ok(None),
            // Fails if its row is out of reach.
            None => self.get(carried, now).map(|_| None),
        };
        found.map(FoundByTag::Job)
    }

    /// A filter knows a tag that the segment's file does not show: reads all of its tags, to see that this is the filter's
    /// doing. Once for each segment while the store is open; for a million tags it takes a quarter of a second.
    pub(crate) fn prove_tags(&mut self, number: u32) -> Result<(), StoreError> {
        let table = self.shared.table();
        let Some(entry) = table.by_number(number) else {
            return Ok(());
        };
        if !entry.tags_whole.is_known() {
            self.in_segment(number, |segment| segment.prove_tags())?;
            entry.tags_whole.set_known();
        }
        Ok(())
    }

    /// The job that a tag led to, if it is sound.
    fn found(&mut self, stored: Stored, now: Timestamp) -> Result<Option<JobId>, StoreError> {
        let id = stored.job.header.id;
        if stored.state.end.is_some() || self.shared.live().contains(id) {
            return Ok(Some(id));
        }
        let job = self.get(id, now)?;
        Ok(job.map(|job| job.header.id))
    }

    pub(crate) fn list(&mut self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        if !filter.statuses.is_empty() && filter.statuses.iter().all(|s| *s == Status::Running) {
            return self.list_live(filter, now);
        }
        let limit = filter.limit.max(1);
        let mut page = Page::default();
        let (above, last) = filter.ids();
        // Nothing is older than the first job; without this all that live would be looked for below it.
        if last <= above {
            return Ok(Page::default());
        }
        let mut seen = above;
        let mut left = SCANNED_MAX;
        let (mut full, mut past) = (false, false);
        // Those that have no end, by rising id: they have to live, and all that live have to be
        // among them.
        let mut endless = Vec::new();
        let table = self.shared.table();
        for (entry, ids) in in_order(&table.segments, filter.order) {
            let ids = (above.max(ids.0), last.min(ids.1));
            if full || past || ids.0 >= ids.1 {
                continue;
            }
            self.in_segment(entry.number, |segment| {
                segment.scan(ids, filter.order, |row| {
                    if left == 0 || page.jobs.len() >= limit {
                        full = true;
                        return Ok(ControlFlow::Break(()));
                    }
                    left -= 1;
                    seen = row.get(0).map_err(sql("list jobs"))?;
                    if !state_row::has_end(row, job_row::COLUMN_COUNT)? {
                        endless.push(seen);
                    }
                    past = is_past(row, filter).map_err(sql("list jobs"))?;
                    if past {
                        return Ok(ControlFlow::Break(()));
                    }
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
        page.next = if full { JobId::new(seen) } else { None };
        let looked_at = match filter.order {
            Order::OldestFirst if full || past => (above, seen),
            Order::NewestFirst if full || past => (seen - 1, last),
            _ => (above, last),
        };
        endless.sort_unstable();
        self.refuse_lost(looked_at, &endless)?;
        let mut jobs = Vec::with_capacity(page.jobs.len());
        // The state of one that lives is told by memory.
        for job in page.jobs {
            if job.expires_at.is_some() {
                jobs.push(job);
            } else if let Some(job) = self.get(job.header.id, now)? {
                jobs.extend(Some(job).filter(|job| filter.matches(job)));
            }
        }
        page.jobs = jobs;
        Ok(page)
    }

    /// Fails if a job above the first id, up to the second, that lives, or is known to be damaged, was not
    /// among those without an end.
    fn refuse_lost(&mut self, (after, last): (i64, i64), seen: &[i64]) -> Result<(), StoreError> {
        let above = JobId::new(after).map_or(Bound::Unbounded, Bound::Excluded);
        let up_to = JobId::new(last).map_or(Bound::Unbounded, Bound::Included);
        let unseen = |id: &JobId| seen.binary_search(&id.get()).is_err();
        let mut lost: Vec<JobId> = {
            let live = self.shared.live();
            let ids = live.above(JobId::new(after)).map(|job| job.id);
            let ids = ids.take_while(|id| JobId::new(last).is_none_or(|last| *id <= last));
            ids.filter(unseen).collect()
        };
        let damaged = self.shared.damaged().range((above, up_to));
        lost.extend(damaged.map(|(id, _)| *id).filter(unseen));
        for id in lost {
            // One that was stored since is there.
            self.get(id, Timestamp::from_millis(i64::MIN))?;
        }
        Ok(())
    }

    /// The jobs that have not ended, found in memory.
    fn list_live(&mut self, filter: &Filter, now: Timestamp) -> Result<Page, StoreError> {
        let limit = filter.limit.max(1);
        let mut page = Page::default();
        let mut ids = Vec::new();
        let mut after = filter.after;
        let mut more = false;
        {
            let live = self.shared.live();
            let jobs: Box<dyn Iterator<Item = Entry<'_>>> = match filter.order {
                Order::OldestFirst => Box::new(live.above(filter.after)),
                Order::NewestFirst => Box::new(live.below(filter.after)),
            };
            for (looked, job) in jobs.enumerate() {
                if looked >= SCANNED_MAX || ids.len() >= limit {
                    more = true;
                    break;
                }
                after = Some(job.id);
                let is_owners = filter.owner.as_ref().is_none_or(|owner| job.is_of(owner));
                if is_owners && filter.endpoint.as_ref().is_none_or(|it| job.calls(it)) {
                    ids.push(job.id);
                }
            }
        }
        for id in ids {
            // It may have ended since; then it is no longer asked for.
            if let Some(job) = self.get(id, now)?.filter(|job| filter.matches(job)) {
                page.jobs.push(job);
            }
        }
        page.next = after.filter(|_| more);
        Ok(page)
    }

    /// The jobs that have not ended, as memory has them.
    pub(crate) fn live(&self, after: Option<JobId>, limit: usize) -> LivePage {
        let limit = limit.max(1);
        let live = self.shared.live();
        let jobs: Vec<_> = live
            .above(after)
            .take(limit)
            .map(|job| job.brief())
            .collect();
        let last = jobs.last().map(|job| job.id);
        LivePage {
            next: last.filter(|_| jobs.len() == limit),
            jobs,
        }
    }

    /// Reads in the segment that has an id; `None` if there is none.
    pub(crate) fn in_segment_of<T>(
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
                Ok(connection) => {
                    note_at_rest(&shared, &table, entry);
                    read(Segment {
                        connection,
                        layout,
                        number,
                    })
                }
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
                        return Err(in_segment(number)(error));
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
                let connection = segment::open(&path, Access::Read)?;
                self.refuse_other(entry, &connection)?;
                (entry.number, entry.generation, connection)
            }
        };
        Ok(&self.open.push_mut(connection).2)
    }
}

impl Reader {
    /// Fails if a file is not the one whose counts the catalogue has: perhaps an older copy of it.
    fn refuse_other(&self, entry: &SegmentEntry, file: &Connection) -> Result<(), StoreError> {
        let Some(right) = entry.settled else {
            return Ok(());
        };
        let totals = Totals::read(file, entry.number)?;
        // A late submit may have come since.
        let table = self.shared.table();
        let as_then = table.by_number(entry.number).map(|entry| entry.settled) == Some(Some(right));
        if as_then && (totals.jobs, totals.ends) != right {
            let what = format!(
                "segment {}: its file has {} jobs and {} ends, the catalogue says {} and {}",
                entry.number, totals.jobs.rows, totals.ends.rows, right.0.rows, right.1.rows
            );
            return Err(StoreError::Corrupt { what });
        }
        Ok(())
    }
}

/// Notes of a segment that was opened that it is at rest, if it is; not of the newest, which never is.
fn note_at_rest(shared: &Shared, table: &Table, entry: &SegmentEntry) {
    let newest = table.segments.last();
    if newest.is_some_and(|newest| newest.number != entry.number) {
        let path = || shared.layout.segment(entry.number, entry.generation);
        entry.at_rest.note(path, &shared.on_the_spot);
    }
}

/// Segments in an order of their jobs, each with the ids that are its own: above the first, up to the second.
fn in_order(
    segments: &[Arc<SegmentEntry>],
    order: Order,
) -> impl Iterator<Item = (&SegmentEntry, (i64, i64))> {
    let len = segments.len();
    (0..len).map(move |turn| {
        let at = match order {
            Order::OldestFirst => turn,
            Order::NewestFirst => len - 1 - turn,
        };
        let above = if at == 0 {
            0
        } else {
            segments[at].first_id - 1
        };
        let last = segments
            .get(at + 1)
            .map_or(i64::MAX, |next| next.first_id - 1);
        (&*segments[at], (above, last))
    })
}

/// Whether this job and all that come after it in the list are out of the time that is asked for. Ids rise
/// with time, but for clocks that are set.
fn is_past(row: &Row<'_>, filter: &Filter) -> rusqlite::Result<bool> {
    let bound = match filter.order {
        Order::OldestFirst => filter.until,
        Order::NewestFirst => filter.since,
    };
    let Some(bound) = bound else {
        return Ok(false);
    };
    let received_at = Timestamp::from_millis(row.get(7)?);
    Ok(match filter.order {
        Order::OldestFirst => received_at > bound.after(CLOCK_SET_BY_MAX),
        Order::NewestFirst => received_at.after(CLOCK_SET_BY_MAX) < bound,
    })
}

fn is_of(row: &Row<'_>, owner: Option<&Owner>) -> rusqlite::Result<bool> {
    match owner {
        Some(owner) => Ok(row.get_ref(2)?.as_str()? == owner.as_str()),
        None => Ok(true),
    }
}
