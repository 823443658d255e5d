//! HTTPS, and what is sent along to say who calls.

use std::error::Error as _;
use std::time::Duration;

use crate::support::{Between, Real};
use kjob_client::{Client, ClientBuilder, Error, Payload, Status, Submit};
use kjob_core::engine::EngineConfig;
use kjob_server::tls::{ClientCertificates, Tls, TlsOptions};
use kjob_test_certificates::Authority;
use tempfile::{TempDir, tempdir};

const SOON: Duration = Duration::from_secs(20);

/// A server of a certificate for 127.0.0.1.
struct Secure {
    authority: Authority,
    real: Real,
    _dir: TempDir,
}

impl Secure {
    async fn start() -> Self {
        Self::with(&["127.0.0.1"], None).await
    }

    async fn with(names: &[&str], clients: Option<&Authority>) -> Self {
        let authority = Authority::new("of the server");
        let dir = tempdir().unwrap();
        let files = authority.server(names).write(dir.path(), "server").unwrap();
        let mut options = TlsOptions::new(files.certificate, files.key);
        if let Some(clients) = clients {
            let authorities = dir.path().join("clients.pem");
            std::fs::write(&authorities, clients.pem()).unwrap();
            options.clients = ClientCertificates::Required { authorities };
        }
        let tls = Tls::load(options).unwrap();
        let real = Real::with_tls(EngineConfig::default(), Some(tls)).await;
        Self {
            authority,
            real,
            _dir: dir,
        }
    }

    fn client(&self) -> ClientBuilder {
        Client::builder(format!("https://{}", self.real.address))
    }

    fn trusting(&self) -> ClientBuilder {
        self.client().add_root_certificate(self.authority.pem())
    }
}

async fn whole_job(client: &Client) -> Result<Status, Error> {
    let echo = Submit::new("/demo/echo", Payload::json(r#"{"message":"hello"}"#));
    let submitted = client.submit(&echo).await?;
    Ok(client.wait(&submitted, SOON).await?.status)
}

/// The innermost cause's text.
fn cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[tokio::test]
async fn jobs_are_done_over_tls() {
    let secure = Secure::start().await;
    let client = secure.trusting().build().unwrap();
    assert_eq!(whole_job(&client).await.unwrap(), Status::Done);
}

/// It would be tried again, were it taken for a broken connection.
#[tokio::test]
async fn a_server_that_is_not_trusted_is_left_at_once() {
    let secure = Secure::start().await;
    let stranger = Authority::new("of others");
    let stranger = secure.client().add_root_certificate(stranger.pem());
    let error = whole_job(&stranger.build().unwrap()).await.unwrap_err();
    assert!(
        error.is_tls() && !error.is_connect() && !error.is_usage(),
        "{error}"
    );
    assert!(cause(&error).contains("UnknownIssuer"), "{}", cause(&error));
}

#[tokio::test]
async fn a_server_of_another_name_is_left_at_once() {
    let secure = Secure::with(&["elsewhere.example"], None).await;
    let error = whole_job(&secure.trusting().build().unwrap()).await;
    let error = error.unwrap_err();
    assert!(error.is_tls(), "{error}");
    assert!(
        cause(&error).contains("not valid for name"),
        "{}",
        cause(&error)
    );
}

#[tokio::test]
async fn any_certificate_is_taken_only_where_that_was_asked_for() {
    let secure = Secure::with(&["elsewhere.example"], None).await;
    let careless = secure.client().danger_accept_any_certificate();
    let status = whole_job(&careless.build().unwrap()).await.unwrap();
    assert_eq!(status, Status::Done);
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_it_is_asked() {
    let clients = Authority::new("of the clients");
    let secure = Secure::with(&["127.0.0.1"], Some(&clients)).await;
    let error = whole_job(&secure.trusting().build().unwrap()).await;
    assert!(error.as_ref().unwrap_err().is_tls(), "{error:?}");
    let own = clients.client("ann");
    let client = secure
        .trusting()
        .client_certificate(own.certificate, own.key);
    let status = whole_job(&client.build().unwrap()).await.unwrap();
    assert_eq!(status, Status::Done);
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_is_down() {
    let real = Real::start().await;
    let client = Client::new(format!("https://{}", real.address)).unwrap();
    let error = whole_job(&client).await.unwrap_err();
    assert!(error.is_tls(), "{error}");
}

#[test]
fn what_is_no_certificate_is_refused_before_any_call() {
    let authority = Authority::new("of nobody");
    let (one, other) = (authority.client("a"), authority.client("b"));
    let builder = || Client::builder("https://127.0.0.1:1");
    for (client, message) in [
        (
            builder().add_root_certificate("hello"),
            "a root certificate",
        ),
        (
            builder().add_root_certificate(one.key.clone()),
            "a root certificate",
        ),
        (
            builder().client_certificate(one.certificate.clone(), "hello"),
            "no private key",
        ),
        (
            builder().client_certificate(one.certificate, other.key),
            "the client certificate",
        ),
    ] {
        let error = client.build().unwrap_err();
        assert!(error.is_usage(), "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.source().is_none());
    }
}

/// The header as it goes over the wire, and a client that prints nothing of it.
#[tokio::test]
async fn credentials_go_with_each_request_and_are_never_printed() {
    let real = Real::start().await;
    let between = Between::start(&real.address, []).await;
    let own = Authority::new("of nobody").client("ann");
    let key = own.key.lines().nth(1).unwrap().to_owned();
    for (builder, header) in [
        (
            Client::builder(between.url()).basic("ann", "open sesame"),
            "authorization: basic yw5uom9wzw4gc2vzyw1l\r\n",
        ),
        (
            Client::builder(between.url()).bearer("open-sesame"),
            "authorization: bearer open-sesame\r\n",
        ),
    ] {
        let builder = builder.client_certificate(own.certificate.clone(), own.key.clone());
        let client = builder.clone().build().unwrap();
        assert_eq!(whole_job(&client).await.unwrap(), Status::Done);
        let heads = std::mem::take(&mut *between.heads.lock().unwrap());
        assert!(heads.len() >= 2);
        for head in heads {
            assert!(head.to_lowercase().contains(header), "{head}");
        }
        let shown = format!("{builder:?} {client:?}");
        for secret in ["sesame", "YW5uOm9wZW4gc2VzYW1l", &key] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
