//! Asks an upstream whether it lets a caller in: by the call that official clients make first
//! (docs/protocol.md section 8), with the caller's credentials.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use kjob_proto::failover::contains_phrase;
use kjob_proto::{Encoding, Envelope, Limits, Record as _, ShowSystemStatusRequest, Text};

use super::{Passthrough, note_source};
use crate::auth::{Ask, Barred, Credentials, Verdict};
use crate::gateway::{GatewayError, Upstream};
use crate::outbound::{AGENT, OutBody, whole};
use crate::wire::Endpoint;

/// How long an answer may take: five times what official clients give it.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// How many bytes an answer may have. It tells of each rank of a cluster.
const ANSWER_LEN_MAX: usize = 1 << 20;

/// What is told where the upstream gives no words.
const NO_WORDS: &str = "the upstream does not let the caller in";

pub(crate) struct Asker(Passthrough);

impl Asker {
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(upstream: Upstream) -> Result<Self, GatewayError> {
        Ok(Self(Passthrough::new(upstream)?))
    }

    async fn exchange(&self, credentials: &Credentials, ip: IpAddr) -> Result<Verdict, String> {
        let request = request(&self.0.upstream, credentials, ip)?;
        let answer = self.0.outbound.send(request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let (status, retry_after) = (answer.status(), retry_after(&answer));
        let body = Limited::new(answer.into_body(), ANSWER_LEN_MAX);
        let body = body.collect().await;
        let body = body.map_err(|error| format!("its answer: {error}"))?;
        judge(status, retry_after, body.to_bytes())
    }
}

#[async_trait]
impl Ask for Asker {
    async fn ask(&self, credentials: &Credentials, ip: IpAddr) -> Result<Verdict, String> {
        let asked = self.exchange(credentials, ip);
        let told = tokio::time::timeout(ASKED_WITHIN, asked).await;
        told.unwrap_or_else(|_| Err("it does not say who calls".to_owned()))
    }
}

fn request(
    upstream: &Upstream,
    credentials: &Credentials,
    ip: IpAddr,
) -> Result<Request<OutBody>, String> {
    let url = format!("{upstream}{}", Endpoint::SystemStatus.path());
    let json = Encoding::Json.content_type();
    let body = ShowSystemStatusRequest::default().encode_json();
    let request = Request::post(url)
        .header(CONTENT_TYPE, json)
        .header(ACCEPT, json)
        .header(USER_AGENT, AGENT)
        .body(whole(body));
    let mut request = request.map_err(|error| error.to_string())?;
    if let Credentials::Given(value) = credentials {
        let value = HeaderValue::from_bytes(value);
        let mut value = value.map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    note_source(request.headers_mut(), ip);
    Ok(request)
}

/// The seconds of `Retry-After`; its other form, a date, is not worth it here.
fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// What an answer says of the caller, or why it says nothing. Only 200 with an envelope that is OK lets in.
fn judge(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
) -> Result<Verdict, String> {
    let limits = Limits::default();
    let envelope = Envelope::decode(Encoding::Json, body, &limits).ok();
    let barred = |status, envelope: Option<Envelope>| {
        let message = envelope.map(|envelope| envelope.message);
        let message = message.filter(|message| !message.is_empty());
        Verdict::Barred(Barred {
            status,
            message: message.unwrap_or(Text::from_static(NO_WORDS)),
            retry_after,
        })
    };
    match (status, envelope) {
        (StatusCode::OK, Some(envelope)) if envelope.status == Envelope::OK => Ok(Verdict::Good),
        (
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS,
            envelope,
        ) => Ok(barred(status, envelope)),
        // Plain errors. Those that send clients elsewhere are about the server, and not about the caller.
        (StatusCode::OK | StatusCode::BAD_REQUEST, Some(envelope))
            if envelope.status == Envelope::ERROR && !contains_phrase(&envelope.message) =>
        {
            Ok(barred(StatusCode::FORBIDDEN, Some(envelope)))
        }
        (status, _) => Err(format!("it answered {status} when asked who calls")),
    }
}

#[cfg(test)]
mod tests {
    use kjob_proto::{reply_error, reply_failover, reply_ok};
    use secrecy::zeroize::Zeroizing;

    use super::*;

    fn told(status: u16, body: impl Into<Bytes>) -> Result<u16, ()> {
        let status = StatusCode::from_u16(status).unwrap();
        match judge(status, None, body.into()) {
            Ok(Verdict::Good) => Ok(200),
            Ok(Verdict::Barred(barred)) => Ok(barred.status.as_u16()),
            Err(_) => Err(()),
        }
    }

    fn error(message: &str) -> Bytes {
        reply_error(message, Encoding::Json).into_bytes()
    }

    #[test]
    fn only_an_envelope_that_is_ok_lets_in() {
        let response = kjob_proto::ShowSystemStatusResponse::default();
        let good = reply_ok(&response, Encoding::Json).into_bytes();
        assert_eq!(told(200, good.clone()), Ok(200));
        for status in [201, 204, 301, 302, 404, 500, 502, 503, 504] {
            assert_eq!(told(status, good.clone()), Err(()), "{status}");
        }
        for status in [401, 403, 429] {
            assert_eq!(told(status, good.clone()), Ok(status));
            assert_eq!(told(status, error("no")), Ok(status));
            assert_eq!(told(status, "<html>"), Ok(status));
        }
        // Errors of the protocol are plain, or about the server itself.
        for status in [200, 400] {
            assert_eq!(told(status, error("no such user")), Ok(403));
            assert_eq!(told(status, "{}"), Err(()));
            assert_eq!(told(status, "<html>"), Err(()));
            for signal in [
                kjob_proto::Signal::ShuttingDown,
                kjob_proto::Signal::Draining,
            ] {
                let leave = reply_failover(signal, Encoding::Json).into_bytes();
                assert_eq!(told(status, leave), Err(()));
            }
        }
    }

    #[test]
    fn the_words_are_the_upstreams_where_it_has_some() {
        let message = |body: Bytes| match judge(StatusCode::UNAUTHORIZED, None, body) {
            Ok(Verdict::Barred(barred)) => barred.message.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(message(error("who are you?")), "who are you?");
        for none in [Bytes::new(), Bytes::from_static(b"<html>")] {
            assert_eq!(message(none), NO_WORDS);
        }
    }

    #[test]
    fn the_caller_is_shown_as_they_came() {
        let upstream: Upstream = "http://127.0.0.1:1".parse().unwrap();
        let value = "Negotiate \u{e9}".as_bytes().to_vec();
        let given = Credentials::Given(Zeroizing::new(value.clone()));
        let asked = request(&upstream, &given, [192, 0, 2, 1].into()).unwrap();
        assert_eq!(asked.uri(), "http://127.0.0.1:1/show/system/status");
        assert_eq!(asked.headers()[AUTHORIZATION].as_bytes(), value);
        assert_eq!(asked.headers()["x-forwarded-for"], "192.0.2.1");
        let asked = request(&upstream, &Credentials::None, [192, 0, 2, 1].into()).unwrap();
        assert!(!asked.headers().contains_key(AUTHORIZATION));
    }
}
