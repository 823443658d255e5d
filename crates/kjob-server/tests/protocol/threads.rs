//! Each connection stays on one thread, and they are spread over all.

use std::collections::BTreeMap;

use crate::ordinary::{Ask, ask};
use crate::raw::Raw;
use crate::server::{THREADS, TestServer};

/// Where a job of this connection runs that is done at once.
async fn place(raw: &mut Raw) -> Vec<u8> {
    let reply = ask(
        raw,
        Ask::new("POST", "/where", "Content-Type: text/plain", b"x"),
    )
    .await;
    assert_eq!(reply.status, 200);
    reply.body.to_vec()
}

#[tokio::test]
async fn connections_are_spread_over_the_threads_and_stay_there() {
    let server = TestServer::start().await;
    let mut connections = Vec::new();
    for _ in 0..3 * THREADS {
        let mut raw = server.connect().await;
        let first = place(&mut raw).await;
        connections.push((raw, first));
    }
    let mut counts = BTreeMap::new();
    for (raw, first) in &mut connections {
        for _ in 0..10 {
            assert_eq!(place(raw).await, *first);
        }
        *counts.entry(first.clone()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [3; THREADS]);
    // The thread with the fewest is the next, also for the second: the one whose connections have ended.
    let (_, empty) = connections.swap_remove(0);
    connections.retain(|(_, place)| *place != empty);
    loop {
        // The server hears of an end when it comes by.
        let (mut one, mut other) = (server.connect().await, server.connect().await);
        if place(&mut one).await == empty && place(&mut other).await == empty {
            break;
        }
    }
}
