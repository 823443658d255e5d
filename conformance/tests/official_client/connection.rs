//! What the client learns when it connects, and that its connections are what their names say.

use kjob_conformance::{Connection, PayloadEncoding, ReplyCutter, Server, TestClient, echo};

#[tokio::test]
async fn the_client_knows_the_server() {
    let server = Server::start();
    for connection in [Connection::DEFAULT, Connection::DIRECT] {
        let client = TestClient::connect(&[server.url()], connection).await;
        let version = client.db.server_version().expect("a version of five parts");
        assert!(version.to_string().starts_with("7.2."), "{version}");
        let url = client.db.url().expect("a head node").to_string();
        assert_eq!(url.trim_end_matches('/'), server.url());
        assert_eq!(client.db.ha_ring_info().len(), 1);
        client.assert_usable().await;
    }
    server.stop();
}

#[tokio::test]
async fn compressed_connections_really_compress() {
    let server = Server::start();
    // A proxy that cuts nothing, for what it counts.
    let proxy = ReplyCutter::start(server.url(), "application/x-snappy", 0).await;
    for (snappy, compressed_requests) in [(false, 0), (true, 1)] {
        let connection = Connection {
            snappy,
            ..Connection::DIRECT
        };
        let client = TestClient::connect(&[proxy.url()], connection).await;
        client.submit(echo("hello", PayloadEncoding::Binary)).await;
        assert_eq!(proxy.requests(), compressed_requests);
    }
    server.stop();
}
