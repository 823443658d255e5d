//! The console: a page for browsers, over the same HTTP that everybody else has.

pub(crate) mod assets;
pub(crate) mod changes;
pub(crate) mod history;

use kjob_core::engine::Accepted;
use kjob_core::{Header, Owner, Phase, State};

use changes::Changes;
use history::History;

/// What the console is told of jobs as it happens. Nothing is kept for each job, and where nobody looks at the
/// console an event is a few additions.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) changes: Changes,
    pub(crate) history: History,
}

impl Watched {
    pub(crate) fn submitted(&self, owner: &Owner, accepted: &Accepted) {
        if !accepted.existing {
            self.history.add(|slot| slot.submitted += 1);
            self.changes.note(accepted.id, owner);
        }
    }

    pub(crate) fn refused(&self) {
        self.history.add(|slot| slot.refused += 1);
    }

    /// It was started; the first time, it had waited for so long.
    pub(crate) fn started(&self, job: &Header, waited_ms: Option<u64>) {
        if let Some(millis) = waited_ms {
            self.history.add(|slot| slot.wait.add(millis));
        }
        self.changed(job);
    }

    pub(crate) fn returned(&self, ran_ms: u64) {
        self.history.add(|slot| slot.run.add(ran_ms));
    }

    pub(crate) fn ended(&self, job: &Header, state: &State) {
        self.history.add(|slot| match state.phase {
            Phase::Done => slot.done += 1,
            Phase::Cancelled => slot.cancelled += 1,
            _ => slot.failed += 1,
        });
        self.changed(job);
    }

    pub(crate) fn changed(&self, job: &Header) {
        self.changes.note(job.id, &job.owner);
    }
}
