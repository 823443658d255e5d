//! TLS to a database: whom the store trusts, and as whom it speaks.

use std::path::Path;

use kjob_core::Store;
use kjob_store::postgres::{OpenError, PostgresOptions, PostgresStore};
use kjob_test_certificates::Authority;
use kjob_test_postgres::{Cluster, Settings};

use crate::support::block_on;

/// A server that takes clients over TLS, and one of its users by a certificate alone.
fn server(authority: &Authority) -> Cluster {
    let signed = authority.server(&["127.0.0.1"]);
    let mut settings = Settings::for_tests();
    let words = [
        "ssl=on",
        "ssl_cert_file='server.pem'",
        "ssl_key_file='server.key'",
        "ssl_ca_file='authority.pem'",
    ];
    settings.settings.extend(words.map(String::from));
    settings.files = vec![
        ("server.pem".into(), signed.certificate),
        ("server.key".into(), signed.key),
        ("authority.pem".into(), authority.pem().into()),
    ];
    settings.rules = vec!["hostssl all certified 127.0.0.1/32 cert".into()];
    Cluster::start(&settings).unwrap()
}

fn url(server: &Cluster, host: &str, user: &str, words: &str) -> String {
    format!(
        "postgres://{user}@{host}:{}/postgres?{words}",
        server.port()
    )
}

async fn open(url: &str) -> Result<PostgresStore, String> {
    let opened = PostgresStore::open(url, PostgresOptions::default()).await;
    opened.map_err(|error| error.to_string())
}

fn file(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().replace('/', "%2F")
}

#[test]
fn a_database_is_trusted_by_the_authority_that_the_url_names() {
    let authority = Authority::new("the authority of the database");
    let server = server(&authority);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(
        dir.path().join("other.pem"),
        Authority::new("another").pem(),
    )
    .unwrap();
    std::fs::write(dir.path().join("empty.pem"), "nothing\n").unwrap();
    let signed = authority.client("certified");
    signed.write(dir.path(), "client").unwrap();
    let ca = format!("sslrootcert={}", file(dir.path(), "ca.pem"));
    let full = format!("sslmode=verify-full&{ca}");
    let good = url(&server, "127.0.0.1", "postgres", &full);

    block_on(async {
        PostgresStore::migrate(&good, &PostgresOptions::default())
            .await
            .unwrap();
        let store = open(&good).await.unwrap();
        store.reserve_ids(1).await.unwrap();
        // All its connections.
        let (plain, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let look = "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl \
            JOIN pg_stat_activity USING (pid) WHERE application_name = 'kjob'";
        let row = plain.query_one(look, &[]).await.unwrap();
        let (all, secure): (i64, i64) = (row.get(0), row.get(1));
        assert!(all >= 2 && all == secure, "{secure} of {all}");
        store.close().await.unwrap();

        plain
            .batch_execute("CREATE ROLE certified LOGIN SUPERUSER")
            .await
            .unwrap();
        let stranger = url(&server, "127.0.0.1", "certified", &full);
        let refused = open(&stranger).await.unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
        let (certificate, key) = (
            file(dir.path(), "client.pem"),
            file(dir.path(), "client.key"),
        );
        let known = format!("{stranger}&sslcert={certificate}&sslkey={key}");
        open(&known).await.unwrap().close().await.unwrap();

        // It was not signed for this name.
        let named = url(&server, "localhost", "postgres", &full);
        let error = open(&named).await.unwrap_err();
        assert!(
            error.contains("not valid for name") && !error.contains("sslrootcert="),
            "{error}"
        );
        let another = format!("sslrootcert={}", file(dir.path(), "other.pem"));
        let another = url(&server, "127.0.0.1", "postgres", &another);
        // The authorities of the operating system do not know it, and a fall back to no TLS is none.
        let system = url(&server, "127.0.0.1", "postgres", "sslmode=prefer");
        for refused in [another, system] {
            let error = open(&refused).await.unwrap_err();
            assert!(error.contains("sslrootcert=FILE"), "{refused}: {error}");
        }
        // Whoever names an authority does not mean to speak to anybody without TLS.
        let plain = kjob_test_postgres::url().replace("sslmode=disable", &ca);
        let error = open(&plain).await.unwrap_err();
        assert!(error.contains("TLS"), "{error}");
        for (missing, word) in [("empty.pem", "sslrootcert"), ("none.pem", "sslrootcert")] {
            let words = format!("sslmode=require&sslrootcert={}", file(dir.path(), missing));
            let url = url(&server, "127.0.0.1", "postgres", &words);
            let error = PostgresStore::open(&url, PostgresOptions::default()).await;
            let error = error.unwrap_err();
            assert!(
                matches!(&error, OpenError::TlsFile { word: found, .. } if *found == word),
                "{error:?}"
            );
        }
    });
}
