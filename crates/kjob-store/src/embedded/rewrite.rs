//! Carrying the survivors of a nearly dead segment to a new file, in pieces, beside the writer.

use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use kjob_core::{Owner, StoreError, Timestamp, Usage};
use rusqlite::{Connection, OptionalExtension};

use super::callback_row;
use super::counts;
use super::error::{file, in_segment, sql};
use super::filter::Filter;
use super::layout::{self, Layout};
use super::ledger::Ledger;
use super::moving::Moving;
use super::segment::{self, Access};
use super::state_row;
use super::summary::Expiries;
use super::tags::{self, TagKey, tag_from};
use super::totals::{Sum, Totals};

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
    moving: Moving,
    /// After the others, so that it goes after them.
    file: NewFile,
    /// Jobs up to this id are done.
    done: i64,
    /// Over the rows of the old file's jobs that are done, copied or not.
    read: Sum,
    /// Ends after this one are the writer's to copy.
    last_end: i64,
}

/// A rewriting that lacks only what happened since it began.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) plan: RewritePlan,
    connection: Connection,
    moving: Moving,
    file: NewFile,
    /// Over the rows of the old file's jobs.
    read: Sum,
    /// Of the new file.
    totals: Totals,
    filter: Arc<Filter>,
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
    Going(Box<Rewrite>),
    Copied(Box<Copied>),
}

impl Rewrite {
    /// Makes the new file.
    pub(crate) fn begin(layout: &Layout, plan: RewritePlan) -> Result<Self, StoreError> {
        let old = layout.segment(plan.number, plan.generation);
        let file = NewFile::choose(layout, &plan)?;
        drop(segment::create(layout, plan.number, file.generation)?);
        // Opened anew, so that attaching does not make the old file in case it is gone.
        let connection = segment::open(&file.path, Access::Newest)?;
        let attach = || {
            // Nothing names the file before it is synced as a whole.
            connection.pragma_update(None, "synchronous", "off")?;
            connection.execute("ATTACH ?1 AS old", [old.to_string_lossy()])?;
            let last = "SELECT coalesce(max(seq), 0) FROM old.ends";
            connection.query_row(last, [], |row| row.get(0))
        };
        let last_end = attach()
            .map_err(sql("rewrite a segment"))
            .map_err(in_segment(plan.number))?;
        let moving = Moving::new(layout, plan.number)?;
        Ok(Self {
            plan,
            connection,
            moving,
            file,
            done: 0,
            read: Sum::default(),
            last_end,
        })
    }

    /// Looks at up to `jobs` more jobs.
    pub(crate) fn advance(mut self, jobs: u64) -> Result<Progress, StoreError> {
        let number = self.plan.number;
        let failed = |error| in_segment(number)(sql("rewrite a segment")(error));
        if !self.copy(jobs.max(1)).map_err(in_segment(number))? {
            return Ok(Progress::Going(Box::new(self)));
        }
        self.moving.sync()?;
        self.complete()
            .map(|copied| Progress::Copied(Box::new(copied)))
            .map_err(failed)
    }

    /// Copies the next jobs; says whether there were none left.
    fn copy(&mut self, jobs: u64) -> Result<bool, StoreError> {
        let doing = || sql("rewrite a segment");
        let change = self.connection.unchecked_transaction().map_err(doing())?;
        let cutoff = self.plan.cutoff.as_millis();
        let mut copy = || {
            let last = add_up(&change, self.done, jobs, &mut self.read)?;
            change.execute(JOBS, [self.done, last, cutoff])?;
            change.execute(TAGS, [self.done, last])?;
            change.execute(ENDS, [self.done, last, self.last_end])?;
            change.execute(EXPIRIES, [self.done, last, self.last_end])?;
            change.execute(CALLBACKS, [self.done, last])?;
            Ok(last)
        };
        let last = copy().map_err(doing())?;
        if last == self.done {
            return Ok(true);
        }
        self.moving.advance(&change, (self.done, last))?;
        change.commit().map_err(doing())?;
        self.done = last;
        Ok(false)
    }

