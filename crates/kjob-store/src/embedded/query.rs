//! What is asked of one segment; by the readers, and by the writer, which also sees what it has
//! not committed yet.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use kjob_core::{Ending, Job, JobId, JobTag, Order, Owner, Parts, StoreError, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::blobs::{self, BlobKind, BlobName, Place};
use super::columns::Columns;
use super::error::{sql, sql_of};
use super::job_row::{self, Extent, JobRow};
use super::layout::Layout;
use super::packs;
use super::pool::Length;
use super::state_row::{self, StateRow};
use super::tags::{self, TagKey};
use super::totals::{self, Totals};

static JOB: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {}, {}, CASE WHEN ?2 AND j.payload_len <= ?4 THEN j.payload END, \
         CASE WHEN ?3 AND e.result_len <= ?4 THEN e.result END FROM jobs j {} WHERE j.id = ?1",
        job_row::COLUMNS,
        state_row::columns(),
        state_row::JOINS
    )
});

static SCAN: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {}, {} FROM jobs j {} WHERE j.id > ?1 AND j.id <= ?2 ORDER BY j.id",
        job_row::COLUMNS,
        state_row::columns(),
        state_row::JOINS
    )
});

static SCAN_DOWN: LazyLock<String> = LazyLock::new(|| format!("{} DESC", *SCAN));

const ENDED: &str = "SELECT id FROM expiries WHERE id > ?1 AND id <= ?2 ORDER BY id";

const ENDED_DOWN: &str = "SELECT id FROM expiries WHERE id > ?1 AND id <= ?2 ORDER BY id DESC";

/// Bytes of a payload or a result in its row or in a pack that are read at once. More of them, and any in a file of
/// their own, take long to read.
const AT_ONCE_MAX: u64 = 64 << 10;

/// A job as far as it was read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) job: Job,
    /// Whether it lacks bytes that were asked for, as reading them takes longer than it was to.
    pub(crate) lacks_bytes: bool,
}

/// A job's rows.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) job: JobRow,
    pub(crate) state: StateRow,
}

/// Who has a tag in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagRow {
    /// Nobody ever had it here.
    None,
    /// This job; whether it has expired is for the caller to see.
    Job(JobId),
    /// It was given away.
    Gone,
}

/// A segment's connection with the place of its blobs.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) layout: &'a Layout,
    pub(crate) number: u32,
}

impl Stored {
    /// Whether the job no longer exists at `now`.
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.state
            .end
            .as_ref()
            .is_some_and(|end| end.expires_at <= now)
    }

    /// The job without bytes.
    pub(crate) fn into_job(self) -> Job {
        let state = self.state.state.unwrap_or(self.job.first_state);
        let (ending, expires_at, callback) = match self.state.end {
            Some(end) => (Some(end.ending), Some(end.expires_at), end.callback),
            None => (None, None, None),
        };
        Job {
            header: self.job.header,
            state,
            payload: None,
            ending,
            expires_at,
            callback,
        }
    }

    /// Reads the columns of [`job_row::COLUMNS`] and [`state_row::columns`].
    pub(crate) fn read(row: &(impl Columns + ?Sized)) -> Result<Self, StoreError> {
        let Self { job, state } = Self::read_rows(row)?;
        let has_callback = job.header.options.callback_url.is_some();
        if let Some(end) = &state.end
            && end.callback.is_some() != has_callback
        {
            let what = format!("the callback of job {}", job.header.id);
            return Err(StoreError::Corrupt { what });
        }
        Ok(Self { job, state })
    }

    /// Likewise, and does not ask whether there is a callback where there has to be one.
    fn read_rows(row: &(impl Columns + ?Sized)) -> Result<Self, StoreError> {
        let job = JobRow::read(row)?;
        let state = StateRow::read(row, job_row::COLUMN_COUNT, job.header.id)?;
        Ok(Self { job, state })
    }
}

