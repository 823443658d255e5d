//! Leases, counted by what the engine tells of them.

use kjob_core::engine::LeaseEvent;
use prometheus::{Histogram, IntCounter};

use super::table::{self, Maker};

/// Counts of leases; all stay at zero where the store is shared with nobody.
#[derive(Debug)]
pub(super) struct Leases {
    joined: IntCounter,
    not_renewed: IntCounter,
    lost: IntCounter,
    left: IntCounter,
    renewal: Histogram,
    taken_over: IntCounter,
}

impl Leases {
    pub(super) fn new(maker: &Maker) -> Self {
        let events = maker.counters(&table::LEASE_EVENTS);
        let event = |event| events.with_label_values(&[event]);
        Self {
            joined: event("joined"),
            not_renewed: event("not_renewed"),
            lost: event("lost"),
            left: event("left"),
            renewal: maker.histogram(&table::LEASE_RENEWAL),
            taken_over: maker.counter(&table::TAKEN_OVER),
        }
    }

    pub(super) fn note(&self, event: LeaseEvent) {
        match event {
            LeaseEvent::Joined => self.joined.inc(),
            LeaseEvent::Renewed { took } => self.renewal.observe(took.as_secs_f64()),
            LeaseEvent::NotRenewed => self.not_renewed.inc(),
            LeaseEvent::Lost => self.lost.inc(),
            LeaseEvent::Left => self.left.inc(),
            LeaseEvent::TookOver { jobs } => self.taken_over.inc_by(jobs as u64),
            // What else there may come has no metric yet.
            _ => {}
        }
    }
}
