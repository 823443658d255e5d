//! Where the server is and who calls; completions and man pages.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kjob_server::config::misspelt_variables;
#[cfg(feature = "tls")]
use kjob_test_certificates::Authority;
use tempfile::{TempDir, tempdir};

use crate::support::{Server, end, kjob, server_program};

/// A config file at its usual place: the directory for XDG_CONFIG_HOME, and the file.
fn config(text: &str) -> (TempDir, PathBuf) {
    let home = tempdir().unwrap();
    let path = home.path().join("kjob/config.toml");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    (home, path)
}

/// A URL where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn flags_win_over_variables_and_these_over_the_file() {
    let (server, nobody) = (Server::start(), nobody());
    for (flag, variable, file, code) in [
        (None, None, Some(&server.url), 0),
        (None, Some(&server.url), Some(&nobody), 0),
        (None, Some(&String::new()), Some(&server.url), 0),
        (Some(&server.url), Some(&nobody), Some(&nobody), 0),
        (None, Some(&nobody), Some(&server.url), 1),
        (Some(&nobody), Some(&server.url), None, 1),
    ] {
        let (home, _) = config(&file.map(|url| format!("url = '{url}'")).unwrap_or_default());
        let mut command = kjob(["list", "--tries", "1"]);
        command.env("XDG_CONFIG_HOME", home.path());
        if let Some(url) = variable {
            command.env("KJOB_URL", url);
        }
        if let Some(url) = flag {
            command.args(["--url", url]);
        }
        let ended = end(command);
        assert_eq!(
            ended.code, code,
            "{flag:?} {variable:?} {file:?}: {ended:?}"
        );
    }
}

#[test]
fn a_config_file_that_is_named_has_to_be_there_and_right() {
    let server = Server::start();
    let missing = server.run(["--config", "/no/such/config.toml", "list"]);
    assert_eq!(missing.code, 1, "{missing:?}");
    let (_home, path) = config("url = 'http://127.0.0.1:1'\npasword = 'geheim'\n");
    let wrong = server.run(["--config", path.to_str().unwrap(), "list"]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.error.contains("line 2") && wrong.error.contains("pasword"),
        "{wrong:?}"
    );
    assert!(!wrong.error.contains("geheim"), "{wrong:?}");
}

