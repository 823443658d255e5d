//! Carrying the survivors of a nearly dead segment to a new file, in pieces, beside the writer.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kjob_core::{StoreError, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::{file, sql};
use super::filter::Filter;
use super::layout::{self, Layout};
use super::ledger::Ledger;
use super::segment::{self, Access};
use super::summary::Expiries;
use super::tags::{self, TagKey, tag_from};

/// Which segment is to be rewritten, as it was when that was decided.
#[derive(Clone, Debug)]
pub(crate) struct RewritePlan {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) changes: u64,
    /// Jobs that have expired by then stay behind.
    pub(crate) cutoff: Timestamp,
}

/// A rewriting under way.
#[derive(Debug)]
pub(crate) struct Rewrite {
    plan: RewritePlan,
    /// To the new file, with the old one attached.
    connection: Connection,
    /// After the connection, so that it goes after it.
    file: NewFile,
    /// Jobs up to this id are done.
    done: i64,
    /// Ends after this one are the writer's to copy.
    last_end: i64,
}

/// A rewriting that lacks only what happened since it began.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) plan: RewritePlan,
    connection: Connection,
    file: NewFile,
    last_end: i64,
}

/// A file that the catalogue does not name yet: deleted when dropped, unless it is kept. Nothing
/// else ever has its name, so this cannot hit another's.
#[derive(Debug)]
struct NewFile {
    path: PathBuf,
    generation: u32,
    kept: bool,
}

/// How far a rewriting is.
#[derive(Debug)]
pub(crate) enum Progress {
    Going(Rewrite),
    Copied(Copied),
}

impl Rewrite {
    /// Makes the new file.
    pub(crate) fn begin(layout: &Layout, plan: RewritePlan) -> Result<Self, StoreError> {
        let old = layout.segment(plan.number, plan.generation);
        let file = NewFile::choose(layout, &plan)?;
        drop(segment::create(&file.path)?);
        // Opened anew, so that attaching does not make the old file in case it is gone.
        let connection = segment::open(&file.path, Access::Newest)?;
        let attach = || {
            // Nothing names the file before it is synced as a whole.
            connection.pragma_update(None, "synchronous", "off")?;
            connection.execute("ATTACH ?1 AS old", [old.to_string_lossy()])?;
            let last = "SELECT coalesce(max(seq), 0) FROM old.ends";
            connection.query_row(last, [], |row| row.get(0))
        };
        let last_end = attach().map_err(sql("rewrite a segment"))?;
        Ok(Self {
            plan,
            connection,
            file,
            done: 0,
            last_end,
        })
    }

    /// Looks at up to `jobs` more jobs.
    pub(crate) fn advance(mut self, jobs: u64) -> Result<Progress, StoreError> {
        match self.copy(jobs.max(1)).map_err(sql("rewrite a segment"))? {
            true => {
                let Self {
                    plan,
                    connection,
                    file,
                    last_end,
                    ..
                } = self;
                Ok(Progress::Copied(Copied {
                    plan,
                    connection,
                    file,
                    last_end,
                }))
            }
            false => Ok(Progress::Going(self)),
        }
    }

    fn copy(&mut self, jobs: u64) -> rusqlite::Result<bool> {
        let window = "SELECT max(id) FROM \
                      (SELECT id FROM old.jobs WHERE id > ?1 ORDER BY id LIMIT ?2)";
        let last: Option<i64> = self
            .connection
            .query_row(window, [self.done, jobs.cast_signed()], |row| row.get(0))
            .optional()?
            .flatten();
        let Some(last) = last else {
            self.connection.execute_batch(USAGE)?;
            // From here on every commit is to be synced, and so is all that came before.
            self.connection.pragma_update(None, "synchronous", "full")?;
            let checkpoint = "PRAGMA main.wal_checkpoint(TRUNCATE)";
            self.connection.query_row(checkpoint, [], |_| Ok(()))?;
            return Ok(true);
        };
        let cutoff = self.plan.cutoff.as_millis();
        let change = self.connection.transaction()?;
        change.execute(JOBS, [self.done, last, cutoff])?;
        change.execute(TAGS, [self.done, last])?;
        change.execute(ENDS, [self.done, last, self.last_end])?;
        change.commit()?;
        self.done = last;
        Ok(false)
    }
}

