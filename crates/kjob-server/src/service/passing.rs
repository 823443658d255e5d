//! What goes to an upstream, and comes back.

use http::Response;
use hyper::body::Incoming;
use kjob_proto::Encoding;

use super::{Peer, Service};
use crate::activity::InFlight;
use crate::body::collect;
use crate::head::Head;
use crate::outbound::{OutBody, whole};
use crate::passthrough::{Passing, own_properties};
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};

impl Service {
    pub(super) async fn pass(
        &self,
        passing: &Passing,
        body: OutBody,
        peer: &Peer,
    ) -> Result<Response<Incoming>, Refusal> {
        let passthrough = self.passthrough.get();
        let passthrough = passthrough.ok_or_else(|| Refusal::Upstream("there is none".into()))?;
        let answer = passthrough.pass(passing, peer.ip, body).await;
        answer.map_err(|error| Refusal::Upstream(error.to_string()))
    }

    /// Answers with the upstream's properties, but for its addresses.
    pub(super) async fn properties(
        &self,
        passing: &Passing,
        head: &Head,
        mut body: Incoming,
        peer: &Peer,
        in_flight: &mut InFlight,
    ) -> Response<ReplyBody> {
        let mut encoding = head.media.encoding().unwrap_or(Encoding::Json);
        let outcome = async {
            let (request, _held) = self.read(head, &mut body, &mut encoding).await?;
            in_flight.begin_working();
            let answer = self.pass(passing, whole(request.clone()), peer).await?;
            let (status, mut body) = (answer.status(), answer.into_body());
            let (reply, _held) = collect(&mut body, &self.bounds, &self.budget)
                .await
                .map_err(|error| Refusal::Upstream(error.to_string()))?;
            let own = |wanted: Option<&str>| self.system.properties(wanted).property_map;
            let told = own_properties(encoding, request, reply, &self.limits, own);
            let segments = told.map_err(Refusal::Upstream)?;
            Ok(reply::envelope(status, encoding, segments))
        };
        let outcome: Result<_, Refusal> = outcome.await;
        outcome.unwrap_or_else(|refusal| {
            let response = reply::refusal(&refusal, encoding);
            self.refused(&refusal, response, head, body, peer)
        })
    }
}
