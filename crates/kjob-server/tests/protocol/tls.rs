//! HTTPS as honest clients speak it.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kjob_server::tls::{ClientCertificates, Tls, TlsVersion};
use kjob_server::{Access, AuditLog};
use kjob_test_certificates::{Authority, Signed};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::in_time;
use crate::secure::{SecureClient, Setup};
use crate::server::TestServer;

#[tokio::test]
async fn both_safe_versions_are_spoken() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    for (version, expected) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let client = SecureClient::with(&setup.authority, &[version], None);
        let secure = client.call(server.addr).await.unwrap();
        let spoken = secure.stream.get_ref().1.protocol_version();
        assert_eq!(spoken, Some(expected));
    }
}

#[tokio::test]
async fn the_older_of_them_can_be_switched_off() {
    let setup = Setup::new();
    let mut options = setup.options();
    options.min_version = TlsVersion::V1_3;
    let server = TestServer::with_tls(Tls::load(options).unwrap(), |_| {}).await;
    let old = SecureClient::with(&setup.authority, &[&TLS12], None);
    assert!(old.call(server.addr).await.is_err());
    let new = SecureClient::with(&setup.authority, &[&TLS13], None);
    new.call(server.addr).await.unwrap();
}

/// The hello of a client that speaks at most TLS 1.`minor`, and could agree on all else.
fn hello(minor: u8) -> Vec<u8> {
    let version = [3, minor + 1];
    // x25519, and ECDSA with P-256.
    let groups = [0, 10, 0, 4, 0, 2, 0, 0x1d];
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    // No session; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no compression; the extensions.
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 16]);
    hello.extend(groups.into_iter().chain(signatures));
    let length = u8::try_from(hello.len()).unwrap();
    let head = [22, 3, 1, 0, length + 4, 1, 0, 0, length];
    head.into_iter().chain(hello).collect()
}

#[tokio::test]
async fn older_versions_are_refused_for_what_they_are() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    // A hello of the server is of type 22, and a fatal alert 70 is protocol_version (RFC 5246).
    for (minor, expected) in [
        (0, &[21, 3, 3, 0, 2, 2, 70][..]),
        (1, &[21, 3, 3, 0, 2, 2, 70]),
        (2, &[22, 3, 3]),
    ] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&hello(minor)).await.unwrap();
        let mut reply = vec![0; expected.len()];
        in_time("a reply", stream.read_exact(&mut reply))
            .await
            .unwrap();
        assert_eq!(reply, expected, "TLS 1.{minor}");
    }
}

#[tokio::test]
async fn a_client_that_asked_for_another_name_does_not_stay() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    let lost = setup.client().asking_for("elsewhere.example");
    let error = lost.call(server.addr).await.err().unwrap();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    for name in ["localhost", "127.0.0.1"] {
        let client = setup.client().asking_for(name);
        client.call(server.addr).await.unwrap();
    }
    assert!(setup.tls().certificate().is_for("127.0.0.1"));
    assert!(!setup.tls().certificate().is_for("elsewhere.example"));
}

