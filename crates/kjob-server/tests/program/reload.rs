//! SIGHUP, by which an operator makes the server read anew what can be.

use tempfile::tempdir;

use crate::support::Running;

/// Logs what it does; what is read anew has tests of its own.
#[test]
fn a_hangup_ends_nothing() {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &[]);
    for hangups in 1..=2 {
        server.signal("HUP");
        server.wait_logged("SIGHUP: reading anew", hangups);
        assert_eq!(server.get("/readyz").0, 200);
    }
    server.signal("TERM");
    let (status, _, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
}
