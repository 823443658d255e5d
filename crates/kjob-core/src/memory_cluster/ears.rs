//! What a handle is told by the others.

use tokio::sync::Notify;

use crate::Hint;

#[derive(Default)]
pub(super) struct Ears {
    work: Notify,
    ends: Notify,
    cancels: Notify,
}

impl Ears {
    pub(super) fn of(&self, hint: Hint) -> &Notify {
        match hint {
            Hint::Work => &self.work,
            Hint::Ends => &self.ends,
            Hint::Cancels => &self.cancels,
        }
    }
}