/// Whether clients come in that show nothing, a certificate of the right authority, and of another.
async fn who_comes_in(clients: impl FnOnce(std::path::PathBuf) -> ClientCertificates) -> [bool; 3] {
    let setup = Setup::new();
    let authority = Authority::new("of the clients");
    let path = setup.dir.path().join("clients.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    let mut options = setup.options();
    options.clients = clients(path);
    let server = TestServer::with_tls(Tls::load(options).unwrap(), |_| {}).await;
    let good = authority.client("ann");
    let foreign = Authority::new("of others").client("ann");
    let own: [Option<&Signed>; 3] = [None, Some(&good), Some(&foreign)];
    let mut came_in = [false; 3];
    for (index, own) in own.into_iter().enumerate() {
        let came = [&TLS12, &TLS13].map(|version| {
            let client = SecureClient::with(&setup.authority, &[version], own);
            let addr = server.addr;
            async move { client.call(addr).await.is_ok() }
        });
        let [old, new] = came;
        let (old, new) = (old.await, new.await);
        assert_eq!(old, new, "the same in both versions");
        came_in[index] = new;
    }
    came_in
}

#[tokio::test]
async fn certificates_of_clients_can_be_required() {
    let required = |authorities| ClientCertificates::Required { authorities };
    assert_eq!(who_comes_in(required).await, [false, true, false]);
}

#[tokio::test]
async fn certificates_of_clients_can_be_optional_and_are_still_checked() {
    let optional = |authorities| ClientCertificates::Optional { authorities };
    assert_eq!(who_comes_in(optional).await, [true, true, false]);
}

#[tokio::test]
async fn certificates_of_clients_are_ignored_unless_asked_for() {
    let ignored = |_| ClientCertificates::Ignored;
    assert_eq!(who_comes_in(ignored).await, [true; 3]);
}

/// What fails for other reasons is not: who speaks no TLS, or does not trust the server.
#[tokio::test]
async fn who_is_refused_for_their_certificate_is_written() {
    let setup = Setup::new();
    let authority = Authority::new("of the clients");
    let authorities = setup.dir.path().join("clients.pem");
    std::fs::write(&authorities, authority.pem()).unwrap();
    let mut options = setup.options();
    options.clients = ClientCertificates::Required { authorities };
    let path = setup.dir.path().join("audit.log");
    let audit = AuditLog::open(&path).unwrap();
    let access = Access::default().audit(audit.clone());
    let server = TestServer::with_tls_and_access(Tls::load(options).unwrap(), access).await;

    let mut scanner = TcpStream::connect(server.addr).await.unwrap();
    scanner.write_all(&[0; 64]).await.unwrap();
    scanner.shutdown().await.unwrap();
    // A reset is a close as well.
    let _ = in_time("the close", scanner.read_to_end(&mut Vec::new())).await;
    let good = authority.client("ann");
    let distrustful = SecureClient::with(&authority, ALL_VERSIONS, Some(&good));
    assert!(distrustful.call(server.addr).await.is_err());
    let known = SecureClient::with(&setup.authority, ALL_VERSIONS, Some(&good));
    known.call(server.addr).await.unwrap();
    let foreign = Authority::new("of others").client("ann");
    for own in [None, Some(&foreign)] {
        for version in [&TLS12, &TLS13] {
            let client = SecureClient::with(&setup.authority, &[version], own);
            assert!(client.call(server.addr).await.is_err());
        }
    }

    server.handle.stop();
    in_time("the end", server.serving).await.unwrap();
    audit.close().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let mut count = 0;
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let told = ["event", "why", "peer"].map(|key| line[key].as_str().unwrap());
        assert_eq!(told, ["refused", "client certificate", "127.0.0.1"]);
        count += line["count"].as_u64().unwrap_or(1);
    }
    assert_eq!(count, 4, "{text}");
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_its_session() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    for versions in [&[&TLS12][..], &[&TLS13], ALL_VERSIONS] {
        let client = SecureClient::with(&setup.authority, versions, None);
        let first = client.call(server.addr).await.unwrap();
        assert_eq!(first.kind(), HandshakeKind::Full);
        let second = client.call(server.addr).await.unwrap();
        assert_eq!(second.kind(), HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn http_2_is_agreed_on_in_the_handshake() {
    let setup = Setup::new();
    let server = TestServer::with_tls(setup.tls(), |_| {}).await;
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let client = setup.client().offering(offered);
        let mut secure = client.connect(server.addr).await.unwrap();
        assert_eq!(secure.protocol(), agreed, "{offered:?}");
        if agreed != Some("h2") {
            secure.call().await.unwrap();
            continue;
        }
        let io = TokioIo::new(secure.stream);
        let (mut sender, connection) = handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://localhost/healthz")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let reply = in_time("a reply", sender.send_request(request)).await;
        assert_eq!(reply.unwrap().status(), StatusCode::OK);
    }
    let unknown = setup.client().offering(&["spdy/3"]);
    assert!(unknown.call(server.addr).await.is_err());
}
