//! What clients submit, by chance.

use std::time::Duration;

use kjob_client::{Payload, Submit};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;

use crate::call::{Call, Rule, Want};
use crate::handlers::{Act, FEW, ONCE, RETRY, Request, filler, rule};
use crate::server::REMOVE_GRACE;

/// Which endpoints there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// Those of handlers with a journal.
    Journalled,
    /// The demo endpoints of `kjob-server` as it comes.
    Demo,
}

/// Longer than any campaign.
const LONG: Duration = Duration::from_secs(7_200);

/// A call, and how to submit it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was promised of it.
    pub call: Call,
    /// How it is submitted.
    pub submit: Submit,
}

impl Plan {
    /// A new call; `name` is one that no other call has, and its end may be told to `receiver`.
    pub fn draw(rng: &mut StdRng, endpoints: Endpoints, name: &str, receiver: &str) -> Self {
        // A tag of our own, or the client's: stores keep UUIDs apart from other tags.
        let unnamed = Submit::new("", Payload::json(""));
        let tag = match rng.random_bool(0.5) {
            true => name.to_owned(),
            false => unnamed.tag().to_owned(),
        };
        let (endpoint, payload, want, may_fail) = match endpoints {
            Endpoints::Journalled => journalled(rng, &tag),
            Endpoints::Demo => demo(rng, &tag),
        };
        let mut submit = Submit::new(endpoint, Payload::json(payload)).with_tag(tag.clone());
        let mut kept = LONG;
        let mut retention = LONG;
        match rng.random_range(0..10) {
            0..5 => {
                retention = Duration::from_secs(rng.random_range(1..=2));
                kept = retention;
                submit = submit.retention(retention);
            }
            5 => {
                kept = REMOVE_GRACE;
                submit = submit.remove_on_complete();
            }
            _ => {}
        }
        if rng.random_bool(0.2) {
            submit = submit.delay(Duration::from_millis(rng.random_range(1..400)));
        }
        if rng.random_bool(0.3) {
            submit = submit.priority(rng.random_range(0..10));
        }
        let calls_back = rng.random_bool(0.3);
        if calls_back {
            submit = submit.option("callback_url", receiver.to_owned());
        }
        let mut has_timeout = false;
        if rng.random_bool(0.05) {
            submit = submit.timeout(Duration::from_millis(rng.random_range(1..200)));
            has_timeout = true;
        }
        let rule = rule(endpoint);
        let many = matches!(rule, Rule::Retry { max_attempts } if max_attempts > 100);
        let call = Call {
            tag,
            endpoint: endpoint.to_owned(),
            rule,
            must_succeed: many && !may_fail && !has_timeout,
            kept_millis: millis(kept),
            retention_millis: millis(retention),
            calls_back,
            want,
        };
        Self { call, submit }
    }
}

fn journalled(rng: &mut StdRng, tag: &str) -> (&'static str, String, Want, bool) {
    let endpoint = [ONCE, ONCE, RETRY, RETRY, FEW][rng.random_range(0..5)];
    let act = match rng.random_range(0..12) {
        0 => Act::Fail,
        1 => Act::Flaky,
        2 => Act::Stubborn,
        _ => Act::Work,
    };
    let millis = match rng.random_range(0..10) {
        0..5 => 0,
        5..9 => rng.random_range(1..150),
        _ => rng.random_range(150..1_500),
    };
    // Above 3,000 bytes it is kept in a file of its own.
    let mut len = || match rng.random_range(0..8) {
        0 => rng.random_range(3_000..20_000),
        _ => rng.random_range(0..400),
    };
    let (payload_len, result_len) = (len(), len());
    let request = Request {
        token: tag.to_owned(),
        act,
        millis,
        result_len,
        filler: filler(tag, payload_len),
    };
    let want = Want::Handled {
        payload_crc: crc32fast::hash(request.filler.as_bytes()),
        result_len,
    };
    let text = json!(request).to_string();
    (endpoint, text, want, act == Act::Fail)
}

fn demo(rng: &mut StdRng, tag: &str) -> (&'static str, String, Want, bool) {
    match rng.random_range(0..10) {
        0..5 => {
            let message = filler(tag, rng.random_range(0..600));
            let want = format!(r#"{{"message":"{message}","info":{{}}}}"#);
            let payload = json!({ "message": message }).to_string();
            ("/demo/echo", payload, Want::Text(want), false)
        }
        5..8 => {
            let slept = rng.random_range(0..800);
            let want = format!(r#"{{"slept_millis":{slept},"info":{{}}}}"#);
            let payload = json!({ "millis": slept }).to_string();
            ("/demo/sleep", payload, Want::Text(want), false)
        }
        8 => {
            let want = r#"{"count":9592,"largest":99991,"info":{}}"#.to_owned();
            let payload = json!({ "limit": 100_000 }).to_string();
            ("/demo/primes", payload, Want::Text(want), false)
        }
        _ => {
            let payload = json!({ "message": tag }).to_string();
            ("/demo/fail", payload, Want::Text(String::new()), true)
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
