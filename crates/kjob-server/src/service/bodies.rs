//! Bodies of requests: read whole, or put aside.

use std::pin::pin;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use kjob_proto::Encoding;

use super::{Peer, Service};
use crate::activity::InFlight;
use crate::body::{BodyBounds, collect, discard};
use crate::budget::Held;
use crate::head::{Head, Media, WIRE_TYPES, guessed_encoding};
use crate::refusal::Refusal;

/// How much of a body that nobody wants is read over HTTP/2 however small bodies are to be.
const HTTP2_DISCARD_MIN: usize = 1 << 20;

impl Service {
    /// Reads the body, once the head shows nothing wrong. Sets the encoding where only the body
    /// shows it.
    pub(super) async fn read(
        &self,
        head: &Head,
        body: &mut Incoming,
        encoding: &mut Encoding,
    ) -> Result<(Bytes, Held), Refusal> {
        head.check_post()?;
        if let Media::Other(found) = &head.media {
            return Err(Refusal::MediaType {
                found: found.clone(),
                allowed: WIRE_TYPES,
            });
        }
        let (request, held) = collect(body, &self.bounds, &self.budget).await?;
        if head.media == Media::Missing {
            *encoding = guessed_encoding(&request);
        }
        Ok((request, held))
    }

    /// Reads the rest of a body that nobody wants. A client that is still sending would otherwise meet a
    /// reset connection before it reads its answer, and the connection could not be used again. In HTTP/2
    /// it would meet a reset stream, which some clients (curl 7.88) take for a failure of the whole call.
    pub(super) fn put_aside(&self, head: &Head, body: Incoming, peer: &Peer) {
        // One that waits for "100 Continue" does not send.
        if body.is_end_stream() || head.expects {
            return;
        }
        let mut in_flight = peer.activity.hold();
        let bytes_max = if head.is_http2 {
            // A client may leave many streams like this, so beyond a fair number they are reset.
            match self.load.count() {
                Ok(counted) if !counted.is_over() => in_flight.set_counted(counted),
                _ => return,
            }
            // A reset ends the stream alone, so beyond a fair measure it does.
            let fair = self.bounds.len_max.saturating_mul(2);
            fair.max(HTTP2_DISCARD_MIN)
        } else {
            usize::MAX
        };
        tokio::spawn(drain(body, self.bounds, bytes_max, in_flight));
    }
}

async fn drain(body: Incoming, bounds: BodyBounds, bytes_max: usize, _in_flight: InFlight) {
    discard(pin!(body), &bounds, bytes_max).await;
}
