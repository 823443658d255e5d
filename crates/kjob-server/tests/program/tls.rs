//! HTTPS: what an operator sets, sees in the log, and changes while the server runs.

use std::fs;
use std::time::{Duration, SystemTime};

use kjob_client::{Client, Payload, Status, Submit};
use kjob_test_certificates::{Authority, Files};
use tempfile::{TempDir, tempdir};

use crate::support::{Running, run};

const SOON: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Setup {
    authority: Authority,
    dir: TempDir,
    files: Files,
}

impl Setup {
    fn new() -> Self {
        let authority = Authority::new("of the server");
        let dir = tempdir().unwrap();
        let files = write(&authority, &dir, 365 * DAY);
        Self {
            authority,
            dir,
            files,
        }
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let path = |path: &'a std::path::Path| path.to_str().unwrap();
        let files = [
            "--tls-cert",
            path(&self.files.certificate),
            "--tls-key",
            path(&self.files.key),
        ];
        files.iter().chain(more).copied().collect()
    }

    fn start(&self, more: &[&str]) -> Running {
        Running::start(&self.dir, &self.arguments(more))
    }

    fn client(&self, server: &Running) -> Client {
        let builder = Client::builder(&server.url).add_root_certificate(self.authority.pem());
        builder.tries(1).build().unwrap()
    }
}

/// A certificate for this machine that ends in this time.
fn write(authority: &Authority, dir: &TempDir, ends_in: Duration) -> Files {
    let end = SystemTime::now() + ends_in;
    let signed = authority.server_until(&["localhost", "127.0.0.1"], end);
    signed.write(dir.path(), "server").unwrap()
}

fn end(server: Running) -> String {
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    log
}

#[tokio::test]
async fn jobs_are_done_over_https_and_clients_are_told_so() {
    let setup = Setup::new();
    let server = setup.start(&[]);
    assert_eq!(server.url, format!("https://{}", server.address));
    let client = setup.client(&server);
    let properties = Submit::new(
        "/show/system/properties",
        Payload::json(r#"{"options":{}}"#),
    );
    let submitted = client.submit(&properties).await.unwrap();
    let job = client.wait(&submitted, SOON).await.unwrap();
    assert_eq!(job.status, Status::Done);
    let told = job.result.unwrap().as_text().unwrap().to_owned();
    assert!(told.contains(r#""conf.use_https":"TRUE""#), "{told}");
    let url = format!(r#""conf.host0_public_urls":"{}""#, server.url);
    assert!(told.contains(&url), "{told}");

    let log = end(server);
    assert!(log.contains("the TLS certificate is valid"), "{log}");
    assert!(!log.contains("WARN"), "{log}");
}

#[tokio::test]
async fn a_hangup_takes_new_files_and_leaves_open_connections_alone() {
    let setup = Setup::new();
    let server = setup.start(&[]);
    let open = setup.client(&server);
    let echo = || Submit::new("/demo/echo", Payload::json(r#"{"message":"hello"}"#));
    open.submit(&echo()).await.unwrap();

    // Another authority's certificate, its key not yet: nothing changes.
    let other = Authority::new("the next one");
    let next = other.server(&["127.0.0.1"]);
    fs::write(&setup.files.certificate, &next.certificate).unwrap();
    server.signal("HUP");
    server.wait_logged("what was in use stays in use", 1);
    setup.client(&server).submit(&echo()).await.unwrap();

    fs::write(&setup.files.key, &next.key).unwrap();
    server.signal("HUP");
    server.wait_logged("the TLS certificate is valid", 2);
    let error = setup.client(&server).submit(&echo()).await.unwrap_err();
    assert!(error.is_tls(), "{error}");
    let trusting = Client::builder(&server.url).add_root_certificate(other.pem());
    trusting.build().unwrap().submit(&echo()).await.unwrap();
    // By its connection of before: a new one would not be trusted.
    open.submit(&echo()).await.unwrap();

    let log = end(server);
    assert!(
        log.contains("is not that of the first certificate"),
        "{log}"
    );
}

#[test]
fn what_an_operator_should_know_of_a_certificate_is_in_the_log() {
    let setup = Setup::new();
    let other_url = ["--public-url", "https://jobs.example.org"];
    for (ends_in, more, expected) in [
        (20 * DAY, &[][..], "the TLS certificate ends soon"),
        (DAY, &other_url[..], "the TLS certificate is not for"),
        (
            DAY,
            &["--public-url", "http://localhost:1"],
            "a URL without TLS",
        ),
    ] {
        write(&setup.authority, &setup.dir, ends_in);
        let log = end(setup.start(more));
        assert!(log.contains(expected), "{log}");
    }
    let past = SystemTime::now() - DAY;
    let signed = setup.authority.server_until(&["127.0.0.1"], past);
    signed.write(setup.dir.path(), "server").unwrap();
    let log = end(setup.start(&[]));
    assert!(log.contains("the TLS certificate has ended"), "{log}");
    assert!(!log.contains("can read or change"), "{log}");
}

#[cfg(unix)]
#[test]
fn a_key_that_everybody_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::new();
    fs::set_permissions(&setup.files.key, fs::Permissions::from_mode(0o644)).unwrap();
    let log = end(setup.start(&[]));
    assert!(log.contains("can read or change the private key"), "{log}");
    assert!(log.contains("server.key"), "{log}");
}

#[test]
fn files_that_cannot_be_used_are_told_in_one_line() {
    let setup = Setup::new();
    fs::write(&setup.files.key, "no key at all").unwrap();
    let expected = format!(
        "kjob-server: tls: {} has no private key in it (-----BEGIN PRIVATE KEY-----)\n",
        setup.files.key.display()
    );
    let data = setup.dir.path().join("data");
    let more = ["--listen", "127.0.0.1:0", "--log", "off", "--data-dir"];
    let more = [&more[..], &[data.to_str().unwrap()]].concat();
    let (code, output, error) = run(setup.arguments(&more));
    assert_eq!((code, output.as_str(), error.as_str()), (1, "", &*expected));
    assert!(!data.exists(), "nothing is touched by such a server");

    let more = [&["check"][..], &more].concat();
    let (code, output, error) = run(setup.arguments(&more));
    assert_eq!((code, output.as_str(), error.as_str()), (2, "", &*expected));

    let (code, _, error) = run(["check", "--tls-cert", "a.pem"]);
    assert_eq!(code, 2);
    assert_eq!(
        error,
        "kjob-server: tls_cert is set, and needs tls_key, which is not\n"
    );
}
