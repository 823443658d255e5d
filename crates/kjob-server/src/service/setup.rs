//! What the service is told before its first request.

use super::Service;
use crate::access::Access;
use crate::callbacks::Callbacks;
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use crate::passthrough::Passthrough;
use crate::traces::Traces;

impl Service {
    /// Says who may use the server; only the first word counts.
    pub(crate) fn set_access(&self, access: Access) {
        // It fails if it was said before.
        let _ = self.access.set(access);
    }

    pub(crate) fn set_callbacks(&self, callbacks: Callbacks) {
        // It fails if it was said before.
        let _ = self.callbacks.set(callbacks);
    }

    /// Says which headers of submits are kept, and who may report; only the first word counts.
    pub(crate) fn set_gateway(&self, gateway: Gateway) {
        // It fails if it was said before.
        let _ = self.gateway.set(gateway);
    }

    /// Says what goes to an upstream; only the first word counts.
    pub(crate) fn set_passthrough(&self, passthrough: Passthrough) {
        // It fails if it was said before.
        let _ = self.passthrough.set(passthrough);
    }

    /// Says who counts; only the first word counts.
    pub(crate) fn set_metrics(&self, metrics: Metrics) {
        // It fails if it was said before.
        let _ = self.metrics.set(metrics);
    }

    /// Says where spans go; only the first word counts.
    pub(crate) fn set_traces(&self, traces: Traces) {
        // It fails if it was said before.
        let _ = self.traces.set(traces);
    }

    /// Says that there is a console.
    pub(crate) fn set_console(&self) {
        // It fails if it was said before.
        let _ = self.console.set(());
    }
}
