//! Certificates that are read anew while the server runs.

use std::fs;
use std::time::{Duration, SystemTime};

use kjob_server::tls::{Tls, TlsError, Validity};
use rustls::HandshakeKind;

use crate::secure::Setup;
use crate::server::TestServer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn new_connections_take_the_new_certificate_and_open_ones_go_on() {
    let setup = Setup::new();
    let tls = setup.tls();
    let server = TestServer::with_tls(tls.clone(), |_| {}).await;
    let client = setup.client();
    let mut open = client.call(server.addr).await.unwrap();
    let before = tls.certificate();

    let signed = setup.authority.server(&["localhost"]);
    signed.write(setup.dir.path(), "server").unwrap();
    let unread = client.call(server.addr).await.unwrap();
    assert_eq!(unread.shown(), open.shown(), "nobody said to read it");
    tls.reload().unwrap();

    let new = client.call(server.addr).await.unwrap();
    assert_ne!(new.shown(), open.shown());
    assert_eq!(new.kind(), HandshakeKind::Full, "not by an old ticket");
    assert_ne!(tls.certificate(), before);
    open.call().await.unwrap();
}

#[tokio::test]
async fn files_that_are_broken_change_nothing() {
    let setup = Setup::new();
    let tls = setup.tls();
    let server = TestServer::with_tls(tls.clone(), |_| {}).await;
    let client = setup.client();
    let before = client.call(server.addr).await.unwrap();

    // The certificate is there already, and its key is not yet: as between two copies.
    let signed = setup.authority.server(&["localhost"]);
    fs::write(&setup.files.certificate, &signed.certificate).unwrap();
    let refused = tls.reload().unwrap_err();
    assert!(matches!(refused, TlsError::KeyMismatch { .. }), "{refused}");
    let after = setup.client().call(server.addr).await.unwrap();
    assert_eq!(after.shown(), before.shown());

    fs::write(&setup.files.key, &signed.key).unwrap();
    tls.reload().unwrap();
    let healed = setup.client().call(server.addr).await.unwrap();
    assert_ne!(healed.shown(), before.shown());
}

/// Each file that is wrong is named, with what is wrong.
#[test]
fn what_is_wrong_with_a_file_is_told() {
    let setup = Setup::new();
    let (cert, key) = (&setup.files.certificate, &setup.files.key);
    let good = (fs::read(cert).unwrap(), fs::read(key).unwrap());
    let other = setup.authority.server(&["localhost"]);
    let cut = |text: &[u8]| text[..text.len() / 2].to_vec();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certificate, private, named, message) in [
        (
            good.1.clone(),
            good.1.clone(),
            cert,
            "has no certificate in it",
        ),
        (
            b"hello".to_vec(),
            good.1.clone(),
            cert,
            "has no certificate in it",
        ),
        (
            cut(&good.0),
            good.1.clone(),
            cert,
            "a section has no -----END line",
        ),
        (
            no_certificate.into(),
            good.1.clone(),
            cert,
            "certificate 1 cannot be used",
        ),
        (
            good.0.clone(),
            good.0.clone(),
            key,
            "has no private key in it",
        ),
        (
            good.0.clone(),
            cut(&good.1),
            key,
            "a section has no -----END line",
        ),
        (
            good.0.clone(),
            encrypted.into(),
            key,
            "the private key is encrypted",
        ),
        (
            good.0.clone(),
            no_key.into(),
            key,
            "the private key cannot be used",
        ),
        (
            good.0.clone(),
            other.key.into(),
            key,
            "is not that of the first certificate",
        ),
    ] {
        fs::write(cert, certificate).unwrap();
        fs::write(key, private).unwrap();
        let error = Tls::load(setup.options()).unwrap_err().to_string();
        assert!(error.contains(&*named.to_string_lossy()), "{error}");
        assert!(error.contains(message), "{error}: {message}");
    }
    fs::remove_file(key).unwrap();
    fs::write(cert, good.0).unwrap();
    let error = Tls::load(setup.options()).unwrap_err();
    assert!(matches!(error, TlsError::Read { .. }), "{error}");
}

#[test]
fn the_end_of_a_certificate_is_seen_a_month_before() {
    let setup = Setup::new();
    let now = SystemTime::now();
    for (end, expected) in [
        (now + 31 * DAY, "Valid"),
        (now + 29 * DAY, "EndsIn"),
        (now - DAY, "Ended"),
    ] {
        let signed = setup.authority.server_until(&["localhost"], end);
        signed.write(setup.dir.path(), "server").unwrap();
        // One that has ended is still shown: clients that do not look are served.
        let validity = setup.tls().certificate().validity(now);
        assert!(
            format!("{validity:?}").starts_with(expected),
            "{validity:?}"
        );
    }
    let certificate = setup.tls().certificate();
    let early = certificate.validity(SystemTime::UNIX_EPOCH - DAY);
    assert_eq!(early, Validity::BeginsIn(DAY));
}
