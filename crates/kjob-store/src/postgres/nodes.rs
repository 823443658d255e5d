//! Which node this handle is, and which jobs its engine runs.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use kjob_core::pattern_of;
use kjob_proto::Text;

/// What this handle is to the others.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    /// Its id as a node; 0 while it is none.
    node: AtomicI64,
    patterns: RwLock<Arc<[Text]>>,
}

impl Membership {
    /// Its id as a node, if it is one.
    pub(crate) fn node(&self) -> Option<i64> {
        Some(self.node.load(Ordering::Acquire)).filter(|node| *node != 0)
    }

    pub(crate) fn set_node(&self, node: Option<i64>) {
        self.node.store(node.unwrap_or(0), Ordering::Release);
    }

    pub(crate) fn patterns(&self) -> Arc<[Text]> {
        let patterns = self.patterns.read();
        Arc::clone(&patterns.unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_patterns(&self, new: &[Text]) {
        *self
            .patterns
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new.into();
    }

    /// Under which pattern an endpoint's jobs wait; under itself where none is known that fits.
    pub(crate) fn lane_of(&self, endpoint: &str) -> Vec<u8> {
        let patterns = self.patterns();
        let lane = pattern_of(&patterns, endpoint);
        lane.map_or(endpoint.as_bytes(), |pattern| pattern.as_bytes())
            .to_vec()
    }
}
