//! What the service manager is told: systemd's protocol of readiness
//! (<https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>), a datagram of lines.
//!
//! The crate sd-notify has more, and unsafe code for that; this is all of it that a server needs.

use std::io;
#[cfg(target_os = "linux")]
use std::path::Path;

/// Where to, if somebody wants to be told: a path, or `@` and an abstract name.
#[cfg(target_os = "linux")]
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Requests are taken.
pub(crate) const READY: &str = "READY=1\nSTATUS=serving";

/// The server is on its way to its end, and has jobs that run.
pub(crate) fn stopping(running: usize) -> String {
    format!("STOPPING=1\nSTATUS=draining, {running} jobs were running")
}

/// Tells the service manager, if there is one. A server whose manager does not hear goes on.
pub(crate) fn tell(state: &str) {
    if let Err(error) = try_tell(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(target_os = "linux")]
fn try_tell(state: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let to = std::env::var_os(SOCKET_VARIABLE).filter(|to| !to.is_empty());
    let Some(to) = to else {
        return Ok(());
    };
    let to = match to.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(&to))?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read is not to hold up the signals that end the server.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &to)?;
    Ok(())
}

/// Other systems have managers of their own.
#[cfg(not(target_os = "linux"))]
fn try_tell(_: &str) -> io::Result<()> {
    Ok(())
}
