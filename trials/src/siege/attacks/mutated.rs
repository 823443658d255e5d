//! Mutated requests to every endpoint in every encoding.

use std::sync::Arc;

use kjob_proto::Encoding;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::Field;
use crate::siege::http1::{Connection, NoReply};
use crate::siege::mutation::mutate;
use crate::siege::owed;
use crate::siege::vectors::{Vector, load};

/// How many attack at once.
const ATTACKERS: usize = 16;

/// All wire endpoints.
const ENDPOINTS: [&str; 6] = [
    "/create/job",
    "/get/job",
    "/admin/show/jobs",
    "/admin/alter/jobs",
    "/show/system/status",
    "/show/system/properties",
];

const ENCODINGS: [Encoding; 3] = [Encoding::Binary, Encoding::Json, Encoding::Snappy];

/// As many as are asked for, whatever the time.
pub(super) async fn requests(field: Field) {
    let vectors = match load() {
        Ok(vectors) => Arc::new(vectors),
        Err(error) => return field.tally.violation(format!("the vectors: {error:#}")),
    };
    let mut tasks = JoinSet::new();
    for number in 0..ATTACKERS as u64 {
        let rest = u64::from(number < field.terms.requests % ATTACKERS as u64);
        let count = field.terms.requests / ATTACKERS as u64 + rest;
        let random = StdRng::seed_from_u64(field.terms.seed.wrapping_mul(1000) + number);
        tasks.spawn(attack(field.clone(), vectors.clone(), count, random));
    }
    while tasks.join_next().await.is_some() {}
}

async fn attack(field: Field, vectors: Arc<Vec<Vector>>, count: u64, mut random: StdRng) {
    let mut connection = None;
    for _ in 0..count {
        let (path, encoding, body) = next(&vectors, &mut random);
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Connection::open(field.server).await {
                Ok(open) => {
                    field.tally.connected();
                    open
                }
                Err(error) => return field.tally.violation(format!("not connected: {error}")),
            },
        };
        field.tally.sent(1, body.len());
        match open.post(path, encoding.content_type(), &body).await {
            Ok(reply) => {
                match owed::check(&reply, encoding) {
                    Ok(()) => field.tally.answered(reply.status.to_string()),
                    Err(why) => field
                        .tally
                        .violation(format!("{path} in {encoding}: {why}")),
                }
                let closes = reply.header("connection") == Some("close");
                connection = (!closes).then_some(open);
            }
            // The server may end a connection between two requests, never in one.
            Err(error @ (NoReply::Closed | NoReply::Reset)) => {
                field
                    .tally
                    .violation(format!("{path} in {encoding}: {error}"));
            }
            Err(error) => field
                .tally
                .violation(format!("{path} in {encoding}: {error}")),
        }
    }
}

/// The endpoint, the encoding that is claimed, and the body.
fn next<'a>(vectors: &'a [Vector], random: &mut StdRng) -> (&'a str, Encoding, Vec<u8>) {
    let one = &vectors[random.random_range(0..vectors.len())];
    let other = &vectors[random.random_range(0..vectors.len())];
    // Mostly where it belongs, so that it gets far; else anywhere, in anything.
    let (path, encoding) = if random.random_ratio(3, 4) {
        (one.endpoint.as_str(), one.encoding)
    } else {
        let path = ENDPOINTS[random.random_range(0..ENDPOINTS.len())];
        (path, ENCODINGS[random.random_range(0..ENCODINGS.len())])
    };
    let body = mutate(&one.body, &other.body, one.encoding, random);
    (path, encoding, body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_requests_to_all_endpoints_in_all_encodings() {
        let vectors = load().unwrap();
        let run = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let requests = (0..1000).map(|_| next(&vectors, &mut random));
            requests.collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let reached: BTreeSet<_> = run(1)
            .into_iter()
            .map(|(path, encoding, _)| (path.to_owned(), encoding.as_str()))
            .collect();
        assert_eq!(reached.len(), ENDPOINTS.len() * ENCODINGS.len());
    }
}