impl Copied {
    /// Copies what happened since the rewriting began, durably; `ledger` is of the old file.
    /// Gives the ledger of the new one. The caller sees to it that nobody writes meanwhile.
    pub(crate) fn complete(&self, layout: &Layout, ledger: &Ledger) -> Result<Ledger, StoreError> {
        let mut expiries = ledger.expiries.clone();
        expiries.drop_expired(self.plan.cutoff);
        let complete = || {
            let change = self.connection.unchecked_transaction()?;
            change.execute(LATE_ENDS, [self.last_end])?;
            change.execute(LATE_USAGE, [self.last_end])?;
            change.execute_batch(REST)?;
            let mut put = change.prepare("INSERT INTO expiry_seconds VALUES (?1, ?2)")?;
            for (second, jobs) in expiries.iter() {
                put.execute(params![second, jobs.cast_signed()])?;
            }
            drop(put);
            change.commit()?;
            self.connection.execute_batch("DETACH old")?;
            segment::usage(&self.connection)
        };
        let usage = complete().map_err(sql("rewrite a segment"))?;
        layout::sync_dir(&layout.segments()).map_err(file("rewrite a segment"))?;
        Ok(Ledger {
            generation: self.file.generation,
            sealed: ledger.sealed,
            jobs: usage.values().map(|usage| usage.jobs).sum(),
            max_id: ledger.max_id,
            live: ledger.live,
            usage,
            expiries,
            low_water: ledger.low_water,
            opened_at: ledger.opened_at,
            changes: ledger.changes,
            ..Ledger::new(ledger.number, ledger.first_id)
        })
    }

    /// The catalogue names the new file now, or may do so.
    pub(crate) fn keep(mut self) {
        self.file.kept = true;
    }
}

impl NewFile {
    /// The first generation that has no file, made at once: a rewriting that was given up may
    /// still be at work on another thread, and two must never take the same name. Those that were
    /// given up while this store is open are passed over.
    fn choose(layout: &Layout, plan: &RewritePlan) -> Result<Self, StoreError> {
        let mut generation = plan.generation;
        loop {
            generation = generation.saturating_add(1);
            let path = layout.segment(plan.number, generation);
            match File::create_new(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => {
                    made.map_err(file("rewrite a segment"))?;
                    return Ok(Self {
                        path,
                        generation,
                        kept: false,
                    });
                }
            }
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // What is left over is removed at the next open.
            let _ = layout::remove_database(&self.path);
        }
    }
}

/// A filter over the tags of a segment's file.
pub(crate) fn filter_of(path: &Path) -> Result<Filter, StoreError> {
    let connection = segment::open(path, Access::Read)?;
    let read = || {
        let count: i64 = connection.query_row("SELECT count(*) FROM tags", [], |row| row.get(0))?;
        let filter = Filter::new(count.unsigned_abs());
        let mut query = connection.prepare("SELECT tag, owner FROM tags")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(tag) = tag_from(row.get_ref(0)?) {
                filter.insert(tags::hash(&TagKey::of(&tag), row.get_ref(1)?.as_str()?));
            }
        }
        Ok(filter)
    };
    read().map_err(sql("build a filter"))
}

/// The moment for [`RewritePlan::cutoff`]: in step with the counts by second.
pub(crate) fn cutoff(now: Timestamp) -> Timestamp {
    Expiries::cutoff(now)
}

const JOBS: &str = "
INSERT INTO main.jobs SELECT j.* FROM old.jobs j
LEFT JOIN old.ends e ON e.id = j.id
LEFT JOIN old.expiries x ON x.id = j.id
WHERE j.id > ?1 AND j.id <= ?2
AND (e.id IS NULL OR coalesce(x.expires_at, e.expires_at) > ?3)";

/// Also the entries that say that a survivor's tag was given away.
const TAGS: &str = "
INSERT OR IGNORE INTO main.tags SELECT t.* FROM main.jobs j
CROSS JOIN old.tags t ON t.tag = j.tag AND t.owner = j.owner
WHERE j.id > ?1 AND j.id <= ?2";

const ENDS: &str = "
INSERT INTO main.ends SELECT e.* FROM main.jobs j
CROSS JOIN old.ends e ON e.id = j.id
WHERE j.id > ?1 AND j.id <= ?2 AND e.seq <= ?3";

const USAGE: &str = "
INSERT INTO main.usage
SELECT j.owner, count(*), sum(j.payload_len + coalesce(e.result_len, 0))
FROM main.jobs j LEFT JOIN main.ends e ON e.id = j.id GROUP BY j.owner";

const LATE_ENDS: &str = "
INSERT INTO main.ends SELECT e.* FROM old.ends e
CROSS JOIN main.jobs j ON j.id = e.id
WHERE e.seq > ?1";

const LATE_USAGE: &str = "
UPDATE main.usage SET bytes = usage.bytes + late.bytes FROM
(SELECT j.owner, sum(e.result_len) AS bytes FROM main.ends e
 CROSS JOIN main.jobs j ON j.id = e.id WHERE e.seq > ?1 GROUP BY j.owner) late
WHERE main.usage.owner = late.owner";

const REST: &str = "
INSERT INTO main.states SELECT s.* FROM old.states s CROSS JOIN main.jobs j ON j.id = s.id;
INSERT INTO main.expiries SELECT x.* FROM old.expiries x CROSS JOIN main.jobs j ON j.id = x.id;
INSERT INTO main.meta SELECT * FROM old.meta;";