    /// Works out what the new file holds so far, and syncs it.
    fn complete(self) -> rusqlite::Result<Copied> {
        let connection = self.connection;
        let change = connection.unchecked_transaction()?;
        give_lost_tags_away(&change)?;
        put_usage(&change)?;
        change.commit()?;
        let sum = |query| Sum::of(&mut connection.prepare(query)?, []);
        let totals = Totals {
            jobs: sum("SELECT id, crc FROM main.jobs")?,
            ends: sum("SELECT id, crc FROM main.ends")?,
            expiries: sum("SELECT id, crc FROM main.expiries")?,
            callbacks: sum("SELECT id, crc FROM main.callbacks")?,
            ..Totals::default()
        };
        let (filter, tags) = tags::scan(&connection, "main.tags")?;
        // From here on every commit is to be synced, and so is all that came before.
        connection.pragma_update(None, "synchronous", "full")?;
        let checkpoint = "PRAGMA main.wal_checkpoint(TRUNCATE)";
        connection.query_row(checkpoint, [], |_| Ok(()))?;
        Ok(Copied {
            plan: self.plan,
            connection,
            moving: self.moving,
            file: self.file,
            read: self.read,
            totals: Totals { tags, ..totals },
            filter: Arc::new(filter),
            last_end: self.last_end,
        })
    }
}

impl Copied {
    /// Copies what happened since the rewriting began, durably; `ledger` is of the old file.
    /// Gives the ledger of the new one. The caller sees to it that nobody writes meanwhile.
    pub(crate) fn complete(&self, layout: &Layout, ledger: &Ledger) -> Result<Ledger, StoreError> {
        // What the old file does not show any more must not be lost for good.
        if self.read != ledger.totals.jobs {
            return Err(StoreError::Corrupt {
                what: format!(
                    "segment {}: {} jobs are not the {} that there were",
                    ledger.number, self.read.rows, ledger.totals.jobs.rows
                ),
            });
        }
        let mut expiries = ledger.expiries.clone();
        expiries.drop_expired(self.plan.cutoff);
        let mut totals = self.totals;
        let change = (self.connection.unchecked_transaction()).map_err(sql("rewrite a segment"))?;
        self.copy_late(&change, &mut totals)
            .map_err(sql("rewrite a segment"))?;
        copy_late_callbacks(&change, ledger, &mut totals).map_err(sql("rewrite a segment"))?;
        self.move_expiries(&change, ledger, &mut totals)
            .map_err(sql("rewrite a segment"))?;
        let (usage, sum) = counts::read_usage(&change, ledger.number)?;
        totals.usage = sum;
        let finish = || {
            for (second, jobs) in expiries.iter() {
                let crc = counts::put_second(&change, second, jobs)?;
                totals.expiry_seconds.add(second, crc);
            }
            counts::put_meta(&change, "low_water", ledger.low_water)?;
            if let Some(opened_at) = ledger.opened_at {
                counts::put_meta(&change, "opened_at", opened_at)?;
            }
            totals.write(&change, None)?;
            change.commit()?;
            self.connection.execute_batch("DETACH old")
        };
        finish().map_err(sql("rewrite a segment"))?;
        layout::sync_names(&layout.segments(), "rewrite a segment")?;
        Ok(Ledger {
            generation: self.file.generation,
            sealed: ledger.sealed,
            jobs: usage.values().map(|usage| usage.jobs).sum(),
            max_id: ledger.max_id,
            live: ledger.live,
            usage,
            expiries,
            totals,
            low_water: ledger.low_water,
            opened_at: ledger.opened_at,
            filter: Arc::clone(&self.filter),
            changes: ledger.changes,
            ..Ledger::new(ledger.number, ledger.first_id)
        })
    }

