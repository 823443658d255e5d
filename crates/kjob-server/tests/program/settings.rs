//! Flags, variables and the config file.

use std::fs;

use tempfile::tempdir;

use crate::support::{program, run};

/// Runs the program with a config file of this text: exit code, standard output, error output.
fn check(file: &str, arguments: &[&str]) -> (i32, String, String) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("kjob.toml");
    fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    run(["check", "--config", path]
        .into_iter()
        .chain(arguments.iter().copied()))
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("kjob.toml");
    fs::write(&path, "workers = 1\nmax_queued = 1\nretention = '1h'\n").unwrap();
    let output = program()
        .args(["check", "--workers", "3"])
        .env("KJOB_CONFIG", &path)
        .env("KJOB_WORKERS", "2")
        .env("KJOB_MAX_QUEUED", "2")
        .output()
        .unwrap();
    assert!(output.status.success());
    let listing = String::from_utf8(output.stdout).unwrap();
    for line in [
        "workers = \"3\"  # command line",
        "max_queued = \"2\"  # environment",
        "retention = \"1h\"  # config file, line 3",
        "max_body = \"64MiB\"  # default",
    ] {
        assert!(
            listing.lines().any(|found| found == line),
            "{line}\n{listing}"
        );
    }
}

#[test]
fn what_check_prints_is_a_config_file_that_says_the_same() {
    let values = |listing: &str| -> Vec<String> {
        listing
            .lines()
            .map(|line| line.split("  #").next().unwrap().to_owned())
            .collect()
    };
    let (code, listing, _) = check("workers = 7\ndemo = true", &["--public-url", "http://h:1"]);
    assert_eq!(code, 0);
    let (code, again, error) = check(&listing, &[]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(values(&again), values(&listing));
}

#[test]
fn a_check_reads_the_users_file_as_a_start_would() {
    let dir = tempdir().unwrap();
    let users = dir.path().join("users.toml");
    let file = format!("users_file = {:?}", users.to_str().unwrap());
    let (code, _, error) = check(&file, &[]);
    assert_eq!(code, 2);
    assert!(error.starts_with("kjob-server: users_file: "), "{error}");
    assert!(error.contains("users.toml"), "{error}");
    let add = ["user", "add", "ann", "--no-password", "--users-file"];
    let (code, _, error) = run(add.into_iter().chain(users.to_str()));
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = check(&file, &[]);
    assert_eq!((code, error.as_str()), (0, ""));
    fs::write(&users, "what = 1").unwrap();
    let (code, listing, error) = check(&file, &[]);
    assert_eq!((code, listing.as_str()), (2, ""), "{error}");
}

#[test]
fn mistakes_are_one_line_that_says_where_what_and_what_is_allowed() {
    for (file, arguments, words) in [
        (
            "workers = 1\nworkesr = 2",
            &[][..],
            &[
                "kjob.toml:2: unknown key \"workesr\"; did you mean \"workers\"?",
                "allowed are listen,",
            ][..],
        ),
        (
            "max_body = 'lots'",
            &[],
            &["kjob.toml:1: max_body: \"lots\" is not a size such as"],
        ),
        (
            "[[route]]\nkind = 'http'",
            &[],
            &["kjob.toml:1: the route has no endpoint"],
        ),
        ("listen =", &[], &["kjob.toml:1: "]),
        (
            "max_body_memory = '32MiB'\nmax_body = '33MiB'\nmax_result = '1MiB'",
            &[],
            &["max_body: 34603008 bytes are more than max_body_memory, which is 33554432"],
        ),
        (
            "max_result = '2GiB'",
            &[],
            &["max_result: 2147483648 bytes are more than max_body_memory"],
        ),
        (
            "listen = '0.0.0.0:9191'",
            &[],
            &["listen: 0.0.0.0:9191 is no loopback address", "--insecure"],
        ),
        (
            "",
            &["--listen", "192.0.2.1:1"],
            &["192.0.2.1:1 is no loopback address"],
        ),
    ] {
        let (code, output, error) = check(file, arguments);
        assert_eq!((code, output.as_str()), (2, ""), "{file}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("kjob-server: "), "{error}");
        for word in words {
            assert!(error.contains(word), "{word}\n{error}");
        }
    }
}

#[test]
fn a_config_file_that_is_not_there_is_named() {
    let (code, _, error) = run(["--config", "no/such/file.toml"]);
    assert_eq!(code, 2);
    assert!(
        error.contains("no/such/file.toml cannot be read"),
        "{error}"
    );
}

#[test]
fn bad_flags_and_variables_are_named_with_what_is_allowed() {
    let (code, _, error) = run(["--workers", "0"]);
    assert_eq!(code, 2);
    assert!(
        error.contains("--workers") && error.contains("a number from 1 to"),
        "{error}"
    );

    let (code, _, error) = run(["--wrokers", "1"]);
    assert_eq!(code, 2);
    assert!(error.contains("--workers"), "{error}");

    let output = program()
        .env("KJOB_LOG_FORMAT", "xml")
        .arg("check")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("one of auto, human, json"), "{error}");
    assert!(error.contains("'KJOB_LOG_FORMAT'"), "{error}");

    // A variable that a flag wins over is not to blame.
    let output = program()
        .env("KJOB_WORKERS", "2")
        .args(["check", "--workers", "-1"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error.contains("'--workers <N>'") && error.contains("\"-1\" is not a number from 1 to"),
        "{error}"
    );
}

#[test]
fn help_and_version_are_no_mistakes() {
    let (code, output, error) = run(["--version"]);
    let expected = concat!("kjob-server ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((code, output.as_str(), error.as_str()), (0, expected, ""));
    let (code, output, _) = run(["--help"]);
    assert_eq!(code, 0);
    assert!(output.contains("--data-dir <DIR>") && output.contains("[default: kjob-data]"));
}
