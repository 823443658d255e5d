//! `kjob-server doctor`.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::support::{Running, run};

/// A report as programs read it, and the exit code.
struct Told {
    code: i32,
    report: Value,
}

impl Told {
    /// The doctor of a host with a data directory that only its owner may enter.
    fn with(dir: &TempDir, arguments: &[&str]) -> Self {
        let data = dir.path().join("data");
        Self::of(&["--listen", "127.0.0.1:0"], &data, arguments)
    }

    fn of(listen: &[&str], data: &Path, arguments: &[&str]) -> Self {
        let first = ["doctor", "--json", "--data-dir", data.to_str().unwrap()];
        // The least that any machine of a test has room for.
        let small = ["--max-stored-bytes", "1KiB", "--max-connections", "10"];
        let all = [&first[..], &small, listen, arguments].concat();
        let (code, output, error) = run(all);
        let report = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{output}{error}"));
        Self { code, report }
    }

    fn check(&self, name: &str) -> &Value {
        let checks = self.report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["check"] == name);
        found.unwrap_or_else(|| panic!("{name}: {:#}", self.report))
    }

    fn verdict(&self, name: &str) -> &str {
        self.check(name)["verdict"].as_str().unwrap()
    }

    /// Asserts that this check fails, tells all of these, says what to do, and is why the exit code is 1.
    fn assert_fails(&self, name: &str, words: &[&str]) {
        let check = self.check(name);
        assert_eq!(check["verdict"], "fail", "{check:#}");
        let found = check["found"].as_str().unwrap();
        for word in words {
            assert!(found.contains(word), "{word}\n{check:#}");
        }
        assert!(check["advice"].is_string(), "{check:#}");
        assert_eq!(self.code, 1);
    }
}

fn config(dir: &TempDir, text: &str) -> String {
    let path = dir.path().join("kjob.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_good_host_has_no_failures_and_is_left_as_it_was() {
    let dir = tempdir().unwrap();
    let told = Told::with(&dir, &[]);
    assert_eq!(told.code, 0, "{:#}", told.report);
    assert_eq!(told.report["fail"], 0);
    for name in [
        "config",
        "data_dir",
        "store",
        "disk_space",
        "open_files",
        "listen",
        "clock",
    ] {
        assert_eq!(told.verdict(name), "ok", "{:#}", told.check(name));
    }
    let sync = &told.check("disk_sync")["figures"];
    assert!(
        sync["median_us"].as_u64() <= sync["p99_us"].as_u64(),
        "{sync}"
    );
    assert!(sync["syncs"].as_u64().unwrap() > 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn people_get_a_line_for_each_check() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    let arguments = ["doctor", "--listen", "127.0.0.1:0", "--data-dir"];
    let (code, output, error) = run(arguments.into_iter().chain(data.to_str()));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(output.starts_with("ok    config "), "{output}");
    assert!(output.contains("; expected: "), "{output}");
    assert!(output.ends_with(" failures\n"), "{output}");
}

#[test]
fn a_bad_config_fails_with_its_place() {
    let dir = tempdir().unwrap();
    let path = config(&dir, "workers = 1\nworkesr = 2");
    let told = Told::with(&dir, &["--config", &path]);
    told.assert_fails("config", &["kjob.toml:2", "did you mean \"workers\"?"]);
    let path = config(&dir, "users_file = '/no/such/users.toml'");
    let told = Told::with(&dir, &["--config", &path]);
    told.assert_fails("config", &["users_file", "/no/such/users.toml"]);
    // The other checks are made all the same.
    assert_eq!(told.verdict("data_dir"), "ok");
}

#[test]
fn a_data_directory_that_cannot_be_made_or_written_fails() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let listen = ["--listen", "127.0.0.1:0"];
    let told = Told::of(&listen, &file.join("data"), &[]);
    told.assert_fails("data_dir", &["is no directory"]);
    told.assert_fails("disk_sync", &[]);
}

/// Also for root, whom no mode keeps out: nobody can make files in /proc.
#[cfg(target_os = "linux")]
#[test]
fn a_place_where_nobody_can_write_fails() {
    let told = Told::of(&["--listen", "127.0.0.1:0"], "/proc/kjob".as_ref(), &[]);
    told.assert_fails("data_dir", &["no file can be made in /proc"]);
}

#[test]
fn an_address_in_use_fails() {
    let dir = tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let told = Told::of(&["--listen", &address], &dir.path().join("data"), &[]);
    told.assert_fails("listen", &[&address, "in use"]);
    // One that this machine does not have (RFC 5737).
    let elsewhere = ["--listen", "192.0.2.1:9", "--insecure"];
    let told = Told::of(&elsewhere, &dir.path().join("data"), &[]);
    told.assert_fails("listen", &["192.0.2.1:9", "no such address"]);
}

#[test]
fn beside_a_running_server_only_the_format_is_read() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &[]);
    let told = Told::of(
        &["--listen", &server.address],
        &dir.path().join("data"),
        &[],
    );
    assert_eq!(told.code, 0, "{:#}", told.report);
    let store = told.check("store")["found"].as_str().unwrap();
    assert!(
        store.contains(&format!("process {} has it open", server.pid())),
        "{store}"
    );
    assert_eq!(told.verdict("listen"), "warn");
    assert_eq!(server.get("/readyz").0, 200);
}