    /// The ends that came since, and the states of those that still live.
    fn copy_late(&self, change: &Connection, totals: &mut Totals) -> rusqlite::Result<()> {
        change.execute(LATE_ENDS, [self.last_end])?;
        change.execute(LATE_EXPIRIES, [self.last_end])?;
        change.execute(STATES, [])?;
        let late = |query| Sum::of(&mut change.prepare(query)?, [self.last_end]);
        let ends = late("SELECT id, crc FROM main.ends WHERE seq > ?1")?;
        let expiries = late(
            "SELECT x.id, x.crc FROM main.ends e \
             CROSS JOIN main.expiries x ON x.id = e.id WHERE e.seq > ?1",
        )?;
        totals.ends = totals.ends.plus(ends);
        totals.expiries = totals.expiries.plus(expiries);
        let states = "SELECT id, crc FROM main.states";
        totals.states = Sum::of(&mut change.prepare(states)?, [])?;
        let mut late = change.prepare(LATE_USAGE)?;
        let mut rows = late.query([self.last_end])?;
        while let Some(row) = rows.next()? {
            let owner = Owner::new(row.get_ref(0)?.as_str()?);
            let (jobs, bytes, more): (i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let usage = Usage {
                jobs: jobs.cast_unsigned(),
                bytes: bytes.saturating_add(more).cast_unsigned(),
            };
            counts::put_usage(change, &owner, &usage)?;
        }
        Ok(())
    }

    /// Moves the expiries that were moved after they were copied.
    fn move_expiries(
        &self,
        change: &Connection,
        ledger: &Ledger,
        totals: &mut Totals,
    ) -> rusqlite::Result<()> {
        let query = "SELECT expires_at, seq, crc FROM main.expiries WHERE id = ?1";
        let mut query = change.prepare(query)?;
        for (id, at) in ledger.moved.iter().flatten() {
            let old: Option<(i64, i64, u32)> = query
                .query_row([id.get()], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            if let Some((expires_at, seq, crc)) = old
                && at.as_millis() < expires_at
            {
                let new = state_row::put_expiry(change, *id, *at, seq)?;
                totals.expiries.remove(id.get(), crc);
                totals.expiries.add(id.get(), new);
            }
        }
        Ok(())
    }

    /// The catalogue names the new file now, or may do so.
    pub(crate) fn keep(mut self) {
        self.file.kept = true;
        self.moving.keep();
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

/// Adds up the rows of so many of the old file's jobs above an id; gives the last of them, or that id if there are none.
fn add_up(change: &Connection, done: i64, jobs: u64, read: &mut Sum) -> rusqlite::Result<i64> {
    let window = "SELECT id, crc FROM old.jobs WHERE id > ?1 ORDER BY id LIMIT ?2";
    let mut query = change.prepare_cached(window)?;
    let mut rows = query.query([done, jobs.cast_signed()])?;
    let mut last = done;
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        read.add(last, row.get(1)?);
    }
    Ok(last)
}

/// A survivor's tag may have gone on to a job that was left behind: then it is free.
fn give_lost_tags_away(change: &Connection) -> rusqlite::Result<()> {
    let mut query = change.prepare(LOST_TAGS)?;
    let mut rows = query.query([])?;
    let mut lost = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(tag) = tag_from(row.get_ref(0)?) {
            lost.push((tag, row.get_ref(1)?.as_str()?.to_owned()));
        }
    }
    for (tag, owner) in lost {
        tags::put(change, &TagKey::of(&tag), &owner, 0)?;
    }
    Ok(())
}

/// The callbacks that are pending, and those that came to their end since the rewriting was planned.
fn copy_late_callbacks(
    change: &Connection,
    ledger: &Ledger,
    totals: &mut Totals,
) -> rusqlite::Result<()> {
    change.execute(DUE_CALLBACKS, [])?;
    totals.callbacks_due = Sum::of(&mut change.prepare(callback_row::DUE_SUM)?, [])?;
    totals.callbacks = totals.callbacks.plus(totals.callbacks_due);
    let mut copy = change.prepare(NOTED_CALLBACK)?;
    let mut crc = change.prepare("SELECT crc FROM main.callbacks WHERE id = ?1")?;
    for id in &ledger.noted {
        if copy.execute([id.get()])? > 0 {
            let crc = crc.query_row([id.get()], |row| row.get(0))?;
            totals.callbacks.add(id.get(), crc);
        }
    }
    Ok(())
}

fn put_usage(change: &Connection) -> rusqlite::Result<()> {
    let mut query = change.prepare(USAGE)?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (jobs, bytes): (i64, i64) = (row.get(1)?, row.get(2)?);
        let usage = Usage {
            jobs: jobs.cast_unsigned(),
            bytes: bytes.cast_unsigned(),
        };
        counts::put_usage(change, &Owner::new(row.get_ref(0)?.as_str()?), &usage)?;
    }
    Ok(())
}

/// The moment for [`RewritePlan::cutoff`]: in step with the counts by second.
pub(crate) fn cutoff(now: Timestamp) -> Timestamp {
    Expiries::cutoff(now)
}

const JOBS: &str = "
INSERT INTO main.jobs SELECT j.* FROM old.jobs j
LEFT JOIN old.expiries x ON x.id = j.id
WHERE j.id > ?1 AND j.id <= ?2 AND (x.id IS NULL OR x.expires_at > ?3)";

/// Also the entries that say that a survivor's tag was given away.
const TAGS: &str = "
INSERT OR IGNORE INTO main.tags SELECT t.* FROM main.jobs j
CROSS JOIN old.tags t ON t.tag = j.tag AND t.owner = j.owner
WHERE j.id > ?1 AND j.id <= ?2";

const LOST_TAGS: &str = "
SELECT tag, owner FROM main.tags t
WHERE t.id > 0 AND NOT EXISTS (SELECT 1 FROM main.jobs j WHERE j.id = t.id)";

const ENDS: &str = "
INSERT INTO main.ends SELECT e.* FROM main.jobs j
CROSS JOIN old.expiries x ON x.id = j.id
CROSS JOIN old.ends e ON e.seq = x.seq
WHERE j.id > ?1 AND j.id <= ?2 AND x.seq <= ?3";

const EXPIRIES: &str = "
INSERT INTO main.expiries SELECT x.* FROM main.jobs j
CROSS JOIN old.expiries x ON x.id = j.id
WHERE j.id > ?1 AND j.id <= ?2 AND x.seq <= ?3";

/// Those that are over: they do not change any more.
const CALLBACKS: &str = "
INSERT INTO main.callbacks SELECT c.* FROM main.jobs j
CROSS JOIN old.callbacks c ON c.id = j.id
WHERE j.id > ?1 AND j.id <= ?2 AND c.next_at IS NULL";

const DUE_CALLBACKS: &str = "
INSERT INTO main.callbacks SELECT c.* FROM old.callbacks c INDEXED BY callbacks_due
CROSS JOIN main.jobs j ON j.id = c.id
WHERE c.next_at IS NOT NULL";

const NOTED_CALLBACK: &str = "
INSERT OR IGNORE INTO main.callbacks SELECT c.* FROM old.callbacks c
CROSS JOIN main.jobs j ON j.id = c.id
WHERE c.id = ?1";

const USAGE: &str = "
SELECT j.owner, count(*), sum(j.payload_len + coalesce(e.result_len, 0))
FROM main.jobs j LEFT JOIN main.expiries x ON x.id = j.id
LEFT JOIN main.ends e ON e.seq = x.seq GROUP BY j.owner";

const LATE_ENDS: &str = "
INSERT INTO main.ends SELECT e.* FROM old.ends e
CROSS JOIN main.jobs j ON j.id = e.id
WHERE e.seq > ?1";

const LATE_EXPIRIES: &str = "
INSERT INTO main.expiries SELECT x.* FROM old.ends e
CROSS JOIN main.jobs j ON j.id = e.id
CROSS JOIN old.expiries x ON x.id = e.id
WHERE e.seq > ?1";

const LATE_USAGE: &str = "
SELECT u.owner, u.jobs, u.bytes, late.bytes FROM
(SELECT j.owner, sum(e.result_len) AS bytes FROM main.ends e
 CROSS JOIN main.jobs j ON j.id = e.id WHERE e.seq > ?1 GROUP BY j.owner) late
CROSS JOIN main.usage u ON u.owner = late.owner";

const STATES: &str = "
INSERT INTO main.states SELECT s.* FROM old.states s CROSS JOIN main.jobs j ON j.id = s.id";
