//! Segments come and are sealed: beginning the newest, and noting of older ones what spares opening
//! and reading them.

use std::sync::Arc;

use kjob_core::StoreError;

use super::filter::Filter;
use super::ledger::Ledger;
use super::requests::Request;
use super::shared::Table;
use super::writer::Writer;
use super::{layout, rewrite, segment, summary};

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
        let connection = segment::create(&path)?;
        layout::sync_dir(&self.shared.layout.segments())
            .map_err(super::error::file("begin a segment"))?;
        let begun = self.catalogue.begin_segment(number, first_id);
        self.shared.noted(begun)?;
        self.segments.insert(number, Ledger::new(number, first_id));
        self.connections.insert(number, connection);
        if let Some(ledger) = self.segments.get_mut(&sealed) {
            ledger.sealed = true;
        }
        if let Some(connection) = self.connections.get(&sealed) {
            // Only a matter of memory.
            let _ = connection.pragma_update(None, "cache_size", -2048);
        }
        self.publish_table();
        Ok(())
    }

    /// Has the filter of a sealed segment built beside the writer, if it has none.
    fn build_filter(&mut self, number: u32) {
        let Some(ledger) = self.segments.get_mut(&number) else {
            return;
        };
        ledger.filter_asked = true;
        let (generation, changes) = (ledger.generation, ledger.changes);
        let path = self.shared.layout.segment(number, generation);
        let requests = self.requests.clone();
        self.background.submit(move |()| {
            // Where it cannot be built, the segment's file is asked for every tag, as until now.
            let Ok(filter) = rewrite::filter_of(&path) else {
                return;
            };
            let filter = Arc::new(filter);
            if let Some(requests) = requests.upgrade() {
                let install = Request::InstallFilter {
                    number,
                    generation,
                    changes,
                    filter,
                };
                let _ = requests.blocking_send(install);
            }
        });
    }

    pub(crate) fn install_filter(
        &mut self,
        number: u32,
        generation: u32,
        changes: u64,
        filter: Arc<Filter>,
    ) {
        let Some(ledger) = self.segments.get_mut(&number) else {
            return;
        };
        if (ledger.generation, ledger.changes) != (generation, changes) {
            // Built anew once the change that came between is committed.
            ledger.filter_asked = false;
            return;
        }
        ledger.filter = Some(filter);
        self.publish_table();
    }

    /// Notes in the catalogue which sealed segments have no live job and need not be opened at
    /// the next start. Also has the filters of newly sealed ones built.
    pub(crate) fn settle(&mut self) {
        let sealed = self.segments.values().filter(|ledger| ledger.sealed);
        let unsettled: Vec<_> = sealed
            .filter(|l| !l.summary_stored)
            .map(|l| (l.number, l.live))
            .collect();
        for (number, live) in unsettled {
            let Some(ledger) = self.segments.get_mut(&number) else {
                continue;
            };
            let Some(filter) = &ledger.filter else {
                if !ledger.filter_asked {
                    self.build_filter(number);
                }
                continue;
            };
            // What cannot be noted is worked out anew at the next start.
            if !ledger.filter_stored {
                let stored = self.catalogue.set_filter(number, Some(&filter.encode()));
                ledger.filter_stored = stored.is_ok();
            }
            if live == 0 && ledger.filter_stored {
                let counts = summary::encode(&ledger.usage, &ledger.expiries);
                ledger.summary_stored = self.catalogue.set_summary(number, Some(&counts)).is_ok();
                ledger.summary_stale = false;
                self.connections.remove(&number);
            }
        }
    }

    /// Before a settled segment gets another job: it has to be opened at the next start again.
    pub(crate) fn unsettle(&mut self, number: u32, tag: Option<u64>) -> Result<(), StoreError> {
        let Some(ledger) = self.segments.get_mut(&number) else {
            return Ok(());
        };
        ledger.changes += 1;
        if ledger.summary_stored {
            self.shared
                .noted(self.catalogue.set_summary(number, None))?;
            ledger.summary_stored = false;
        }
        let Some(tag) = tag else { return Ok(()) };
        if ledger.filter_stored {
            self.shared.noted(self.catalogue.set_filter(number, None))?;
            ledger.filter_stored = false;
        }
        if let Some(filter) = &ledger.filter {
            filter.insert(tag);
        }
        Ok(())
    }

    /// Writes counts to the catalogue that changed after they were noted.
    pub(crate) fn refresh_summaries(&mut self) {
        for ledger in self
            .segments
            .values_mut()
            .filter(|ledger| ledger.summary_stale)
        {
            let counts = summary::encode(&ledger.usage, &ledger.expiries);
            if self
                .catalogue
                .set_summary(ledger.number, Some(&counts))
                .is_ok()
            {
                ledger.summary_stale = false;
            }
        }
    }
}
