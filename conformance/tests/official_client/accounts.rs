//! The client on a server with accounts.

use kjob_conformance::{
    Accounts, Connection, Credentials, PayloadEncoding, Server, TestClient, assert_plain_error,
    echo, sleep, with_option,
};

const ANN: Credentials = Credentials::Password("ann", Accounts::PASSWORD);
const BOB: Credentials = Credentials::Password("bob", Accounts::PASSWORD);
const ROOT: Credentials = Credentials::Password("root", Accounts::PASSWORD);

fn start() -> (Server, Accounts) {
    let accounts = Accounts::new(&[("ann", "user"), ("bob", "user"), ("root", "admin")]);
    let server = Server::start_with("127.0.0.1", &["--users-file", accounts.path()]);
    (server, accounts)
}

async fn connect(server: &Server, credentials: &Credentials) -> TestClient {
    TestClient::try_connect(&[server.url()], Connection::DEFAULT, credentials)
        .await
        .expect("the client connects")
}

#[tokio::test]
async fn users_do_their_work_with_passwords_and_tokens() {
    let accounts = Accounts::new(&[("ann", "user")]);
    let token = accounts.token("ann", "conformance");
    let server = Server::start_with("127.0.0.1", &["--users-file", accounts.path()]);
    for credentials in [ANN, Credentials::Token(token)] {
        let client = connect(&server, &credentials).await;
        let job = client.submit(echo("mine", PayloadEncoding::Binary)).await;
        assert_eq!(client.wait_end(job.job_id).await.job_status, "DONE");
        client.assert_usable().await;
    }
    server.stop();
}

#[tokio::test]
async fn strangers_are_told_so_and_not_sent_elsewhere() {
    let (server, _accounts) = start();
    for discovery in [true, false] {
        for credentials in [
            Credentials::None,
            Credentials::Password("ann", "wrong horse"),
            Credentials::Password("nobody", Accounts::PASSWORD),
            Credentials::Token("undefined".into()),
        ] {
            let connection = Connection {
                discovery,
                ..Connection::DEFAULT
            };
            let urls = [server.url()];
            let refused = TestClient::try_connect(&urls, connection, &credentials).await;
            let error = refused.err().expect("it is refused");
            // With discovery it is the cause of another error.
            let text = format!("{error:?}");
            assert!(text.contains("Unauthorized"), "{credentials:?}: {text}");
        }
    }
    server.stop();
}

#[tokio::test]
async fn another_users_job_is_as_none() {
    let (server, _accounts) = start();
    let ann = connect(&server, &ANN).await;
    let bob = connect(&server, &BOB).await;
    let job = ann
        .submit(with_option(sleep(60_000), "job_tag", "mine"))
        .await;
    ann.wait_started(job.job_id).await;
    for outcome in [
        bob.get_raw(job.job_id, &[]).await,
        bob.get_raw(0, &[("job_tag", "mine")]).await,
    ] {
        let message = assert_plain_error(outcome);
        assert!(message.contains("not found"), "{message}");
    }
    let listed = bob
        .list(&[("show_async_jobs", "true")])
        .await
        .expect("a list");
    assert!(listed.job_id.is_empty());
    let not_found = vec![(job.job_id, "not found".to_owned())];
    assert_eq!(bob.cancel(&[job.job_id]).await, not_found);

    assert!(ann.get(job.job_id).await.running, "nobody has touched it");
    let root = connect(&server, &ROOT).await;
    let cancelling = vec![(job.job_id, "cancelling".to_owned())];
    assert_eq!(root.cancel(&[job.job_id]).await, cancelling);
    assert_eq!(ann.wait_end(job.job_id).await.job_status, "CANCELLED");
    server.stop();
}
