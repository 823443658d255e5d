//! What a service manager is told.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tempfile::{TempDir, tempdir};

use crate::support::{Running, program};

/// A server that tells its manager at this address.
fn start(dir: &TempDir, manager: &str) -> Running {
    let mut command = program();
    command
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .env("NOTIFY_SOCKET", manager);
    Running::spawn(command, &dir.path().join("log"))
}

fn heard(socket: &UnixDatagram) -> String {
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn a_manager_is_told_when_the_server_is_ready_and_when_it_drains() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let server = start(&dir, path.to_str().unwrap());
    assert_eq!(heard(&socket), "READY=1\nSTATUS=serving");
    server.signal("TERM");
    assert_eq!(
        heard(&socket),
        "STOPPING=1\nSTATUS=draining, 0 jobs were running"
    );
    assert!(server.end().0.success());
}

#[test]
fn a_manager_may_listen_at_an_abstract_name() {
    let dir = tempdir().unwrap();
    let name = format!("kjob-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let _server = start(&dir, &format!("@{name}"));
    assert!(heard(&socket).starts_with("READY=1\n"));
}

#[test]
fn a_manager_that_is_gone_is_in_nobodys_way() {
    let dir = tempdir().unwrap();
    let server = start(&dir, "/no/such/socket");
    server.wait_logged("the service manager cannot be told", 1);
    assert_eq!(server.get("/readyz").0, 200);
}

#[test]
fn a_manager_that_does_not_read_keeps_no_signal_from_the_server() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("notify");
    let _deaf = UnixDatagram::bind(&path).unwrap();
    let before = UnixDatagram::unbound().unwrap();
    before.set_nonblocking(true).unwrap();
    while before.send_to(b"STATUS=", &path).is_ok() {}
    let server = start(&dir, path.to_str().unwrap());
    server.wait_logged("the service manager cannot be told", 1);
    server.signal("TERM");
    assert!(server.end().0.success());
}
