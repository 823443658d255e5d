//! Where the server would be reached, and what it would show to prove who it is.

use std::io;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::Uri;

use crate::config::Config;
use crate::file_mode::too_open;
use crate::run::bind_hint;
use crate::server;
use crate::tls::{Tls, TlsOptions, Validity};

use super::report::Finding;

/// Takes the address, and lets go of it again. Within a runtime.
pub(super) fn listen(address: SocketAddr, is_served: bool) -> Finding {
    let expected = "an address that is this machine's and free";
    let finding = |found| Finding::new("listen", found, expected);
    match server::listen(address) {
        Ok(_) => finding(format!("{address} is free")).ok(),
        Err(error) => {
            let found = finding(format!("{address}: {}", bind_hint(&error)));
            match error.kind() {
                io::ErrorKind::AddrInUse if is_served => found.warn(
                    "a server has the data directory open, and it may be that one; otherwise stop what \
                     listens there, or set listen",
                ),
                _ => found.fail("set listen to another address, or stop what listens there"),
            }
        }
    }
}

/// The certificate and its key, if the server is to speak TLS.
pub(super) fn certificate(config: &Config) -> Option<Finding> {
    let options = config.tls.clone()?;
    let url = config.settings.public_url.as_told();
    Some(match Tls::load(options.clone()) {
        Ok(tls) => judged(&tls, &options, url.as_deref(), SystemTime::now()),
        Err(error) => Finding::new("certificate", error.to_string(), EXPECTED)
            .fail("give files that the server's user can read and that belong together"),
    })
}

const EXPECTED: &str = "a certificate that is valid for 30 days and longer and for the host in public_url, \
    and a key that others cannot read";

fn judged(tls: &Tls, options: &TlsOptions, url: Option<&str>, now: SystemTime) -> Finding {
    let certificate = tls.certificate();
    let date = |time| humantime::format_rfc3339_seconds(time);
    let path = options.cert.display();
    let found = format!("{path} is valid until {}", date(certificate.not_after()));
    let finding = |found| Finding::new("certificate", found, EXPECTED);
    let left = certificate.not_after().duration_since(now);
    let days = left.map_or(0, |left| left.as_secs() / (24 * 60 * 60));
    let renew = "renew it; a running server takes the new files at a SIGHUP";
    match certificate.validity(now) {
        Validity::Ended(_) => {
            let ended = date(certificate.not_after());
            return finding(format!("{path} has ended at {ended}")).fail(renew);
        }
        Validity::BeginsIn(_) => {
            let begins = date(certificate.not_before());
            return finding(format!("{path} is not valid before {begins}"))
                .fail("wait, or set the clock if that is wrong: clients refuse it until then");
        }
        Validity::EndsIn(_) => return finding(found).figure("days_left", days).warn(renew),
        Validity::Valid => {}
    }
    let finding = finding(found).figure("days_left", days);
    let host = url.and_then(|url| url.parse::<Uri>().ok());
    let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if !host.is_empty() && !certificate.is_for(host) {
        return finding.warn(format!(
            "it is not for {host}, where public_url sends clients: get one that is, or set public_url"
        ));
    }
    let key = std::fs::metadata(&options.key);
    if key.is_ok_and(|key| too_open(&key, 0o007).is_some()) {
        let key = options.key.display();
        return finding.warn(format!(
            "every user of this machine can read the key: chmod o= {key}"
        ));
    }
    finding.ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn certificates_are_judged_by_time_and_by_host() {
        let dir = tempfile::tempdir().unwrap();
        let authority = kjob_test_certificates::Authority::new("an authority");
        let files = authority.server(&["jobs.example.org"]);
        let files = files.write(dir.path(), "server").unwrap();
        let options = TlsOptions::new(&files.certificate, &files.key);
        let tls = Tls::load(options.clone()).unwrap();
        let certificate = tls.certificate();
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        let (url, other) = (Some("https://jobs.example.org:9"), Some("https://h"));
        for (url, now, verdict) in [
            (url, now, Verdict::Ok),
            (None, now, Verdict::Ok),
            (other, now, Verdict::Warn),
            (url, certificate.not_after() - 29 * day, Verdict::Warn),
            (url, certificate.not_after() + day, Verdict::Fail),
            (url, certificate.not_before() - day, Verdict::Fail),
        ] {
            let finding = judged(&tls, &options, url, now);
            assert_eq!(finding.verdict(), verdict, "{finding:?}");
        }
    }
}
