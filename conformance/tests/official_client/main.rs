//! The official Rust client does its work against kjob-server.
//!
//! The client speaks Avro only, so the JSON encoding of the wire is left to the official Python
//! client (`acceptance/python`). Snappy is reached through the client's own switch for a request
//! type, see [`kjob_conformance::Connection`].

/// Makes a module of tests for each kind of connection out of `async fn(&Server, &TestClient)`.
macro_rules! on_each_connection {
    ($($test:ident),* $(,)?) => {
        on_each_connection!(@ binary_with_discovery, Server::start(), true, false, $($test),*);
        on_each_connection!(@ binary_direct, Server::start(), false, false, $($test),*);
        on_each_connection!(@ snappy_with_discovery, Server::start(), true, true, $($test),*);
        on_each_connection!(@ snappy_direct, Server::start(), false, true, $($test),*);
        on_each_connection!(
            @ https_with_discovery, Server::start_secure("127.0.0.1"), true, false, $($test),*
        );
    };
    (@ $kind:ident, $server:expr, $discovery:literal, $snappy:literal, $($test:ident),*) => {
        mod $kind {
            use kjob_conformance::{Connection, Server, TestClient};

            $(
                // A client over HTTP/2 has to say that it heard the server's goodbye, on a thread
                // that does not wait for the server.
                #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
                async fn $test() {
                    let server = $server;
                    let connection = Connection { discovery: $discovery, snappy: $snappy };
                    let client = TestClient::connect(&[server.url()], connection).await;
                    super::$test(&client).await;
                    server.stop();
                }
            )*
        }
    };
}

mod accounts;
mod cancel;
mod connection;
mod errors;
mod https;
mod jobs;
mod lifecycle;
mod list;
mod lost_replies;
