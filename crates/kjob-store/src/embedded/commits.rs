//! How the writer makes a batch durable, and shows it to everyone.

use std::sync::Arc;
use std::time::Instant;

use kjob_core::{JobId, StoreError};

use super::error::{in_segment, is_fatal, is_of_write, sql};
use super::ledger::{Pending, Written};
use super::live::Live;
use super::room::Lacking;
use super::writer::{Writer, execute};

impl Writer {
    /// Makes the batch durable, and answers it.
    pub(crate) fn commit(&mut self) {
        let shared = Arc::clone(&self.shared);
        for (number, mut pending) in std::mem::take(&mut self.pending) {
            let publishing = shared.publishing();
            let begun = Instant::now();
            let done = match (self.shared.failure(), pending.failed.take()) {
                (Some(error), _) => Err(error),
                (None, Some(error)) => Err(error),
                (None, None) => self
                    .commit_segment(number, &pending)
                    .map_err(in_segment(number)),
            };
            let observer = &shared.options.observer;
            observer.committed(pending.acks.len(), begun.elapsed(), done.is_ok());
            match done {
                Ok(written) => self.publish(number, pending, &written),
                Err(error) => {
                    self.roll_back(number);
                    let error = self.shared.judged(error);
                    if error.is_full() {
                        self.note_full();
                    }
                    if is_fatal(&error) {
                        self.shared.set_failure(error.clone());
                    }
                    for ack in pending.acks {
                        ack.send(Err(error.clone()));
                    }
                    self.failed_commits.insert(number, error);
                }
            }
            if let Some(ledger) = self.segments.get(&number) {
                ledger.at_rest.end_write();
            }
            drop(publishing);
        }
    }

    /// Commits one segment's transaction.
    fn commit_segment(&mut self, number: u32, pending: &Pending) -> Result<Written, StoreError> {
        let first_live = self.first_live(number);
        let (Some(ledger), Some(connection)) =
            (self.segments.get(&number), self.connections.get(&number))
        else {
            return Err(StoreError::Corrupt {
                what: format!("segment {number} is gone"),
            });
        };
        let written = ledger
            .write(connection, pending, first_live)
            .map_err(sql("write a segment's counts"))?;
        if let Some(packs) = self.packs.get_mut(&number) {
            packs.sync()?;
        }
        let committed = connection
            .prepare_cached("COMMIT")
            .and_then(|mut commit| commit.execute([]));
        if committed.as_ref().is_err_and(|error| !is_of_write(error)) {
            // It may be on the disk all the same: what it names is not written over.
            self.packs.remove(&number);
        }
        committed.map_err(sql("commit"))?;
        Ok(written)
    }

    /// Shows everyone what was committed, and answers.
    fn publish(&mut self, number: u32, mut pending: Pending, written: &Written) {
        for (id, payload) in pending.payloads.drain(..) {
            self.shared.waiting.put(id, payload);
        }
        for job in pending.ended.drain(..) {
            self.shared.recent.put(job);
        }
        // One may have ended, and its expiry been moved, in this very batch.
        for (id, _) in &pending.moved {
            self.shared.recent.remove(*id);
        }
        if let Some(packs) = self.packs.get_mut(&number) {
            packs.commit();
        }
        let Some(ledger) = self.segments.get_mut(&number) else {
            return;
        };
        ledger.take(&mut pending, written);
        if ledger.sealed {
            self.due.note(number);
        }
        for (owner, (jobs, bytes)) in &pending.usage {
            self.shared.count(owner, *jobs, *bytes);
        }
        for header in pending.headers {
            self.shared.recent.take_tag(&header);
            self.shared.keep_header(header);
        }
        let mut live = self.shared.live_mut();
        for (id, state) in pending.states {
            // One that begins or ends needs it no more; one that is queued again reads it again.
            if state.as_ref().is_none_or(Live::is_started) {
                self.shared.waiting.remove(id);
            }
            match state {
                Some(state) => live.insert(id, &state),
                None => {
                    live.remove(id);
                    self.shared.drop_header(id);
                }
            }
        }
        drop(live);
        if !pending.callbacks.is_empty() {
            let mut queue = self.shared.callbacks();
            for (id, next_at) in pending.callbacks {
                queue.set(id, next_at);
            }
        }
        pending
            .blobs
            .into_iter()
            .for_each(super::blobs::NewBlob::keep);
        self.taken.append(&mut pending.taken);
        for ack in pending.acks {
            ack.send(Ok(()));
        }
    }

    fn roll_back(&mut self, number: u32) {
        if let Some(packs) = self.packs.get_mut(&number) {
            packs.roll_back();
        }
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        if !connection.is_autocommit() && execute(connection, "ROLLBACK").is_err() {
            // Closing the connection rolls back as well.
            self.connections.remove(&number);
        }
    }

    /// The lowest committed live id of a segment.
    fn first_live(&self, number: u32) -> Option<i64> {
        let table = self.shared.table();
        let at = table
            .segments
            .iter()
            .position(|entry| entry.number == number)?;
        let next = table.segments.get(at + 1).map(|next| next.first_id);
        // The oldest segment also has the late submits below its first id.
        let first = if at == 0 {
            Some(1)
        } else {
            table.segments.get(at).map(|e| e.first_id)
        };
        // Those above the one below it.
        let below = first.and_then(|first| JobId::new(first - 1));
        let lowest = self.shared.live().above(below).next()?.id;
        Some(lowest.get()).filter(|lowest| next.is_none_or(|next| *lowest < next))
    }
}
