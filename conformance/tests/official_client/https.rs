//! HTTPS: whom the client trusts, and where it goes when it is sent elsewhere.

use gpudb_api::{Kinetica, KineticaOptions};
use kjob_conformance::{
    Connection, DemoResult, PayloadEncoding, Server, TestClient, echo, result, with_option,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn discovery_stays_with_https() {
    let server = Server::start_secure("127.0.0.1");
    let client = TestClient::connect(&[server.url()], Connection::DEFAULT).await;
    let url = client.db.url().expect("a head node").to_string();
    assert_eq!(url.trim_end_matches('/'), server.url());
    assert_eq!(client.db.ha_ring_info().len(), 1);
    server.stop();
}

/// The certificate is for 127.0.0.1 and 127.0.0.2.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_of_another_name_is_refused() {
    let server = Server::start_secure("127.0.0.3");
    let connect = async |skip| {
        let mut options = KineticaOptions::new();
        options.set_disable_auto_discovery(true);
        options.set_bypass_ssl_cert_check(skip);
        Kinetica::new(vec![server.url().to_owned()], options).await
    };
    let refused = connect(false).await.err().expect("it is not trusted");
    let text = format!("{refused:?}");
    assert!(text.contains("SSL"), "{text}");
    connect(true).await.expect("nothing is checked");
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_with_two_clusters_moves_on() {
    let leaving = Server::start_secure("127.0.0.1");
    let staying = Server::start_secure("127.0.0.2");
    let client = TestClient::connect(&[leaving.url(), staying.url()], Connection::DEFAULT).await;
    client.submit(echo("here", PayloadEncoding::Binary)).await;
    leaving.stop();

    let job = with_option(echo("moved", PayloadEncoding::Binary), "job_tag", "moved");
    let moved = client.submit(job).await.job_id;

    assert_eq!(client.db.num_cluster_switches(), 1);
    assert_eq!(
        result(&client.wait_end(moved).await),
        DemoResult::Echo("moved".to_owned())
    );
    staying.stop();
}
