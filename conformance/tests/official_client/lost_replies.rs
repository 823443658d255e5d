//! A reply that is lost on the way: the client sends again by itself, and there is one job.

use kjob_conformance::{
    Connection, DemoResult, PayloadEncoding, ReplyCutter, Server, TestClient, echo, result,
    with_option,
};

#[tokio::test]
async fn a_submit_with_a_tag_that_loses_its_reply_is_one_job() {
    for cuts in [1, 3] {
        let server = Server::start();
        let proxy = ReplyCutter::start(server.url(), "POST /create/job", cuts).await;
        // Discovery would find the server behind the proxy and go to it.
        let client = TestClient::connect(&[proxy.url()], Connection::DIRECT).await;

        let job = with_option(
            echo("once", PayloadEncoding::Binary),
            "job_tag",
            "sent-again",
        );
        let submitted = client.submit(job).await;

        client.assert_usable().await;
        // The client really did send again, and the last answer says that it was not the first.
        assert_eq!((proxy.requests(), proxy.replies_cut()), (cuts + 1, cuts));
        assert_eq!(submitted.info["existing"], "true");
        let done = client.wait_end(submitted.job_id).await;
        assert_eq!(result(&done), DemoResult::Echo("once".to_owned()));
        let listed = client
            .list(&[("show_async_jobs", "true")])
            .await
            .expect("a list");
        assert_eq!(listed.job_id, [submitted.job_id]);
        drop(client);
        server.stop();
    }
}
