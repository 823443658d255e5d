//! Accounts as their operator meets them: the users file, its command, and SIGHUP.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::{TempDir, tempdir};

use crate::support::{Running, program, run};

pub(crate) const PASSWORD: &str = "correct horse";
const WRONG: u16 = 401;

/// Runs `kjob-server user` with a text on its standard input: exit code, output, error output.
pub(crate) fn user(file: &Path, arguments: &[&str], stdin: &str) -> (i32, String, String) {
    let mut child = program()
        .arg("user")
        .args(arguments)
        .arg("--users-file")
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Runs it, and gives what it printed.
pub(crate) fn done(file: &Path, arguments: &[&str], stdin: &str) -> String {
    let (code, out, error) = user(file, arguments, stdin);
    assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}");
    out
}

pub(crate) fn add(file: &Path, name: &str, role: &str) {
    let arguments = ["add", name, "--role", role, "--password-stdin"];
    done(file, &arguments, &format!("{PASSWORD}\n"));
}

/// A server with accounts: ann, a user, and root, an admin, both with the same password.
pub(crate) fn start(dir: &TempDir, arguments: &[&str]) -> (Running, PathBuf) {
    let users = dir.path().join("users.toml");
    add(&users, "ann", "user");
    add(&users, "root", "admin");
    let mut all = vec!["--demo", "--users-file", users.to_str().unwrap()];
    all.extend(arguments);
    let server = Running::start(dir, &all);
    (server, users)
}

pub(crate) fn basic(name: &str, password: &str) -> String {
    use base64ct::{Base64, Encoding as _};
    let pair = format!("{name}:{password}");
    format!("Basic {}", Base64::encode_string(pair.as_bytes()))
}

/// The status and the body of a call with this `Authorization`, over a connection of its own.
pub(crate) fn call(server: &Running, credentials: &str, path: &str, body: &str) -> (u16, String) {
    use std::io::Read as _;
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    let len = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nContent-Type: application/json\r\n\
         Authorization: {credentials}\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

pub(crate) fn status_of(server: &Running, credentials: &str) -> u16 {
    call(server, credentials, "/show/system/status", "{}").0
}

/// Sends SIGHUP, and waits until the users were read, or were not.
pub(crate) fn hang_up(server: &Running, times: usize) {
    server.signal("HUP");
    server.wait_logged("\"what\":\"users_file\"", times);
}

#[test]
fn a_changed_user_is_known_from_the_hangup_on() {
    let dir = tempdir().unwrap();
    let (server, users) = start(&dir, &["--log-format", "json"]);
    let (ann, root) = (basic("ann", PASSWORD), basic("root", PASSWORD));
    for (credentials, status) in [
        (ann.as_str(), 200),
        (&root, 200),
        (&basic("ann", "wrong"), WRONG),
        ("Bearer undefined", WRONG),
    ] {
        assert_eq!(status_of(&server, credentials), status, "{credentials}");
    }

    let token = done(&users, &["token", "ann", "ci"], "");
    let bearer = format!("Bearer {}", token.trim_end());
    assert_eq!(status_of(&server, &bearer), WRONG, "not before the hangup");
    hang_up(&server, 1);
    assert_eq!(status_of(&server, &bearer), 200);

    done(
        &users,
        &["passwd", "ann", "--password-stdin"],
        "battery staple",
    );
    done(&users, &["token", "ann", "ci", "--remove"], "");
    done(&users, &["remove", "root"], "");
    hang_up(&server, 2);
    assert_eq!(status_of(&server, &ann), WRONG);
    assert_eq!(status_of(&server, &bearer), WRONG);
    assert_eq!(status_of(&server, &root), WRONG);
    let ann = basic("ann", "battery staple");
    assert_eq!(status_of(&server, &ann), 200);

    // A broken file changes nothing, and says so.
    fs::write(&users, "[[user]]\nname = 'eve'\nrole = 'root'\n").unwrap();
    hang_up(&server, 3);
    server.wait_logged("cannot be read anew; what was in use stays in use", 1);
    assert_eq!(status_of(&server, &ann), 200);
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("users.toml: line 3: unknown variant"), "{log}");
}