impl Segment<'_> {
    /// A job with the bytes that `parts` asks for, expired or not.
    pub(crate) fn job(&self, id: JobId, parts: Parts) -> Result<Option<Job>, StoreError> {
        let found = self.job_within(id, parts, Length::Long)?;
        Ok(found.map(|found| found.job))
    }

    /// Likewise, but without those bytes that take longer to read than this.
    pub(crate) fn job_within(
        &self,
        id: JobId,
        parts: Parts,
        length: Length,
    ) -> Result<Option<Found>, StoreError> {
        self.row(id, parts, length, |row, stored| {
            let bytes = job_row::COLUMN_COUNT + state_row::COLUMN_COUNT;
            let (payload, result) = (stored.job.payload, stored.state.end.as_ref());
            let result = result.map_or(Extent::none(), |end| end.result);
            let mut found = Found {
                job: stored.into_job(),
                lacks_bytes: false,
            };
            let job = &mut found.job;
            if parts.payload {
                if is_read_in(length, &payload) {
                    job.payload = Some(self.bytes(row, bytes, id, BlobKind::Payload, payload)?);
                } else {
                    found.lacks_bytes = true;
                }
            }
            if let (true, Some(Ending::Done(done))) = (parts.result, &mut job.ending) {
                if is_read_in(length, &result) {
                    done.payload.data = self.bytes(row, bytes + 1, id, BlobKind::Result, result)?;
                } else {
                    found.lacks_bytes = true;
                }
            }
            Ok(found)
        })
    }

    /// A job's rows, without bytes.
    pub(crate) fn stored(&self, id: JobId) -> Result<Option<Stored>, StoreError> {
        self.row(id, Parts::NONE, Length::Short, |_, stored| Ok(stored))
    }

    /// Likewise, of a job whose callback may not be in its table yet.
    pub(crate) fn stored_but_for_callbacks(&self, id: JobId) -> Result<Option<Stored>, StoreError> {
        let doing = || sql("read a job");
        let mut query = self.connection.prepare_cached(&JOB).map_err(doing())?;
        let mut rows = query
            .query(params![id.get(), false, false, 0])
            .map_err(doing())?;
        let row = rows.next().map_err(doing())?;
        row.map(Stored::read_rows).transpose()
    }

    /// Who has the tag, by the index of this segment.
    pub(crate) fn tag(&self, owner: &Owner, tag: &JobTag) -> Result<TagRow, StoreError> {
        Ok(match self.tag_id(owner, tag)? {
            None => TagRow::None,
            Some(id) => JobId::new(id).map_or(TagRow::Gone, TagRow::Job),
        })
    }

    /// The id in the tag's row, 0 where the tag was given away; `None` if there is no row.
    pub(crate) fn tag_id(&self, owner: &Owner, tag: &JobTag) -> Result<Option<i64>, StoreError> {
        let key = TagKey::of(tag);
        let name = || format!("tag {tag} in segment {}", self.number);
        let query = "SELECT id, crc FROM tags WHERE tag = ?1 AND owner = ?2";
        let found: Option<(i64, u32)> = self
            .connection
            .prepare_cached(query)
            .and_then(|mut query| {
                query
                    .query_row(params![key, owner.as_str()], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })
                    .optional()
            })
            .map_err(sql_of("look up a tag", name))?;
        match found {
            Some((id, crc)) if tags::checksum(&key, owner.as_str(), id) != crc => {
                Err(StoreError::Corrupt {
                    what: format!("the row of {}", name()),
                })
            }
            found => Ok(found.map(|(id, _)| id)),
        }
    }

    /// The job that has the tag, by the index of this segment, expired or not.
    pub(crate) fn tagged(&self, owner: &Owner, tag: &JobTag) -> Result<Option<Stored>, StoreError> {
        let TagRow::Job(id) = self.tag(owner, tag)? else {
            return Ok(None);
        };
        let Some(stored) = self.stored(id)? else {
            return Err(StoreError::Corrupt {
                what: format!("tag {tag} leads to job {id}, which is not there"),
            });
        };
        let header = &stored.job.header;
        if header.owner != *owner || header.tag != *tag {
            return Err(StoreError::Corrupt {
                what: format!("tag {tag} leads to job {id}, which has another"),
            });
        }
        Ok(Some(stored))
    }

    /// Whether a job's rows name a blob file. A damaged row may, as what it said is unknown.
    pub(crate) fn names_blob(&self, blob: BlobName) -> Result<bool, StoreError> {
        let stored = match self.stored(blob.id) {
            Err(StoreError::Corrupt { .. }) => return Ok(true),
            other => other?,
        };
        let file = stored.and_then(|stored| match blob.kind {
            BlobKind::Payload => stored.job.payload.place,
            BlobKind::Result => stored.state.end.and_then(|end| end.result.place),
        });
        Ok(file == Some(Place::File(blob.number)))
    }

    /// Shows `visit` the rows of the jobs above the first id, up to the second, in this order, for
    /// [`Stored::read`], until it says that this is enough. Fails if an ended job is missing
    /// among those shown.
    pub(crate) fn scan(
        &self,
        (above, last): (i64, i64),
        order: Order,
        mut visit: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let doing = || sql("list jobs");
        // Both queries are to see the same moment.
        let snapshot = self.connection.unchecked_transaction().map_err(doing())?;
        let (jobs, ended, turn) = match order {
            Order::OldestFirst => (&**SCAN, ENDED, 1),
            Order::NewestFirst => (&**SCAN_DOWN, ENDED_DOWN, -1),
        };
        let mut ended = snapshot.prepare_cached(ended).map_err(doing())?;
        let mut ended = ended.query([above, last]).map_err(doing())?;
        let mut next_ended = || match ended.next().map_err(doing())? {
            Some(row) => row.get::<_, i64>(0).map(Some).map_err(doing()),
            None => Ok(None),
        };
        let lost = |id: i64| StoreError::Corrupt {
            what: format!("the row of job {id} is out of reach"),
        };
        let mut expected = next_ended()?;
        let mut before = i64::MIN;
        let mut query = snapshot.prepare_cached(jobs).map_err(doing())?;
        let mut rows = query.query([above, last]).map_err(doing())?;
        while let Some(row) = rows.next().map_err(doing())? {
            let id: i64 = row.get(0).map_err(doing())?;
            if id <= above || id > last || turn * id <= before {
                return Err(StoreError::Corrupt {
                    what: format!("the rows of jobs near job {id} are not in their order"),
                });
            }
            before = turn * id;
            if visit(row)?.is_break() {
                return Ok(());
            }
            if let Some(ended) = expected.filter(|ended| turn * ended < turn * id) {
                return Err(lost(ended));
            }
            if expected == Some(id) {
                expected = next_ended()?;
            }
        }
        expected.map_or(Ok(()), |ended| Err(lost(ended)))
    }

    /// The job whose id the tag carries, if the tag is its own and was not given away.
    pub(crate) fn carried(
        &self,
        owner: &Owner,
        tag: &JobTag,
        id: JobId,
    ) -> Result<Option<Stored>, StoreError> {
        let own =
            |stored: &Stored| stored.job.header.owner == *owner && stored.job.header.tag == *tag;
        match self.stored(id)?.filter(own) {
            Some(stored) if self.tag(owner, tag)? == TagRow::None => Ok(Some(stored)),
            _ => Ok(None),
        }
    }

    fn row<T>(
        &self,
        id: JobId,
        parts: Parts,
        length: Length,
        read: impl FnOnce(&Row<'_>, Stored) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let doing = || {
            let name = move || format!("job {id} in segment {}", self.number);
            sql_of("read a job", name)
        };
        let most = match length {
            Length::Short => AT_ONCE_MAX.cast_signed(),
            Length::Long => i64::MAX,
        };
        let mut query = self.connection.prepare_cached(&JOB).map_err(doing())?;
        let mut rows = query
            .query(params![id.get(), parts.payload, parts.result, most])
            .map_err(doing())?;
        match rows.next().map_err(doing())? {
            Some(row) => read(row, Stored::read(row)?).map(Some),
            None => {
                self.absent(id)?;
                Ok(None)
            }
        }
    }

    /// Fails if other rows say that there is such a job.
    fn absent(&self, id: JobId) -> Result<(), StoreError> {
        let query = "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = ?1), \
                     EXISTS (SELECT 1 FROM expiries WHERE id = ?1) \
                     OR EXISTS (SELECT 1 FROM states WHERE id = ?1)";
        let (exists, has_others): (bool, bool) = self
            .connection
            .prepare_cached(query)
            .and_then(|mut query| query.query_row([id.get()], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(sql("read a job"))?;
        // One that exists was stored a moment ago: then that was too late for the caller.
        if has_others && !exists {
            return Err(StoreError::Corrupt {
                what: format!("the row of job {id} is out of reach"),
            });
        }
        Ok(())
    }

    /// Reads all tags, to see that none was lost.
    pub(crate) fn prove_tags(&self) -> Result<(), StoreError> {
        let doing = || sql("read a segment's tags");
        // With what they must add up to, as of one moment.
        let snapshot = self.connection.unchecked_transaction().map_err(doing())?;
        let right = Totals::read(&snapshot, self.number)?.tags;
        let found = tags::sum(&snapshot, "tags").map_err(doing())?;
        totals::same(self.number, "tags", found, right)
    }

    fn bytes(
        &self,
        row: &Row<'_>,
        column: usize,
        id: JobId,
        kind: BlobKind,
        bytes: Extent,
    ) -> Result<bytes::Bytes, StoreError> {
        let whose = || format!("the {kind:?} of job {id}");
        match bytes.place {
            Some(Place::Pack(at)) => {
                packs::read(self.layout, self.number, at, bytes.len, bytes.crc, whose)
            }
            Some(Place::File(number)) => {
                let name = BlobName { id, kind, number };
                blobs::read(self.layout, self.number, name, bytes.len, bytes.crc)
            }
            None => {
                let value = row.get_ref(column).map_err(sql("read a job"))?;
                job_row::inline(value, &bytes, whose)
            }
        }
    }
}

/// Whether bytes are read by a piece of work of this length.
fn is_read_in(length: Length, bytes: &Extent) -> bool {
    length == Length::Long || (!bytes.has_file() && bytes.len <= AT_ONCE_MAX)
}
