//! The one thread that writes: it takes all steps that wait, makes them durable with one commit a
//! segment, publishes them, and answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use kjob_core::{JobId, StoreError};
use rusqlite::Connection;
use tokio::sync::mpsc::Receiver;

use super::catalogue::Catalogue;
use super::due::Due;
use super::error::{in_segment, sql};
use super::ledger::{Ledger, Pending};
use super::live::Live;
use super::lock::DirLock;
use super::packs::Packs;
use super::pool::Pool;
use super::query::Segment;
use super::reader::Reader;
#[cfg(test)]
use super::requests::Inspect;
use super::requests::{Ack, Reply, Request};
use super::reserve::Reserve;
use super::room::Lacking;
use super::segment::{self, Access};
use super::shared::Shared;
use super::tag_moves::{HeldTag, SharedTag};
use super::write_back::WriteBack;

/// Connections to older segments that are kept between batches.
const OLDER_CONNECTIONS_MAX: usize = 8;

/// Everything that only the writer touches.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) catalogue: Catalogue,
    /// By number, so oldest first; the last is the newest.
    pub(crate) segments: BTreeMap<u32, Ledger>,
    pub(crate) connections: BTreeMap<u32, Connection>,
    /// What the current batch changes, by segment; each has a transaction open.
    pub(crate) pending: BTreeMap<u32, Pending>,
    pub(crate) readers: Arc<Pool<Reader>>,
    pub(crate) background: Arc<Pool<()>>,
    /// What a sweep is to look at.
    pub(crate) due: Due,
    /// Segments whose last commit in this batch failed.
    pub(crate) failed_commits: BTreeMap<u32, StoreError>,
    /// Tags that committed jobs took, and the jobs of older segments that are yet to lose them.
    pub(crate) taken: Vec<HeldTag>,
    /// Of the newest segment's log.
    pub(crate) write_back: WriteBack,
    /// By segment.
    pub(crate) packs: BTreeMap<u32, Packs>,
    pub(crate) reserve: Reserve,
    /// Let go last.
    pub(crate) lock: DirLock,
}

impl Writer {
    /// Works until the store is closed, or nobody is left to ask.
    pub(crate) fn run(mut self, mut requests: Receiver<Request>, shared_tags: Vec<SharedTag>) {
        let batch_max = self.shared.options.batch_max.max(1);
        // What was left to do when the store was last let go of.
        self.find_taken(shared_tags);
        self.give_away_taken();
        self.settle();
        self.watch_newest();
        let mut batch = Vec::with_capacity(batch_max);
        loop {
            // Steps put off by the last batch do not wait for others to come.
            if batch.is_empty() && requests.blocking_recv_many(&mut batch, batch_max) == 0 {
                break;
            }
            while batch.len() < batch_max
                && let Ok(request) = requests.try_recv()
            {
                batch.push(request);
            }
            let mut put_off: Vec<(u32, Request)> = Vec::new();
            let mut closing = Vec::new();
            for request in batch.drain(..) {
                match request {
                    Request::Close { reply } => closing.push(reply),
                    request => put_off.extend(self.handle(request)),
                }
            }
            self.commit();
            self.write_back();
            // After a failed sync nobody knows what is on disk, so nothing may build on it. And where
            // room is short, it is not for notes that can be worked out anew.
            if self.shared.failure().is_none() && !self.shared.room.is_short() {
                self.settle();
            }
            self.trim();
            for (awaited, request) in put_off {
                match self.failed_commits.get(&awaited) {
                    Some(error) => request.refuse(error),
                    None => batch.push(request),
                }
            }
            self.failed_commits.clear();
            self.give_away_taken();
            if !closing.is_empty() {
                // First, so that whoever gets no answer knows why.
                self.shared.set_closed();
                requests.close();
                // What came after the close, and must not outlive the lock.
                while let Ok(late) = requests.try_recv() {
                    late.refuse(&StoreError::Closed);
                }
                self.close(closing);
                return;
            }
        }
        self.shared.set_closed();
        // Answered to nobody: the handle is gone.
        let _ = self.finish();
    }