#[test]
fn the_command_says_what_it_did_and_what_it_cannot() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("users.toml");
    let (code, out, error) = user(&file, &["list"], "");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        error.contains("make it with: kjob-server user add"),
        "{error}"
    );
    add(&file, "ann", "admin");
    let said = done(&file, &["role", "ann", "user"], "");
    assert!(
        said.starts_with("user ann is user; a running server"),
        "{said}"
    );
    assert_eq!(done(&file, &["list"], ""), "ann  user   password\n");
    for (arguments, stdin, code, words) in [
        (
            &["add", "ann", "--password-stdin"][..],
            PASSWORD,
            1,
            "there is a user ann already",
        ),
        (
            &["add", "bob", "--password-stdin"],
            "short",
            1,
            "the least is 8",
        ),
        (&["add", "a:b", "--no-password"], "", 2, "is no name"),
        (&["add", "anonymous", "--no-password"], "", 2, "reserved"),
        (
            &["add", "bob", "--role", "king", "--no-password"],
            "",
            2,
            "possible values: admin, user",
        ),
        (
            &["add", "bob", "--password", "secret12"],
            "",
            2,
            "unexpected argument '--password'",
        ),
        (&["remove", "bob"], "", 1, "there is no user bob"),
        (
            &["token", "ann", "ci", "--remove"],
            "",
            1,
            "no token \"ci\"",
        ),
        (&["passwd", "ann"], "", 1, "--password-stdin"),
    ] {
        let (found, _, error) = user(&file, arguments, stdin);
        assert_eq!(found, code, "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    let (code, _, error) = run(["user", "list"]);
    assert_eq!(code, 1);
    assert!(error.contains("users_file is not set"), "{error}");
}

#[test]
fn beyond_loopback_there_are_accounts_or_a_warning() {
    let anywhere = ["check", "--listen", "0.0.0.0:0"];
    let (code, _, error) = run(anywhere);
    assert_eq!(code, 2);
    for words in ["no loopback address", "users_file", "--insecure"] {
        assert!(error.contains(words), "{error}");
    }
    let dir = tempdir().unwrap();
    let users = dir.path().join("users.toml");
    add(&users, "root", "admin");
    let users = ["--users-file", users.to_str().unwrap()];
    let (code, _, error) = run(anywhere.iter().chain(&users));
    assert_eq!((code, error.as_str()), (0, ""));
    for (arguments, warning) in [
        (&["--insecure"][..], "INSECURE: there are no accounts"),
        (&users, "passwords and tokens can be read on the way"),
    ] {
        let mut command = program();
        command.args(["--listen", "0.0.0.0:0", "--demo=false", "--store", "memory"]);
        command.args(arguments);
        Running::spawn(command, &dir.path().join("log")).wait_logged(warning, 1);
    }
}

#[cfg(unix)]
#[test]
fn a_users_file_that_cannot_be_used_starts_no_server() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir().unwrap();
    let file = dir.path().join("users.toml");
    let data = dir.path().join("data");
    let serve = || {
        run([
            "--listen".as_ref(),
            "127.0.0.1:0".as_ref(),
            "--data-dir".as_ref(),
            data.as_os_str(),
            "--users-file".as_ref(),
            file.as_os_str(),
        ])
    };
    let (code, _, error) = serve();
    assert_eq!(code, 1);
    assert!(error.contains("users.toml is not there"), "{error}");
    add(&file, "ann", "user");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, error) = serve();
    assert_eq!(code, 1);
    assert!(
        error.contains("has the mode 644") && error.contains("chmod 600"),
        "{error}"
    );
}

/// A page whose name was made to lead to 127.0.0.1 meets a server without accounts, which would do
/// everything for it; one with accounts has them.
#[test]
fn without_accounts_other_names_than_loopback_are_refused() {
    let asked = |server: &Running, host: &str| {
        use std::io::Read as _;
        let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
        write!(
            stream,
            "POST /show/system/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let dir = tempdir().unwrap();
    let more = [
        "--allowed-hosts",
        "jobs.example.org",
        "--public-url",
        "http://told.example.org:1",
    ];
    let server = Running::start(&dir, &more);
    for (host, status) in [
        (server.address.as_str(), 200),
        ("jobs.example.org", 200),
        ("told.example.org:1", 200),
        ("evil.example", 403),
    ] {
        assert_eq!(asked(&server, host), status, "{host}");
    }
    let dir = tempdir().unwrap();
    let (server, _) = start(&dir, &[]);
    assert_eq!(asked(&server, "evil.example"), WRONG);
}