#[test]
fn secrets_that_others_can_read_are_warned_about() {
    let server = Server::start();
    for (text, mode, is_warned) in [
        ("token = 'secret'", 0o600, false),
        ("token = 'secret'", 0o640, true),
        ("token = 'secret'", 0o604, true),
        ("tries = 3", 0o644, false),
    ] {
        let (_home, path) = config(text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let ended = server.run(["--config", path.to_str().unwrap(), "list"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(
            ended.error.contains("chmod 600"),
            is_warned,
            "{text} {mode:o}: {ended:?}"
        );
        assert!(!ended.error.contains("secret\'"), "{ended:?}");
    }
}

/// A users file with ann, whose password is `correct horse`, and a token of hers.
fn accounts(dir: &Path) -> (PathBuf, String) {
    let file = dir.join("users.toml");
    let user = |arguments: &[&str]| {
        let mut command = Command::new(server_program());
        command
            .arg("user")
            .args(arguments)
            .arg("--users-file")
            .arg(&file);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"correct horse\n");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    user(&["add", "ann", "--password-stdin"]);
    let token = user(&["token", "ann", "ci"]);
    (file, token)
}

#[test]
fn callers_say_who_they_are() {
    let dir = tempdir().unwrap();
    let (users, token) = accounts(dir.path());
    let server = Server::with(&["--users-file", users.to_str().unwrap()]);
    let basic = [("KJOB_USER", "ann"), ("KJOB_PASSWORD", "correct horse")];
    for (variables, code) in [
        (&[][..], 1),
        (&basic, 0),
        (&[("KJOB_USER", "ann"), ("KJOB_PASSWORD", "wrong horse")], 1),
        (&[("KJOB_TOKEN", token.as_str())], 0),
        (&[("KJOB_TOKEN", token.as_str()), ("KJOB_USER", "")], 0),
        (&[("KJOB_USER", "ann")], 2),
        (&[("KJOB_PASSWORD", "correct horse")], 2),
    ] {
        let mut command = server.kjob(["list"]);
        command.envs(variables.iter().copied());
        let ended = end(command);
        assert_eq!(ended.code, code, "{variables:?}: {ended:?}");
        assert!(!ended.error.contains("horse\""), "{ended:?}");
    }
    let (home, _) = config("user = 'ann'\npassword = 'correct horse'");
    let mut command = server.kjob(["list"]);
    command.env("XDG_CONFIG_HOME", home.path());
    assert_eq!(end(command).code, 0);
}

/// The server warns of variables that look like its own with a slip in them.
#[test]
fn no_variable_looks_like_a_slip_in_one_of_the_servers() {
    let help = end(kjob(["--help"])).out;
    let words = help.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let mut names: Vec<_> = words.filter(|word| word.starts_with("KJOB_")).collect();
    names.sort_unstable();
    names.dedup();
    let expected = [
        "KJOB_CA",
        "KJOB_PASSWORD",
        "KJOB_TOKEN",
        "KJOB_URL",
        "KJOB_USER",
    ];
    assert_eq!(names, expected);
    assert_eq!(misspelt_variables(names), []);
}

#[test]
fn a_ring_is_walked() {
    let (first, second) = (Server::start(), Server::start());
    let ring = format!("{},{},{}", nobody(), first.url, second.url);
    let on = |arguments: &[&str]| {
        let mut command = kjob(arguments.iter().copied());
        command.env("KJOB_URL", &ring);
        end(command)
    };
    let submit = [
        "submit",
        "/demo/echo",
        "--data",
        r#"{"message":"x"}"#,
        "--tag",
        "t",
    ];
    assert_eq!(on(&submit).code, 0);
    assert_eq!(first.run(["get", "t"]).code, 0);
    assert_eq!(second.run(["get", "t"]).code, 6);

    let status = on(&["status", "--json"]);
    assert_eq!(status.code, 0);
    let servers = status.json()["servers"].clone();
    assert_eq!(servers[0]["health"], serde_json::Value::Null);
    assert!(
        servers[0]["error"]
            .as_str()
            .unwrap()
            .contains("cannot be reached")
    );
    assert_eq!(
        (&servers[1]["health"], &servers[2]["health"]),
        (&"running".into(), &"running".into())
    );
    let table = on(&["status"]).out;
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(
        table.contains(&format!("kjob {}", env!("CARGO_PKG_VERSION"))),
        "{table}"
    );

    let nobody = nobody();
    assert_eq!(end(kjob(["status", "--url", &nobody])).code, 1);
    assert_eq!(end(kjob(["status", "--url", "ftp://example.org"])).code, 2);
}

#[cfg(feature = "tls")]
#[test]
fn tls_servers_are_known_by_their_authority() {
    let authority = Authority::new("of the server");
    let dir = tempdir().unwrap();
    let files = authority
        .server(&["127.0.0.1"])
        .write(dir.path(), "server")
        .unwrap();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let server = Server::with(&[
        "--tls-cert",
        &path(&files.certificate),
        "--tls-key",
        &path(&files.key),
    ]);
    let stranger = server.run(["list"]);
    assert_eq!(stranger.code, 1);
    assert!(stranger.error.contains("TLS"), "{stranger:?}");
    assert_eq!(server.run(["list", "--ca", &path(&ca)]).code, 0);
    assert_eq!(server.run(["list", "--ca", "/no/such/file"]).code, 1);
    assert_eq!(server.run(["list", "--cert", &path(&ca)]).code, 2);
}

#[test]
fn slips_exit_with_two_and_help_with_nothing_wrong() {
    for arguments in [
        &["submitt"][..],
        &["get"],
        &["list", "--limit", "0"],
        &["get", "1", "--colour"],
    ] {
        let ended = end(kjob(arguments.iter().copied()));
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{arguments:?}");
    }
    // What a variable says was shown as if it had to be written.
    let mut bare = kjob(["get"]);
    bare.envs([
        ("KJOB_URL", "http://a"),
        ("KJOB_USER", "ann"),
        ("KJOB_CA", "ca.pem"),
    ]);
    let told = end(bare).error;
    assert!(told.contains("Usage: kjob get <JOB>"), "{told}");
    for arguments in [&["--help"][..], &["--version"], &["submit", "--help"]] {
        let ended = end(kjob(arguments.iter().copied()));
        assert_eq!((ended.code, ended.error.as_str()), (0, ""), "{arguments:?}");
    }
    assert!(end(kjob(["--help"])).out.contains("Exit codes:"));
}

#[test]
fn completions_and_man_pages_are_generated() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = end(kjob(["completions", shell]));
        assert_eq!(script.code, 0);
        assert!(script.out.contains("cancel-on-interrupt"), "{shell}");
    }
    let dir = tempdir().unwrap();
    let pages = dir.path().join("man1");
    assert_eq!(end(kjob(["man", pages.to_str().unwrap()])).code, 0);
    for page in ["kjob.1", "kjob-submit.1", "kjob-wait.1", "kjob-result.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let whole = fs::read_to_string(pages.join("kjob.1")).unwrap();
    assert!(whole.contains("Exit codes"), "{whole}");
}
