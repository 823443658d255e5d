//! Routes of the config file, and what a reload makes of them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use kjob_client::{Client, Payload, Submit};
use tempfile::{TempDir, tempdir};

use crate::support::{Running, has, program, read_all, run, without_settings};

const WC: &str = "[[route]]\nendpoint = '/tools/wc'\nkind = 'command'\ncommand = ['wc', '-c']\n";

fn config(dir: &TempDir, text: &str) -> String {
    let path = dir.path().join("kjob.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn call(client: &Client, endpoint: &'static str) -> Result<String, String> {
    let submit = Submit::new(endpoint, Payload::binary("hello"));
    let submitted = client.submit(&submit).await;
    let submitted = submitted.map_err(|error| error.to_string())?;
    let job = client
        .wait(&submitted, Duration::from_secs(60))
        .await
        .unwrap();
    match job.result {
        Some(result) => Ok(String::from_utf8(result.data.to_vec()).unwrap()),
        None => Err(job.error_message.unwrap().to_string()),
    }
}

#[test]
fn check_prints_routes_without_secrets_and_names_mistakes() {
    let dir = tempdir().unwrap();
    let good = format!(
        "{WC}env = {{ A = 'hush' }}\n[[route]]\nendpoint = '/x'\nkind = 'http'\nupstream = 'http://127.0.0.1:1'\ntoken = '${{PATH}}'\n"
    );
    let path = config(&dir, &good);
    let (code, out, err) = run(["check", "--config", &path]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("[[route]]  # config file, line 1\n"), "{out}");
    assert!(out.contains("command = ['wc', '-c']\n"), "{out}");
    assert!(out.contains("token = \"${PATH}\"\n"), "{out}");
    assert!(!out.contains("hush"), "{out}");

    for (text, told) in [
        (format!("{WC}{WC}"), "kjob.toml:6: endpoint pattern \"/tools/wc\" is routed twice"),
        (format!("{WC}dir = '/'"), "kjob.toml:5: unknown key \"dir\""),
        (
            "demo = true\n[[route]]\nendpoint = '/demo/echo'\nkind = 'command'\ncommand = ['x']".to_owned(),
            "endpoint pattern \"/demo/echo\" is routed twice",
        ),
        (
            "[[route]]\nendpoint = '/x'\nkind = 'http'\nupstream = 'https://h'\nca_file = '/no/such'".to_owned(),
            "route \"/x\": ca_file /no/such: ",
        ),
    ] {
        let path = config(&dir, &text);
        let (code, _, err) = run(["check", "--config", &path]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(told), "{err}\nhas no\n{told}");
    }
}

#[tokio::test]
async fn a_hangup_replaces_routes_while_jobs_wait() {
    let dir = tempdir().unwrap();
    let path = config(&dir, WC);
    let server = Running::start(&dir, &["--config", &path]);
    let client = server.client();
    assert_eq!(call(&client, "/tools/wc").await.unwrap(), "5\n");

    let cat = "[[route]]\nendpoint = '/tools/*'\nkind = 'command'\ncommand = ['cat']\n";
    config(&dir, cat);
    server.signal("HUP");
    server.wait_logged("read anew", 1);
    assert_eq!(call(&client, "/tools/wc").await.unwrap(), "hello");

    // What is broken changes nothing, and is named.
    config(&dir, "[[route]]\nendpoint = '/tools/*'\nkind = 'command'\n");
    server.signal("HUP");
    server.wait_logged("kjob.toml:1: the route has no command", 1);
    assert_eq!(call(&client, "/tools/wc").await.unwrap(), "hello");

    config(&dir, "");
    server.signal("HUP");
    server.wait_logged("read anew", 3);
    let refused = call(&client, "/tools/wc").await.unwrap_err();
    assert!(refused.contains("is not served here"), "{refused}");
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// An upgrade puts another file in the place of the program that runs.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn commands_are_started_after_the_programs_file_was_replaced() {
    let dir = tempdir().unwrap();
    let path = config(&dir, WC);
    let copy = dir.path().join("kjob-server");
    // By another process: a child that a test forks meanwhile would hold the file open for writing.
    let mut cp = Command::new("cp");
    let copied = cp.arg(program().get_program()).arg(&copy).status();
    assert!(copied.unwrap().success());
    let mut command = without_settings(&copy);
    command.args(["--listen", "127.0.0.1:0", "--config", &path, "--data-dir"]);
    command.arg(dir.path().join("data"));
    let server = Running::spawn(command, &dir.path().join("log"));
    let client = server.client();
    assert_eq!(call(&client, "/tools/wc").await.unwrap(), "5\n");
    fs::remove_file(&copy).unwrap();
    assert_eq!(call(&client, "/tools/wc").await.unwrap(), "5\n");
    fs::write(&copy, "another").unwrap();
    assert_eq!(call(&client, "/tools/wc").await.unwrap(), "5\n");
}

/// A server that is killed can end nothing itself.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_does_not_outlive_a_server_that_is_killed() {
    let dir = tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 1000", pid_file.display());
    let text = format!(
        "[[route]]\nendpoint = '/sleep'\nkind = 'command'\ncommand = ['sh', '-c', '{script}']\n"
    );
    let path = config(&dir, &text);
    let server = Running::start(&dir, &["--config", &path]);
    let submit = Submit::new("/sleep", Payload::binary(""));
    server.client().submit(&submit).await.unwrap();
    let pid = until("the command's pid", || {
        let pid = fs::read_to_string(&pid_file).ok()?;
        pid.ends_with('\n').then(|| pid.trim().to_owned())
    })
    .await;
    server.signal("KILL");
    drop(server);
    until("the end of the command", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        let state = stat.ok().map(|stat| stat.contains(") Z"));
        state.unwrap_or(true).then_some(())
    })
    .await;
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), wait).await;
    found.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Only the server itself starts commands by the hidden word.
