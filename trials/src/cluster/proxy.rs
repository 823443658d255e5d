//! A way to a database that can be cut, blocked and slowed down.

use std::io;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// All goes through.
    Open,
    /// Connections are cut, and new ones refused.
    Cut,
    /// Connections stay, and nothing comes through: whoever waits hears nothing.
    Blocked,
    /// Each piece comes so much later.
    Slow(Duration),
}

/// Where a way leads, and how it is.
#[derive(Clone, Copy, Debug)]
struct State {
    way: Way,
    /// The port; `None` if nobody is there.
    to: Option<u16>,
}

/// A port that leads to another one; gone when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, seen) = watch::channel(State {
            way: Way::Open,
            to: None,
        });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, seen)));
        Ok(Self {
            port,
            state,
            _accepting: accepting,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set_way(&self, way: Way) {
        self.state.send_modify(|state| state.way = way);
    }

    /// Connections that were made before stay where they lead.
    pub(crate) fn lead_to(&self, to: Option<u16>) {
        self.state.send_modify(|state| state.to = to);
    }
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>) {
    loop {
        // One that was gone before we looked is nobody's loss.
        if let Ok((client, _)) = listener.accept().await {
            tokio::spawn(connect(client, state.clone()));
        }
    }
}

async fn connect(client: TcpStream, mut state: watch::Receiver<State>) {
    let open = state.wait_for(|state| state.way != Way::Blocked).await;
    let Ok(State { way, to: Some(to) }) = open.map(|state| *state) else {
        return;
    };
    if way == Way::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
        return;
    };
    // As those who speak through it set it.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (state.clone(), state.clone());
    let cut = async {
        let _ = state.wait_for(|state| state.way == Way::Cut).await;
    };
    // Whichever ends first ends both, as a cut does.
    tokio::select! {
        _ = pass(from_client, to_server, up) => {}
        _ = pass(from_server, to_client, down) => {}
        () = cut => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let len = from.read(&mut piece).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        let open = state.wait_for(|state| state.way != Way::Blocked).await;
        let way = open.map_err(io::Error::other)?.way;
        if let Way::Slow(by) = way {
            tokio::time::sleep(by).await;
        }
        to.write_all(piece.get(..len).unwrap_or_default()).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that gives back what it is sent.
    async fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn says(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn what_is_blocked_comes_later_and_what_is_cut_never() {
        let proxy = Proxy::start().await.unwrap();
        let address = ("127.0.0.1", proxy.port());
        let mut nowhere = TcpStream::connect(address).await.unwrap();
        assert!(says(&mut nowhere).await.is_err());
        proxy.lead_to(Some(echo().await));
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(says(&mut stream).await.unwrap(), b'x');
        proxy.set_way(Way::Blocked);
        stream.write_all(b"y").await.unwrap();
        let mut said = [0];
        let soon = Duration::from_millis(50);
        let read = tokio::time::timeout(soon, stream.read_exact(&mut said)).await;
        assert!(read.is_err());
        proxy.set_way(Way::Slow(Duration::from_millis(1)));
        assert_eq!(stream.read_u8().await.unwrap(), b'y');
        proxy.set_way(Way::Cut);
        assert!(says(&mut stream).await.is_err());
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert!(says(&mut refused).await.is_err());
        proxy.set_way(Way::Open);
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(says(&mut stream).await.unwrap(), b'x');
    }
}