#[test]
fn a_store_of_a_newer_version_fails() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &[]);
    server.signal("TERM");
    assert!(server.end().0.success());
    let told = Told::with(&dir, &[]);
    assert_eq!(told.verdict("store"), "ok", "{:#}", told.report);
    let catalogue = dir.path().join("data/catalogue.sqlite");
    let mut bytes = fs::read(&catalogue).unwrap();
    // SQLite's user version, of which this is the last byte.
    bytes[63] += 1;
    fs::write(&catalogue, bytes).unwrap();
    let told = Told::with(&dir, &[]);
    told.assert_fails("store", &["use the version that wrote it"]);
}

#[test]
fn a_certificate_that_is_not_there_fails() {
    let dir = tempdir().unwrap();
    let files = ["--tls-cert", "/no/such.pem", "--tls-key", "/no/such.key"];
    Told::with(&dir, &files).assert_fails("certificate", &["/no/such.pem"]);
    let authority = kjob_test_certificates::Authority::new("an authority");
    let made = authority
        .server(&["127.0.0.1"])
        .write(dir.path(), "server")
        .unwrap();
    let (certificate, key) = (
        made.certificate.to_str().unwrap(),
        made.key.to_str().unwrap(),
    );
    let files = ["--tls-cert", certificate, "--tls-key", key];
    let told = Told::with(&dir, &files);
    assert_eq!(told.code, 0, "{:#}", told.report);
    assert!(told.check("certificate")["figures"]["days_left"].as_u64() > Some(0));
}

#[cfg(unix)]
#[test]
fn a_directory_that_others_may_write_to_fails() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    Told::with(&dir, &[]).assert_fails("data_dir", &["mode 777"]);
}

#[test]
fn what_nobody_asked_for_is_refused() {
    let (code, _, error) = run(["doctor", "--jsn"]);
    assert_eq!(code, 2);
    assert!(error.contains("--json"), "{error}");
}

#[cfg(unix)]
mod database {
    use super::*;
    use crate::cluster::{bare_database, database};

    #[test]
    fn one_that_is_away_fails_and_its_password_is_not_told() {
        let dir = tempdir().unwrap();
        let url = "postgres://ann:hunter2@127.0.0.1:1/none?sslmode=disable";
        let told = Told::with(&dir, &["--store", url]);
        told.assert_fails("database", &["postgres://ann:***@127.0.0.1:1"]);
        assert!(
            !told.report.to_string().contains("hunter2"),
            "{:#}",
            told.report
        );
    }

    #[test]
    fn one_without_tables_fails() {
        let (dir, url) = (tempdir().unwrap(), bare_database());
        let told = Told::with(&dir, &["--store", &url]);
        told.assert_fails("tables", &["no tables of kjob"]);
        assert_eq!(told.check("tables")["advice"], "run kjob-server migrate");
        assert_eq!(told.verdict("database"), "ok", "{:#}", told.report);
    }

    #[test]
    fn one_that_is_ready_is_measured() {
        let (dir, url) = (tempdir().unwrap(), database());
        let told = Told::with(&dir, &["--store", &url]);
        assert_eq!(told.code, 0, "{:#}", told.report);
        assert_eq!(told.verdict("tables"), "ok");
        // Its clock is this machine's.
        let ahead = told.check("database_clock")["figures"]["ahead_ms"].as_i64();
        assert!(ahead.unwrap().abs() < 1_000, "{ahead:?}");
        let room = &told.check("database_connections")["figures"];
        assert!(room["max"].as_u64() > room["needed"].as_u64(), "{room}");
        assert!(room["open"].as_u64() > Some(0), "{room}");
    }

    /// Clusters are made with or without, as the version of PostgreSQL has it.
    #[test]
    fn one_without_checksums_is_warned_of() {
        let (dir, url) = (tempdir().unwrap(), database());
        let shown = kjob_test_postgres::tool("psql", None)
            .args(["--tuples-only", "--no-align", "--dbname", &url])
            .args(["--command", "SHOW data_checksums"])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let verdict = match shown.trim() {
            "on" => "ok",
            "off" => "warn",
            other => panic!("{other:?}"),
        };
        let told = Told::with(&dir, &["--store", &url]);
        assert_eq!(
            told.verdict("database_checksums"),
            verdict,
            "{:#}",
            told.report
        );
        let found = told.check("database_checksums")["found"].as_str().unwrap();
        assert!(found.ends_with(shown.trim()), "{found}");
        assert_eq!(told.code, 0, "{:#}", told.report);
    }

