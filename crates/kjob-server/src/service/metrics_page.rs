//! `/metrics`: who may look, and what they see.

use std::net::IpAddr;

use http::{HeaderValue, Method, Response, StatusCode};
use kjob_core::engine::Caller;

use super::{Peer, Service};
use crate::access::Admitted;
use crate::head::{Head, Target};
use crate::health::Page;
use crate::metrics::{self, Metrics};
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};

impl Service {
    /// The page, if it is asked for and anybody may look at it.
    pub(super) fn open_metrics(&self, head: &Head) -> Option<&Metrics> {
        let is_asked = matches!(head.target, Target::Page(Page::Metrics));
        self.metrics()
            .filter(|metrics| is_asked && metrics.is_public())
    }

    /// The page, if this caller may look at it.
    pub(super) async fn metrics_for(
        &self,
        head: &Head,
        admitted: &Admitted,
        peer: &Peer,
    ) -> Response<ReplyBody> {
        let Some(metrics) = self.metrics() else {
            let path = head.target.path().to_owned();
            return head.refuse(&Refusal::UnknownPath { path }, StatusCode::NOT_FOUND);
        };
        if !may_look(self.access().has_accounts(), &admitted.caller, peer.ip) {
            let refusal = Refusal::MetricsNotShown;
            let refusal = self.access().refused(refusal, peer.ip).await;
            return head.refuse(&refusal, refusal.status());
        }
        self.metrics_page(metrics, &head.method).await
    }

    /// The page.
    pub(super) async fn metrics_page(
        &self,
        metrics: &Metrics,
        method: &Method,
    ) -> Response<ReplyBody> {
        if let Err(refusal) = Page::check_method(method) {
            return reply::text_refusal(refusal.status(), &refusal);
        }
        let (metrics, engine) = (metrics.clone(), self.engine.clone());
        let system = self.system.clone();
        // It reads files, and the page may be long.
        let page = tokio::task::spawn_blocking(move || metrics.page(&engine, &system));
        match page.await {
            Ok(page) => {
                let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
                reply::bytes(StatusCode::OK, content_type, page)
            }
            // The runtime ends.
            Err(_) => reply::text_refusal(StatusCode::SERVICE_UNAVAILABLE, &Refusal::Stopping),
        }
    }
}

/// Admins may look where there are accounts, else whoever is on this machine. Those of an upstream are none:
/// it may let in anybody.
fn may_look(has_accounts: bool, caller: &Caller, ip: IpAddr) -> bool {
    match has_accounts {
        true => caller.admin,
        false => ip.to_canonical().is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use kjob_core::Owner;

    use super::*;

    #[test]
    fn admins_look_from_anywhere_and_without_accounts_this_machine_alone() {
        let [here, mapped, away] =
            ["127.0.0.1", "::ffff:127.0.0.1", "192.0.2.7"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let admin = Caller::admin(Owner::new("root"));
        let user = Caller::user(Owner::new("ann"));
        for ip in [here, mapped, away] {
            assert!(may_look(true, &admin, ip));
            assert!(!may_look(true, &user, ip));
        }
        // Everybody counts as an admin there.
        assert!(may_look(false, &admin, here) && may_look(false, &admin, mapped));
        assert!(!may_look(false, &admin, away));
    }
}