#[test]
fn the_hidden_word_is_of_no_use_to_others() {
    let output = program()
        .args(["__launch-command", "1", "-,-,-,-", "echo", "hello"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(output.stdout.is_empty());
}

/// Of one's own headers those that the route names, and the secrets of the config by reference.
#[tokio::test]
async fn headers_of_submits_are_passed_on_and_kept_nowhere() {
    use std::io::{Read, Write};
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1);
            request.push(byte[0]);
        }
        let reply = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(reply.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    let dir = tempdir().unwrap();
    let text = format!(
        "[[route]]\nendpoint = '/kept-endpoint'\nkind = 'http'\nupstream = '{url}'\nforward_headers = ['Authorization', 'X-Own']\nheaders = {{ x-key = '${{TEST_KEY}}', x-own = 'default' }}\n"
    );
    let path = config(&dir, &text);
    let mut command = program();
    command
        .args([
            "--listen",
            "127.0.0.1:0",
            "--log",
            "trace",
            "--config",
            &path,
        ])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .env("TEST_KEY", "hush-config");
    let server = Running::spawn(command, &dir.path().join("log"));
    let client = Client::builder(server.url.as_str())
        .basic("ann", "hush-caller")
        .build();
    let submitted = client
        .unwrap()
        .submit(&Submit::new("/kept-endpoint", Payload::binary("")))
        .await
        .unwrap();
    let asked = answering.join().unwrap();
    server
        .client()
        .wait(&submitted, Duration::from_secs(60))
        .await
        .unwrap();
    // Base64 of ann:hush-caller.
    for line in [
        "authorization: Basic YW5uOmh1c2gtY2FsbGVy\r\n",
        "x-key: hush-config\r\n",
        "x-own: default\r\n",
    ] {
        assert!(asked.contains(line), "{asked}");
    }
    server.signal("TERM");
    let (_, _, log) = server.end();
    let mut written = vec![("log".to_owned(), log.into_bytes())];
    read_all(&dir.path().join("data"), &mut written);
    let mut stored = written[1..].iter();
    assert!(
        stored.any(|(_, bytes)| has(bytes, "/kept-endpoint")),
        "the job itself is kept"
    );
    for secret in ["hush", "YW5uOmh1c2gtY2FsbGVy"] {
        for (name, bytes) in &written {
            assert!(!has(bytes, secret), "{secret} is in {name}");
        }
    }
}
