//! The official clients against the real server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kjob_test_certificates::Authority;

use crate::build;
use crate::counts::Counts;
use crate::process::{self, Tool};
use crate::steps::{Context, Verdict};
use crate::tools;

/// Where the tests of both clients look for the server.
const SERVER_VARIABLE: &str = "KJOB_SERVER_BIN";

/// Where they look for certificates.
const TLS_VARIABLE: &str = "KJOB_TLS_DIR";

/// Where those in Python look for the program that holds the server against its OpenAPI document.
const SCHEMATHESIS_VARIABLE: &str = "KJOB_SCHEMATHESIS_BIN";

/// How many tests in Python go at a time: most of their time is waiting.
const AT_A_TIME: &str = "4";

/// Builds the server and runs the tests of both clients.
pub(crate) fn run(context: &Context) -> Result<Verdict> {
    let python = tools::OFFICIAL_CLIENT.ensure(&context.workspace, "python")?;
    let schemathesis = tools::SCHEMATHESIS.ensure(&context.workspace, "schemathesis")?;
    let server = build::server(context.release)?;
    let certificates = make_certificates(&context.workspace.target)?;

    let database = tools::postgres()?;
    let mut pytest = Tool::At(python).command();
    pytest
        .current_dir(context.workspace.root.join("acceptance/python"))
        .args(["-m", "pytest", "--numprocesses", AT_A_TIME]);
    // The tree stays as it was.
    pytest
        .env(SERVER_VARIABLE, &server)
        .env(TLS_VARIABLE, &certificates)
        .env(kjob_test_postgres::URL_VARIABLE, database.url())
        .env(SCHEMATHESIS_VARIABLE, &schemathesis)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let mut python = Counts::default();
    let python_ok = process::run_watched(&mut pytest, |line| python.add_pytest_line(line))?;

    let target = ["--test", "official_client"];
    let mut build = build::outside(&context.workspace, "conformance", "test");
    process::run(build.args(target).arg("--no-run"))?;
    let mut test = build::outside(&context.workspace, "conformance", "test");
    test.args(target)
        .arg("--no-fail-fast")
        .env(SERVER_VARIABLE, &server)
        .env(TLS_VARIABLE, &certificates);
    // The client trusts whom the system trusts. Cargo would too, were there still something to fetch.
    test.env("SSL_CERT_FILE", certificates.join("authority.pem"));
    let mut rust = Counts::default();
    let rust_ok = process::run_watched(&mut test, |line| rust.add_cargo_line(line))?;

    let note = format!(
        "Python {} of {}, Rust {} of {}",
        python.passed,
        total(&python),
        rust.passed,
        total(&rust)
    );
    let mut counts = python;
    counts += rust;
    Ok(Verdict::Ran {
        ok: python_ok && rust_ok,
        counts,
        note,
    })
}

/// An authority, and a certificate for servers on this machine, new each time.
fn make_certificates(target: &Path) -> Result<PathBuf> {
    let dir = target.join("acceptance-tls");
    let authority = Authority::new("the authority of the acceptance tests");
    let server = authority.server(&["localhost", "127.0.0.1", "127.0.0.2"]);
    let write = || {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("authority.pem"), authority.pem())?;
        server.write(&dir, "server")
    };
    write().with_context(|| dir.display().to_string())?;
    Ok(dir)
}

fn total(counts: &Counts) -> u32 {
    counts.passed + counts.failed + counts.ignored
}