    #[test]
    fn databases_of_two_sets_fail_as_at_the_server() {
        let dir = tempdir().unwrap();
        let set = || {
            let both = [bare_database(), bare_database()];
            let (code, _, log) = run(["migrate", "--store", &both.join(",")]);
            assert_eq!(code, 0, "{log}");
            both
        };
        let ([first, second], [other, another]) = (set(), set());
        let good = Told::with(&dir, &["--store", &format!("{first},{second}")]);
        assert_eq!(good.code, 0, "{:#}", good.report);
        let checks = good.report["checks"].as_array().unwrap();
        let of_second = checks.iter().filter(|it| it["database"] == second);
        let of_second: Vec<_> = of_second.map(|it| it["check"].as_str().unwrap()).collect();
        let all = [
            "database",
            "tables",
            "database_clock",
            "database_connections",
            "database_checksums",
            "shard",
        ];
        assert_eq!(of_second, all);
        for (store, words) in [
            (format!("{first},{another}"), "another set"),
            (format!("{first},{other}"), "another set"),
            (format!("{first},{first}"), "already"),
        ] {
            let told = Told::with(&dir, &["--store", &store]);
            assert_eq!(told.code, 1, "{:#}", told.report);
            let failed = told.report["checks"].as_array().unwrap().iter();
            let failed = failed.filter(|it| it["verdict"] == "fail" && it["check"] == "shard");
            let mut advice = failed.filter_map(|it| it["advice"].as_str());
            assert!(advice.any(|it| it.contains(words)), "{:#}", told.report);
            let (code, _, log) = run(["--store", &store]);
            assert_eq!(code, 1);
            assert!(log.contains(words), "{log}");
        }
        // Nobody is sent to migrate what would be refused.
        let store = format!("{},{another}", bare_database());
        let told = Told::with(&dir, &["--store", &store]);
        let advice = told.check("tables")["advice"].as_str().unwrap();
        assert!(advice.contains("would refuse"), "{advice}");
        for command in [&["migrate", "--store", &store][..], &["--store", &store]] {
            let (code, _, log) = run(command);
            assert_eq!(code, 1);
            assert!(log.contains("another set"), "{log}");
            assert!(log.contains(&another), "{log}");
        }
    }
}

#[test]
fn a_database_that_says_nothing_fails_and_keeps_its_password() {
    let dir = tempdir().unwrap();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = deaf.local_addr().unwrap().port();
    let url = format!("postgres://ann:se/cret@127.0.0.1:{port}/jobs?sslmode=disable");
    let told = Told::with(&dir, &["--store", &url]);
    told.assert_fails("database", &["no answer", "ann:***@127.0.0.1"]);
    assert!(!told.report.to_string().contains("cret"));
    for (words, why) in [
        ("sslmode=maybe", "sslmode"),
        ("sslrootcert=/no/such.pem", "/no/such.pem"),
        ("sslcert=a.pem", "sslkey"),
    ] {
        let url = format!("postgres://ann@127.0.0.1:{port}/jobs?{words}");
        let told = Told::with(&dir, &["--store", &url]);
        told.assert_fails("database", &[why]);
        let advice = told.check("database")["advice"].as_str().unwrap();
        assert!(!advice.contains("firewalls"), "{advice}");
    }
}

#[test]
fn an_audit_log_that_cannot_be_written_fails() {
    let dir = tempdir().unwrap();
    let told = Told::with(&dir, &["--audit-log", "/no/such/audit.log"]);
    told.assert_fails("audit_log", &["/no/such/audit.log"]);
    let told = Told::with(&dir, &["--audit-log", "-"]);
    assert!(
        told.report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["check"] != "audit_log")
    );
}

#[test]
fn people_are_told_what_exit_codes_mean() {
    let (code, help, _) = run(["doctor", "--help"]);
    assert_eq!(code, 0);
    assert!(help.contains("Exit codes: 0 nothing fails"), "{help}");
}

#[test]
fn programs_of_routes_are_looked_for() {
    let dir = tempdir().unwrap();
    let route = |endpoint: &str, program: &str| {
        format!("[[route]]\nendpoint = {endpoint:?}\nkind = \"command\"\ncommand = [{program:?}]\n")
    };
    let good = route("/a", "cat") + &route("/b", "/bin/sh");
    let told = Told::with(&dir, &["--config", &config(&dir, &good)]);
    assert_eq!(
        told.verdict("commands"),
        "ok",
        "{:#}",
        told.check("commands")
    );
    let bad = good + &route("/c", "no-such-program") + &route("/d", "/etc/passwd");
    let told = Told::with(&dir, &["--config", &config(&dir, &bad)]);
    let check = told.check("commands");
    assert_eq!(check["verdict"], "warn", "{check:#}");
    assert_eq!(check["found"], "2 of 4 are not, such as no-such-program");
    assert_eq!(told.code, 0);
}
