//! The program on a disk that really gets full: a small tmpfs where one may be mounted (as root), and
//! else a layer under the process that lets files grow by so much and no more.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kjob_client::{Cancel, Client, Job, List, Payload, Status, Submit, Submitted};
use tempfile::TempDir;

use crate::layer::{Errno, Layer, build};
use crate::support::{Running, program};

const SOON: Duration = Duration::from_secs(60);

/// Bytes of the small disk: the reserve, the store's files, and some more.
const DISK: u64 = 12 * 1024 * 1024;

/// Where the server keeps its data.
enum Disk {
    /// Unmounted when dropped.
    Mounted(PathBuf),
    Layered(Layer),
}

impl Disk {
    #[allow(
        clippy::print_stdout,
        reason = "which of the two it was is worth a line"
    )]
    fn make(home: &TempDir) -> Self {
        let path = home.path().join("disk");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "kjob-test"])
            .arg(&path)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Self::Mounted(path),
            other => {
                println!(
                    "nothing may be mounted here, so a layer is put under the server: {other:?}"
                );
                Self::Layered(Layer::make(home.path()))
            }
        }
    }

    fn data_dir(&self) -> PathBuf {
        match self {
            Self::Mounted(path) => path.join("data"),
            Self::Layered(layer) => layer.directory.join("data"),
        }
    }

    /// Leaves no room.
    fn fill(&self) {
        match self {
            Self::Mounted(path) => {
                let mut ballast = File::create(path.join("ballast")).unwrap();
                let mut piece = vec![7; 64 * 1024];
                while !piece.is_empty() {
                    if ballast.write_all(&piece).is_err() {
                        piece.truncate(piece.len() / 2);
                    }
                }
            }
            Self::Layered(layer) => layer.limit_room(0, Errno::Quota),
        }
    }

    fn make_room(&self) {
        match self {
            Self::Mounted(path) => fs::remove_file(path.join("ballast")).unwrap(),
            Self::Layered(layer) => layer.lift_limit(),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Mounted(path) = self {
            // Lazily: also where a test that failed left something open.
            let unmounted = Command::new("umount").arg("-l").arg(path).status();
            assert!(unmounted.is_ok_and(|status| status.success()));
        }
    }
}

/// A server with two workers, an endpoint that says what it is told, and two that say what somebody
/// writes into a pipe.
fn start(home: &TempDir, disk: &Disk) -> Running {
    let config = home.path().join("kjob.toml");
    let route = |endpoint: &str, command: &str| {
        format!("[[route]]\nendpoint = '{endpoint}'\nkind = 'command'\ncommand = [{command}]\n")
    };
    let mut routes = route("/echo", "'cat'");
    for name in ["one", "other"] {
        let pipe = home.path().join(name);
        routes += &route(&format!("/{name}"), &format!("'cat', '{}'", pipe.display()));
        if !pipe.exists() {
            assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }
    }
    fs::write(&config, routes).unwrap();
    let mut command = program();
    command
        .args(["--listen", "127.0.0.1:0", "--workers", "2", "--config"])
        .arg(config)
        .arg("--data-dir")
        .arg(disk.data_dir());
    if let Disk::Layered(layer) = disk {
        layer.put_under(&mut command, &build(home.path()), false);
    }
    Running::spawn(command, &home.path().join("log"))
}

/// A client that takes no for an answer.
fn client(server: &Running) -> Client {
    let url = format!("http://{}", server.address);
    Client::builder(&url).tries(1).build().unwrap()
}

fn to(endpoint: &'static str) -> Submit {
    Submit::new(endpoint, Payload::binary("hello"))
}

fn text(job: &Job) -> Option<&[u8]> {
    job.result.as_ref().map(|result| &*result.data)
}

/// Waits until a job runs, as others may wait for its place until then.
async fn runs(client: &Client, job: &Submitted) {
    let begin = Instant::now();
    while client.list(&List::default()).await.unwrap().jobs.is_empty() {
        assert!(begin.elapsed() < SOON);
    }
    assert_eq!(client.get(job).await.unwrap().status, Status::Running);
}

/// Submits until it is refused, as there may be room for a few; gives those that were taken.
async fn submit_until_full(client: &Client) -> Vec<Submitted> {
    let mut taken = Vec::new();
    loop {
        match client.submit(&to("/echo")).await {
            Ok(job) => taken.push(job),
            Err(error) => {
                assert_eq!(
                    error.status().map(|status| status.as_u16()),
                    Some(429),
                    "{error}"
                );
                assert_eq!(error.message(), Some("the store is out of space"));
                return taken;
            }
        }
        assert!(taken.len() < 1_000, "it never gets full");
    }
}