    /// Does one step, but for its commit. Gives the request back if it depends on changes of this
    /// batch in another segment, with that segment's number.
    fn handle(&mut self, request: Request) -> Option<(u32, Request)> {
        if let Some(error) = self.shared.failure() {
            request.refuse(&error);
            return None;
        }
        match request {
            Request::Reserve { count, reply } => {
                let block = self.catalogue.reserve(count);
                drop(reply.send(self.shared.noted(block)));
            }
            Request::Submit(submit, reply) => {
                let (awaited, submit, reply) = self.submit(submit, reply)?;
                return Some((awaited, Request::Submit(submit, reply)));
            }
            Request::Step(step) => self.step(*step),
            Request::ExpireAt { id, at, reply } => self.expire_at(id, at, reply),
            Request::NoteCallback {
                id,
                tried,
                at,
                reply,
            } => self.note_callback(id, *tried, at, reply),
            Request::Sweep {
                now,
                thoroughness,
                reply,
            } => {
                // It looks at committed counts only.
                self.commit();
                drop(reply.send(self.sweep(now, thoroughness)));
                self.put_to_rest();
            }
            Request::Stats { now, reply } => {
                self.commit();
                drop(reply.send(Ok(self.stats(now))));
            }
            Request::Swap { copied, reply } => {
                self.commit();
                drop(reply.send(self.swap(*copied)));
            }
            Request::Snapshot { prepared, reply } => drop(reply.send(self.snapshot(*prepared))),
            Request::Release { seen, reply } => drop(reply.send(Ok(self.release(seen)))),
            Request::Close { reply } => drop(reply.send(Ok(()))),
            #[cfg(test)]
            Request::Inspect(Inspect(inspect)) => inspect(self),
        }
        None
    }

    /// Writes the newest segment's log back, where it is time, but for most of it by another thread.
    fn write_back(&mut self) {
        let Some((number, ledger)) = self.segments.last_key_value() else {
            return;
        };
        if let (Some(connection), None) = (self.connections.get(number), self.shared.failure()) {
            let path = || self.shared.layout.segment(*number, ledger.generation);
            self.write_back
                .go_on(connection, path, &self.background, &self.shared);
        }
    }

    /// Has the newest segment's connection tell how long its log is.
    fn watch_newest(&mut self) {
        if let Some((number, _)) = self.segments.last_key_value()
            && let Some(connection) = self.connections.get_mut(number)
        {
            self.write_back.watch(connection);
        }
    }

    /// The number of the segment that has `id`.
    pub(crate) fn segment_of(&self, id: JobId) -> Option<u32> {
        self.shared.table().of(id).map(|entry| entry.number)
    }

    /// The newest segment.
    pub(crate) fn newest(&self) -> Option<&Ledger> {
        self.segments.last_key_value().map(|(_, ledger)| ledger)
    }

    /// A live job as the batch leaves it; `None` if it has ended or never was.
    pub(crate) fn live(&self, segment: u32, id: JobId) -> Option<Live> {
        match self
            .pending
            .get(&segment)
            .and_then(|pending| pending.states.get(&id))
        {
            Some(state) => state.clone(),
            None => self.shared.live().get(id).map(|job| job.live()),
        }
    }

