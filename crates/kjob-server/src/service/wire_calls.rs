//! Calls of the wire protocol's endpoints.

use std::pin::pin;

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use kjob_proto::Encoding;

use super::{Peer, Service, while_admitted};
use crate::access::Admitted;
use crate::activity::InFlight;
use crate::budget::Held;
use crate::head::Head;
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};
use crate::wire::{Call, Endpoint};

impl Service {
    /// Answers for a wire endpoint: always an envelope in the request's encoding.
    pub(super) async fn wire(
        &self,
        endpoint: Endpoint,
        head: &Head,
        mut body: Incoming,
        admitted: &Admitted,
        peer: &Peer,
        in_flight: &mut InFlight,
    ) -> Response<ReplyBody> {
        // Known from the first byte of the body at the latest.
        let mut encoding = head.media.encoding().unwrap_or(Encoding::Json);
        let outcome = match self.read(head, &mut body, &mut encoding).await {
            Ok(request) => {
                head.received();
                in_flight.begin_working();
                let call = pin!(self.call(endpoint, head, request, encoding, admitted, peer));
                // A get may wait for minutes.
                if endpoint == Endpoint::GetJob {
                    while_admitted(admitted, call).await
                } else {
                    call.await
                }
            }
            Err(refusal) => Err(refusal),
        };
        outcome.unwrap_or_else(|refusal| {
            let response = reply::refusal(&refusal, encoding);
            self.refused(&refusal, response, head, body, peer)
        })
    }

    async fn call(
        &self,
        endpoint: Endpoint,
        head: &Head,
        (request, mut held): (Bytes, Held),
        encoding: Encoding,
        admitted: &Admitted,
        peer: &Peer,
    ) -> Result<Response<ReplyBody>, Refusal> {
        self.check_stopping()?;
        let call = Call {
            by: &self.actor(head, admitted, peer),
            system: &self.system,
            limits: &self.limits,
            wait_max: self.wait_max,
            encoding,
        };
        let answer = endpoint.answer(&call, request, &mut held).await?;
        let mut response = reply::envelope(StatusCode::OK, encoding, answer.segments);
        response.body_mut().set_delivery(answer.delivery);
        if matches!(endpoint, Endpoint::GetJob | Endpoint::ShowJobs) {
            response.body_mut().set_held(held);
        }
        Ok(response)
    }
}