/// The head of the answer to a submit over a bare socket.
fn submit_head(server: &Running) -> String {
    use std::io::Read;
    let body = r#"{"endpoint":"/echo","payload":"hello"}"#;
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    let len = body.len();
    write!(
        stream,
        "POST /jobs HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.split_once("\r\n\r\n").unwrap().0.to_lowercase()
}

fn reserve(disk: &Disk) -> u64 {
    let reserve = fs::metadata(disk.data_dir().join("RESERVE"));
    reserve.map_or(0, |file| file.len())
}

#[tokio::test]
async fn on_a_full_disk_all_goes_on_but_submits_until_there_is_room() {
    let home = tempfile::tempdir().unwrap();
    let disk = Disk::make(&home);
    let server = start(&home, &disk);
    let client = client(&server);
    assert_eq!(reserve(&disk), 4 * 1024 * 1024);
    let done = client.submit(&to("/echo")).await.unwrap();
    client.wait(&done, SOON).await.unwrap();
    let ends = client.submit(&to("/one")).await.unwrap();
    let cancelled = client.submit(&to("/other")).await.unwrap();
    let queued = client.submit(&to("/echo")).await.unwrap();
    let waits = client.submit(&to("/echo")).await.unwrap();
    runs(&client, &ends).await;

    disk.fill();
    let mut taken = submit_until_full(&client).await;
    let head = submit_head(&server);
    assert!(
        head.starts_with("http/1.0 429") || head.starts_with("http/1.1 429"),
        "{head}"
    );
    assert!(head.contains("\r\nretry-after: "), "{head}");
    server.wait_logged("the disk of the data directory is full", 1);
    // A full disk is no reason to send everyone elsewhere.
    assert_eq!(server.get("/readyz").0, 200);

    let found = client.get(&done).await.unwrap();
    assert_eq!(
        (&found.status, text(&found)),
        (&Status::Done, Some(&b"hello"[..]))
    );
    let all = client.list(&List::default().with_ended()).await.unwrap();
    assert_eq!(all.jobs.len(), 5 + taken.len());
    assert_eq!(client.cancel(&queued).await.unwrap(), Cancel::Cancelled);
    client.cancel(&cancelled).await.unwrap();
    let ended = client.wait(&cancelled, SOON).await.unwrap();
    assert_eq!(ended.status, Status::Cancelled);
    // Its place goes to one that waited: that is started, and ends, on the full disk.
    let ended = client.wait(&waits, SOON).await.unwrap();
    assert_eq!(
        (&ended.status, text(&ended)),
        (&Status::Done, Some(&b"hello"[..]))
    );
    let gate = home.path().join("one");
    let told = tokio::task::spawn_blocking(move || fs::write(gate, "the end")).await;
    told.unwrap().unwrap();
    let ended = client.wait(&ends, SOON).await.unwrap();
    assert_eq!(
        (&ended.status, text(&ended)),
        (&Status::Done, Some(&b"the end"[..]))
    );
    assert_eq!(reserve(&disk), 0, "it went on without its reserve");
    assert!(submit_until_full(&client).await.is_empty());

    disk.make_room();
    let begin = Instant::now();
    let again = loop {
        match client.submit(&to("/echo")).await {
            Ok(again) => break again,
            Err(error) => assert!(error.is_busy() && begin.elapsed() < SOON, "{error}"),
        }
    };
    assert_eq!(
        client.wait(&again, SOON).await.unwrap().status,
        Status::Done
    );
    server.wait_logged("there is room on the disk again", 1);
    assert_eq!(reserve(&disk), 4 * 1024 * 1024);
    server.signal("TERM");
    let (_, _, log) = server.end();
    assert_eq!(
        log.matches("the disk of the data directory is full")
            .count(),
        1,
        "{log}"
    );
    assert_eq!(
        log.matches("there is room on the disk again").count(),
        1,
        "{log}"
    );

    let server = start(&home, &disk);
    let client = self::client(&server);
    taken.extend([done, waits, again]);
    for job in &taken {
        let found = client.wait(job, SOON).await.unwrap();
        assert_eq!(
            (&found.status, text(&found)),
            (&Status::Done, Some(&b"hello"[..]))
        );
    }
    let found = client.get(&ends).await.unwrap();
    assert_eq!(
        (&found.status, text(&found)),
        (&Status::Done, Some(&b"the end"[..]))
    );
    for job in [&queued, &cancelled] {
        assert_eq!(client.get(job).await.unwrap().status, Status::Cancelled);
    }
}