    /// A segment to read in: what is written but not committed is seen.
    pub(crate) fn reading(&mut self, number: u32) -> Result<Segment<'_>, StoreError> {
        self.connect(number)?;
        let connection = self.connections.get(&number).ok_or(StoreError::Closed)?;
        Ok(Segment {
            connection,
            layout: &self.shared.layout,
            number,
        })
    }

    /// A segment to write in, with a transaction open. Fails with the error of the batch's
    /// earlier steps in it, if those failed.
    pub(crate) fn writing(
        &mut self,
        number: u32,
    ) -> Result<(&Connection, &mut Pending), StoreError> {
        self.connect(number)?;
        let connection = self.connections.get(&number).ok_or(StoreError::Closed)?;
        let pending = match self.pending.entry(number) {
            std::collections::btree_map::Entry::Occupied(pending) => pending.into_mut(),
            std::collections::btree_map::Entry::Vacant(vacant) => {
                execute(connection, "BEGIN IMMEDIATE").map_err(in_segment(number))?;
                if let Some(ledger) = self.segments.get(&number) {
                    ledger.at_rest.begin_write();
                }
                vacant.insert(Pending::default())
            }
        };
        match &pending.failed {
            Some(error) => Err(error.clone()),
            None => Ok((connection, pending)),
        }
    }

    /// Judges a failed statement: a request whose first statement broke a rule of the table harms
    /// nobody else; anything else gives up the segment's whole transaction.
    pub(crate) fn failed(
        &mut self,
        number: u32,
        doing: &'static str,
        error: rusqlite::Error,
    ) -> StoreError {
        let harmless = matches!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::ConstraintViolation | rusqlite::ErrorCode::TooBig)
        );
        let intact = self
            .connections
            .get(&number)
            .is_some_and(|c| !c.is_autocommit());
        let error = in_segment(number)(self.shared.judged(sql(doing)(error)));
        if error.is_full() {
            self.note_full();
        }
        if let (false, Some(pending)) = (harmless && intact, self.pending.get_mut(&number)) {
            pending.failed = Some(error.clone());
            pending.states.clear();
        }
        error
    }

    /// Answers once what was seen in `segment` is durable: at once if the batch changed nothing
    /// there.
    pub(crate) fn answer(&mut self, segment: u32, ack: Ack) {
        match self.pending.get_mut(&segment) {
            Some(pending) => pending.acks.push(ack),
            None => ack.send(Ok(())),
        }
    }

    fn connect(&mut self, number: u32) -> Result<(), StoreError> {
        if self.connections.contains_key(&number) {
            return Ok(());
        }
        let newest = self.newest().is_some_and(|newest| newest.number == number);
        let Some(ledger) = self.segments.get(&number) else {
            return Err(StoreError::Corrupt {
                what: format!("segment {number} is gone"),
            });
        };
        let access = if newest {
            Access::Newest
        } else {
            Access::Older
        };
        let path = self.shared.layout.segment(number, ledger.generation);
        let opened = segment::open(&path, access).map_err(|error| self.shared.judged(error));
        self.connections.insert(number, opened?);
        if newest {
            self.watch_newest();
        }
        Ok(())
    }

    /// Closes connections to older segments beyond those worth keeping.
    fn trim(&mut self) {
        while self.connections.len() > OLDER_CONNECTIONS_MAX + 1 {
            self.connections.pop_first();
        }
        self.trim_packs();
    }

    fn close(self, replies: Vec<Reply<()>>) {
        let done = self.finish();
        for reply in replies {
            // Nobody may be waiting any more.
            let _ = reply.send(done.clone());
        }
    }

    /// Lets go of all files, the lock last.
    fn finish(mut self) -> Result<(), StoreError> {
        if self.shared.failure().is_none() {
            self.refresh_summaries();
        }
        self.keep_newest_filter();
        // The last one to close a file writes its log back, and that is to be us. And whoever
        // opens the directory next is to find nobody at work in it.
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let idle = done.clone();
        self.readers.submit_to_each(move |reader| {
            reader.close();
            drop(done.clone());
        });
        self.write_back.wait();
        self.background.submit_to_each(move |()| drop(idle.clone()));
        let _ = wait.recv();
        // Nor is a backup: it sees that the store is closed, and lets go.
        self.shared.deletions.wait_released();
        for (number, connection) in std::mem::take(&mut self.connections) {
            connection
                .close()
                .map_err(|(_, error)| in_segment(number)(sql("close a segment")(error)))?;
        }
        for ledger in self.segments.values() {
            ledger.at_rest.close();
        }
        self.catalogue.close()?;
        drop(self.lock);
        Ok(())
    }
}

/// Runs a statement without values or rows.
pub(crate) fn execute(connection: &Connection, statement: &'static str) -> Result<(), StoreError> {
    connection
        .prepare_cached(statement)
        .and_then(|mut statement| statement.execute([]))
        .map(drop)
        .map_err(sql("commit"))
}

impl Request {
    /// Answers with an error, and does nothing.
    fn refuse(self, error: &StoreError) {
        let error = error.clone();
        match self {
            Request::Reserve { reply, .. } => drop(reply.send(Err(error))),
            Request::Submit(_, reply) => drop(reply.send(Err(error.into()))),
            Request::Step(step) => drop(step.reply.send(Err(error.into()))),
            Request::NoteCallback { reply, .. } => drop(reply.send(Err(error.into()))),
            Request::ExpireAt { reply, .. } | Request::Close { reply } => {
                drop(reply.send(Err(error)));
            }
            Request::Sweep { reply, .. } => drop(reply.send(Err(error))),
            Request::Swap { reply, .. } => drop(reply.send(Err(error))),
            Request::Stats { reply, .. } => drop(reply.send(Err(error))),
            Request::Snapshot { reply, .. } => drop(reply.send(Err(error))),
            Request::Release { reply, .. } => drop(reply.send(Err(error))),
            #[cfg(test)]
            Request::Inspect(_) => {}
        }
    }
}
