//! Requests and connections, counted.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::table::{self, Maker};
use crate::head::{ENDPOINT_LABELS, Target};
use crate::refusal::Kind;

/// The statuses that the server gives. What else an upstream says counts as another.
const CODES: [(u16, &str); 24] = [
    (200, "200"),
    (202, "202"),
    (204, "204"),
    (206, "206"),
    (301, "301"),
    (302, "302"),
    (304, "304"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (413, "413"),
    (415, "415"),
    (416, "416"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];

/// How any other status is labelled.
const OTHER_CODE: &str = "other";

/// Counts of requests.
#[derive(Debug)]
pub(super) struct Requests {
    counters: IntCounterVec,
    endpoints: Vec<Endpoint>,
    rejections: Vec<(&'static str, IntCounter)>,
    pub(super) streams_reset: IntCounter,
    pub(super) login_failures: IntCounter,
}

/// Counts of requests to one place. Those by status are made when one is first given: a table of zeros
/// would be long.
#[derive(Debug)]
struct Endpoint {
    label: &'static str,
    seconds: Histogram,
    by_code: [OnceLock<IntCounter>; CODES.len() + 1],
}

impl Requests {
    pub(super) fn new(maker: &Maker) -> Self {
        let seconds = maker.histograms(&table::REQUEST_TIME);
        let endpoint = |label: &&'static str| Endpoint {
            label,
            seconds: seconds.with_label_values(&[label]),
            by_code: Default::default(),
        };
        let rejections = maker.counters(&table::REJECTIONS);
        let reason = |kind: &Kind| (kind.name, rejections.with_label_values(&[kind.name]));
        let requests = Self {
            counters: maker.counters(&table::REQUESTS),
            endpoints: ENDPOINT_LABELS.iter().map(endpoint).collect(),
            rejections: Kind::ALL.iter().map(reason).collect(),
            streams_reset: maker.counter(&table::STREAMS_RESET),
            login_failures: maker.counter(&table::LOGIN_FAILURES),
        };
        for endpoint in &requests.endpoints {
            requests.counter(endpoint, StatusCode::OK);
        }
        requests
    }

    pub(super) fn answered(&self, target: &Target, status: StatusCode, took: Duration) {
        let label = target.label();
        let place = self.endpoints.iter().find(|place| place.label == label);
        // Each label is in the table.
        let Some(place) = place else { return };
        place.seconds.observe(took.as_secs_f64());
        self.counter(place, status).inc();
    }

    pub(super) fn rejected(&self, reason: &str) {
        let counted = self.rejections.iter().find(|(name, _)| *name == reason);
        if let Some((_, counter)) = counted {
            counter.inc();
        }
    }

    fn counter<'a>(&self, endpoint: &'a Endpoint, status: StatusCode) -> &'a IntCounter {
        let index = CODES.iter().position(|(code, _)| status == *code);
        let label = index.map_or(OTHER_CODE, |index| CODES[index].1);
        let slot = &endpoint.by_code[index.unwrap_or(CODES.len())];
        slot.get_or_init(|| self.counters.with_label_values(&[endpoint.label, label]))
    }
}

/// Counts of connections.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) open: IntGauge,
    pub(super) limit: IntGauge,
    pub(super) accepted: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) evicted: IntCounter,
}

impl Connections {
    pub(super) fn new(maker: &Maker) -> Self {
        Self {
            open: maker.gauge(&table::CONNECTIONS),
            limit: maker.gauge(&table::CONNECTIONS_LIMIT),
            accepted: maker.counter(&table::CONNECTIONS_ACCEPTED),
            refused: maker.counter(&table::CONNECTIONS_REFUSED),
            evicted: maker.counter(&table::CONNECTIONS_EVICTED),
        }
    }
}

/// A connection that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct Open(IntGauge);

impl Open {
    pub(super) fn new(connections: &Connections) -> Self {
        connections.accepted.inc();
        connections.open.inc();
        Self(connections.open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
