//! A TCP proxy that loses replies: the request arrives, the answer does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Forwards bytes and cuts the connection when a reply to a marked request comes back.
///
/// The first so many of them are cut; later ones pass. The request has been answered by then, so
/// the server has done what was asked, and the client cannot know.
pub struct ReplyCutter {
    url: String,
    counts: Arc<Counts>,
    accepting: AbortHandle,
}

struct Counts {
    marker: &'static [u8],
    cuts: usize,
    requests: AtomicUsize,
    replies: AtomicUsize,
}

impl ReplyCutter {
    /// A proxy in front of `upstream` (a base URL) that cuts the first `cuts` replies to requests
    /// in whose bytes `marker` occurs.
    pub async fn start(upstream: &str, marker: &'static str, cuts: usize) -> Self {
        let upstream = upstream
            .strip_prefix("http://")
            .expect("an http URL")
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket"));
        let counts = Arc::new(Counts {
            marker: marker.as_bytes(),
            cuts,
            requests: AtomicUsize::new(0),
            replies: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&counts);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream)
                    .await
                    .expect("the server takes connections");
                tokio::spawn(serve(client, server, Arc::clone(&shared)));
            }
        });
        Self {
            url,
            counts,
            accepting: accepting.abort_handle(),
        }
    }

    /// The proxy's base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often the marker went by on its way to the server.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// How many replies were lost.
    pub fn replies_cut(&self) -> usize {
        self.counts
            .replies
            .load(Ordering::SeqCst)
            .min(self.counts.cuts)
    }
}

impl Drop for ReplyCutter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(client: TcpStream, server: TcpStream, counts: Arc<Counts>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Set while a marked request is under way on this connection.
    let marked = AtomicBool::new(false);
    // The first direction to end takes the other with it: dropping the halves closes both sockets.
    tokio::select! {
        () = copy_requests(from_client, to_server, &marked, &counts) => {}
        () = copy_replies(from_server, to_client, &marked, &counts) => {}
    }
}

async fn copy_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    marked: &AtomicBool,
    counts: &Counts,
) {
    // The end of the last chunk is kept, so that a marker cut in two is seen, and seen once.
    let mut window = Vec::new();
    let mut chunk = vec![0; 65536];
    while let Ok(len @ 1..) = from.read(&mut chunk).await {
        window.extend_from_slice(&chunk[..len]);
        let seen = window
            .windows(counts.marker.len())
            .filter(|part| *part == counts.marker)
            .count();
        if seen > 0 {
            counts.requests.fetch_add(seen, Ordering::SeqCst);
            marked.store(true, Ordering::SeqCst);
        }
        window.drain(..window.len().saturating_sub(counts.marker.len() - 1));
        if to.write_all(&chunk[..len]).await.is_err() {
            return;
        }
    }
}

async fn copy_replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    marked: &AtomicBool,
    counts: &Counts,
) {
    let mut chunk = vec![0; 65536];
    while let Ok(len @ 1..) = from.read(&mut chunk).await {
        if marked.swap(false, Ordering::SeqCst)
            && counts.replies.fetch_add(1, Ordering::SeqCst) < counts.cuts
        {
            return;
        }
        if to.write_all(&chunk[..len]).await.is_err() {
            return;
        }
    }
}
