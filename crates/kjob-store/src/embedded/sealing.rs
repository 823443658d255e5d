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
    use kjob_core::{JobTag, Owner, Store, StoreError, Submitted};

    use super::super::pool::Length;
    use super::super::store::tests::{NOW, inspect, job};
    use super::super::tags::hash_of;
    use super::super::{EmbeddedOptions, EmbeddedStore};

    /// Has the newest segment's filter know a tag that nobody has, or the file lose its tags behind everyone's back.
    async fn spoil(store: &EmbeddedStore, known: Option<&'static str>) {
        inspect(store, move |writer| match known {
            Some(tag) => {
                let (_, ledger) = writer.segments.last_key_value().unwrap();
                let tag: JobTag = tag.parse().unwrap();
                ledger.filter.insert(hash_of(&tag, &Owner::anonymous()));
            }
            None => {
                let (_, connection) = writer.connections.last_key_value().unwrap();
                connection.execute_batch("DELETE FROM tags").unwrap();
            }
        })
        .await;
        store.reserve_ids(1).await.unwrap();
    }

    async fn submit(store: &EmbeddedStore, tag: &str) -> Result<Submitted, StoreError> {
        let id = store.reserve_ids(1).await.unwrap().take().unwrap();
        store.submit(job(id, tag, Bytes::new()), false).await
    }

    async fn find(
        store: &EmbeddedStore,
        tag: &str,
    ) -> Result<Option<kjob_core::JobId>, StoreError> {
        let tag = tag.parse().unwrap();
        store.find(&Owner::anonymous(), &tag, NOW).await
    }

    /// A store that was opened again, with a job that has the tag `tag`.
    async fn reopened() -> (tempfile::TempDir, EmbeddedStore) {
        let dir = tempfile::tempdir().unwrap();
        let open = || EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let first = open();
        submit(&first, "tag").await.unwrap();
        first.close().await.unwrap();
        drop(first);
        let store = open();
        (dir, store)
    }

    /// Those of a file that was there before are looked at until they have passed; what this process
    /// writes itself it need not read all over.
    #[tokio::test]
    async fn tags_of_the_newest_segment_are_proven_once() {
        let (_dir, store) = reopened().await;
        // A filter that is wrong about a tag has all of them read, and then never again.
        spoil(&store, Some("nobodys")).await;
        assert_eq!(find(&store, "nobodys").await.unwrap(), None);
        spoil(&store, None).await;
        assert_eq!(find(&store, "tag").await.unwrap(), None);
        let done = submit(&store, "tag").await.unwrap();
        assert!(matches!(done, Submitted::Created(_)), "{done:?}");
    }

    #[tokio::test]
    async fn a_tag_that_is_lost_is_nobody_elses() {
        let (_dir, store) = reopened().await;
        spoil(&store, None).await;
        for _ in 0..2 {
            let refused = submit(&store, "tag").await.unwrap_err();
            assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
            let refused = find(&store, "tag").await.unwrap_err();
            assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
        }
        // Others are not held up.
        spoil(&store, Some("nobodys")).await;
        let done = submit(&store, "another").await.unwrap();
        assert!(matches!(done, Submitted::Created(_)), "{done:?}");
    }

    /// While the tags of a segment are read, others get what they ask for.
    #[tokio::test]
    async fn nobody_waits_for_tags_that_are_proven_for_another() {
        let (_dir, store) = reopened().await;
        spoil(&store, Some("nobodys")).await;
        // The thread that takes what takes long is held up.
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        store.readers.submit(Length::Long, move |_| {
            let _ = held.recv();
        });
        let mut waits = Box::pin(submit(&store, "nobodys"));
        let mut asks = Box::pin(find(&store, "nobodys"));
        tokio::select! {
            biased;
            _ = &mut waits => panic!("not before all tags are read"),
            _ = &mut asks => panic!("not before all tags are read"),
            done = submit(&store, "another") => drop(done.unwrap()),
        }
        assert!(find(&store, "another").await.unwrap().is_some());
        drop(go_on);
        let (done, found) = tokio::join!(waits, asks);
        assert!(matches!(done, Ok(Submitted::Created(_))), "{done:?}");
        found.unwrap();
    }
}
