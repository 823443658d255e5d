//! A request counts as soon as it has come.

use std::time::Instant;

use super::{Peer, Service};
use crate::activity::InFlight;
use crate::load::Overrun;

/// A request that has come, and counts from then on.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(super) began: Instant,
    pub(super) in_flight: InFlight,
    is_alone: bool,
    pub(super) is_over: bool,
}

impl Arrived {
    /// Whether its connection has no other in progress.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Whether there are as many already as may be.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Service {
    /// Counts a request that has come.
    ///
    /// # Errors
    /// There are far too many: the stream, or the connection, ends without an answer.
    pub(crate) fn arrive(&self, is_http2: bool, peer: &Peer) -> Result<Arrived, Overrun> {
        let began = Instant::now();
        let mut in_flight = peer.activity.begin_request(is_http2);
        let is_alone = !is_http2 || in_flight.is_first();
        let mut is_over = false;
        if !is_alone {
            let counted = self.load.count().inspect_err(|_| {
                self.metrics().inspect(|metrics| metrics.stream_reset());
            })?;
            is_over = counted.is_over();
            in_flight.set_counted(counted);
        }
        Ok(Arrived {
            began,
            in_flight,
            is_alone,
            is_over,
        })
    }
}
