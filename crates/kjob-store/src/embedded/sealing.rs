//! Segments come and are sealed: beginning the newest, and noting of older ones what spares opening
//! and reading them.

use std::sync::Arc;

use kjob_core::StoreError;

use super::ledger::Ledger;
use super::shared::Table;
use super::writer::Writer;
use super::{layout, segment, summary};

impl Writer {
    /// Shows readers the segments as they are now.
    pub(crate) fn publish_table(&self) {
        let segments = self
            .segments
            .values()
            .map(|ledger| Arc::new(ledger.entry()))
            .collect();
        self.shared.set_table(Table { segments });
    }

    /// Begins a new segment for ids above those of the newest.
    pub(crate) fn roll(&mut self) -> Result<(), StoreError> {
        let begun = self.begin_segment();
        self.shared.noted(begun)
    }

    fn begin_segment(&mut self) -> Result<(), StoreError> {
        let Some(newest) = self.newest() else {
            return Err(StoreError::Closed);
        };
        let last = self
            .pending
            .get(&newest.number)
            .map_or(0, |pending| pending.max_id);
        let first_id = newest.max_id.max(last).max(newest.first_id) + 1;
        let sealed = newest.number;
        let number = self.catalogue.next_number();
        let path = self.shared.layout.segment(number, 0);
        // A begin that failed half way may have left a file.
        layout::remove_database(&path).map_err(super::error::file("begin a segment"))?;
        let mut connection = segment::create(&self.shared.layout, number, 0)?;
        layout::sync_names(&self.shared.layout.segments(), "begin a segment")?;
        self.catalogue.begin_segment(number, first_id)?;
        let ledger = Ledger::new(number, first_id);
        // It has none yet, and those that come are this writer's.
        ledger.tags_whole.set_known();
        // What is sealed may be rewritten and deleted.
        self.write_back.wait();
        self.write_back.watch(&mut connection);
        self.segments.insert(number, ledger);
        self.connections.insert(number, connection);
        if let Some(ledger) = self.segments.get_mut(&sealed) {
            ledger.sealed = true;
            self.due.note(sealed);
        }
        if let Some(connection) = self.connections.get(&sealed) {
            // Reads and writes nothing, so there is nothing that could fail.
            let _ = segment::make_older(connection);
        }
        self.publish_table();
        Ok(())
    }

    /// Notes in the catalogue which sealed segments have no live job and need not be opened at
    /// the next start.
    pub(crate) fn settle(&mut self) {
        let sealed = self.segments.values_mut().filter(|ledger| ledger.sealed);
        for ledger in sealed.filter(|ledger| !ledger.summary_stored) {
            let number = ledger.number;
            // What cannot be noted is worked out anew at the next start.
            if !ledger.filter_stored {
                let filter = ledger.filter.encode(&ledger.filter_of());
                let stored = self.catalogue.set_filter(number, &filter);
                ledger.filter_stored = self.shared.noted(stored).is_ok();
            }
            // Its pending callbacks are found by opening it.
            let is_over = ledger.live == 0 && ledger.totals.callbacks_due.rows == 0;
            if is_over && ledger.filter_stored {
                let counts = summary::encode(ledger);
                let stored = self.catalogue.set_summary(number, Some(&counts));
                ledger.summary_stored = self.shared.noted(stored).is_ok();
                ledger.summary_stale = false;
                self.connections.remove(&number);
            }
        }
    }

    /// Before a sealed segment gets another job or tag: it has to be opened at the next start
    /// again.
    pub(crate) fn unsettle(&mut self, number: u32) -> Result<(), StoreError> {
        let Some(ledger) = self.segments.get_mut(&number) else {
            return Ok(());
        };
        ledger.changes += 1;
        ledger.filter_stored = false;
        if ledger.summary_stored {
            self.shared
                .noted(self.catalogue.set_summary(number, None))?;
            ledger.summary_stored = false;
            // A reader would hold the file to the old counts.
            self.publish_table();
        }
        Ok(())
    }

    /// Keeps the filter of the newest segment, so that the next start need not read its tags.
    pub(crate) fn keep_newest_filter(&mut self) {
        let newest = self.segments.last_key_value();
        if let Some((number, ledger)) = newest.filter(|_| self.shared.failure().is_none()) {
            let filter = ledger.filter.encode(&ledger.filter_of());
            // Otherwise it is built anew.
            let _ = self.catalogue.set_filter(*number, &filter);
        }
    }

    /// Writes counts to the catalogue that changed after they were noted.
    pub(crate) fn refresh_summaries(&mut self) {
        for ledger in self
            .segments
            .values_mut()
            .filter(|ledger| ledger.summary_stale)
        {
            let counts = summary::encode(ledger);
            let stored = self.catalogue.set_summary(ledger.number, Some(&counts));
            if self.shared.noted(stored).is_ok() {
                ledger.summary_stale = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kjob_core::Store;

    use super::super::store::tests::{inspect, job};
    use super::super::{EmbeddedOptions, EmbeddedStore};

    /// Whether the newest segment's tags pass, once with and once without one of their rows.
    async fn tags_pass(store: &EmbeddedStore) -> [bool; 2] {
        let (tell, told) = std::sync::mpsc::channel();
        inspect(store, move |writer| {
            let (number, connection) = writer.connections.last_key_value().unwrap();
            let number = *number;
            connection.execute_batch("BEGIN; DELETE FROM tags").unwrap();
            let without = writer.prove_tags(number).is_ok();
            let (_, connection) = writer.connections.last_key_value().unwrap();
            connection.execute_batch("ROLLBACK").unwrap();
            tell.send([writer.prove_tags(number).is_ok(), without])
                .unwrap();
        })
        .await;
        store.reserve_ids(1).await.unwrap();
        told.recv().unwrap()
    }

    /// Those of a file that was there before are looked at until they have passed; what this process
    /// writes itself it need not read all over.
    #[tokio::test]
    async fn tags_of_the_newest_segment_are_proven_once() {
        let dir = tempfile::tempdir().unwrap();
        let open = || EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let store = open();
        let id = store.reserve_ids(1).await.unwrap().take().unwrap();
        store
            .submit(job(id, "tag", Bytes::new()), false)
            .await
            .unwrap();
        assert_eq!(tags_pass(&store).await, [true, true]);
        store.close().await.unwrap();
        drop(store);

        let store = open();
        assert_eq!(tags_pass(&store).await, [true, false]);
        assert_eq!(tags_pass(&store).await, [true, true]);
    }
}
