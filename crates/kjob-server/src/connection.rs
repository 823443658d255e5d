//! One connection, from accept to end.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::ServerOptions;
use crate::activity::{Activity, Due, Patience};
use crate::load::Overrun;
use crate::reply::ReplyBody;
use crate::service::{Peer, Service};
use crate::tls::{self, Tls};

/// Once a connection is to end, how often to look whether it does something still.
const LAST_LOOKS_EVERY: Duration = Duration::from_millis(20);

/// How often an HTTP/2 client with calls in progress is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// HTTP/2 calls of one connection at a time. Long polls take one each.
const STREAMS_MAX: u32 = 1024;

/// How much of a body HTTP/2 may send before it is told to go on.
const STREAM_WINDOW: u32 = 1 << 20;

/// How much of its turn a read takes: with four of them it is used up. The runtime's own measure, 128 reads,
/// lets a connection work off a mebibyte of small HTTP/2 frames at a time, while all others wait.
const READ_COST: u32 = 32;

/// How much of it a request takes. Those that were pipelined are there at once, and would all be answered
/// while others wait. With the read before it and the one after, a request alone still fits one turn.
const REQUEST_COST: u32 = 24;

/// How connections are served.
#[derive(Debug)]
pub(crate) struct Connector {
    service: Arc<Service>,
    tls: Option<Tls>,
    builder: auto::Builder<TokioExecutor>,
    patience: Patience,
    stopping: CancellationToken,
    cutting: CancellationToken,
}

impl Connector {
    /// `stopping` ends connections politely, `cutting` at once.
    pub(crate) fn new(
        service: Arc<Service>,
        options: &ServerOptions,
        stopping: CancellationToken,
        cutting: CancellationToken,
    ) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // Ours tells a head that comes slowly from a connection that rests.
            .header_read_timeout(None)
            .max_buf_size(options.max_header_bytes.max(HEADER_BYTES_MIN))
            .writev(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            // Finds out about clients that are gone while a long poll waits.
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(4 * STREAM_WINDOW)
            .max_header_list_size(u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX));
        Self {
            service,
            tls: None,
            builder,
            patience: Patience {
                head: options.header_timeout,
                keep_alive: options.keep_alive_timeout,
                write: options.write_timeout,
            },
            stopping,
            cutting,
        }
    }

    /// From now on connections speak TLS.
    pub(crate) fn use_tls(&mut self, tls: Tls) {
        self.tls = Some(tls);
    }

    /// Serves a connection to its end. What it does is noted in `activity`.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        activity: Activity,
    ) {
        let head_end = Instant::now() + self.patience.head;
        let Some(stream) = self.begin(stream, peer, head_end).await else {
            return;
        };
        let io = TokioIo::new(Watched {
            stream,
            activity: activity.clone(),
            is_flush_blocked: false,
        });
        let calls = Calls {
            service: self.service.clone(),
            peer: Peer {
                ip: peer.ip(),
                activity: activity.clone(),
            },
        };
        let mut connection = pin!(self.builder.serve_connection(io, calls));
        let mut timer = pin!(sleep_until(head_end));
        let mut is_ending = false;
        let mut cut_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.cutting.cancelled() => break,
                ended = poll_fn(|context| {
                    activity.begin_turn();
                    connection.as_mut().poll(context)
                }) => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error, "connection ended early");
                    }
                    break;
                }
                () = self.stopping.cancelled(), if !is_ending => {
                    is_ending = true;
                    cut_at = Instant::now() + self.patience.write;
                    connection.as_mut().graceful_shutdown();
                    timer.as_mut().reset(Instant::now() + LAST_LOOKS_EVERY);
                }
                () = timer.as_mut() => match activity.due(&self.patience) {
                    Due::Stuck => {
                        tracing::debug!(%peer, "connection is stuck, and cut");
                        break;
                    }
                    // HTTP/1 that rests does not end by itself if it never had a request. HTTP/2 does,
                    // once it has sent what it keeps until the client takes it.
                    _ if is_ending
                        && activity.is_quiet()
                        && (!activity.is_http2() || Instant::now() >= cut_at) =>
                    {
                        break;
                    }
                    _ if is_ending => {
                        timer.as_mut().reset(Instant::now() + LAST_LOOKS_EVERY);
                    }
                    Due::Idle => {
                        is_ending = true;
                        cut_at = Instant::now() + self.patience.write;
                        connection.as_mut().graceful_shutdown();
                        timer.as_mut().reset(Instant::now() + LAST_LOOKS_EVERY);
                    }
                    Due::Later(at) => timer.as_mut().reset(at),
                },
            }
        }
    }

    /// Shakes hands where TLS is spoken, which has to be over before `end`.
    async fn begin(&self, stream: TcpStream, peer: SocketAddr, end: Instant) -> Option<Stream> {
        let Some(tls) = &self.tls else {
            return Some(Either::Left(stream));
        };
        let shaken = tokio::select! {
            biased;
            () = self.cutting.cancelled() => return None,
            // Nothing was asked yet.
            () = self.stopping.cancelled() => return None,
            shaken = timeout_at(end, tls::accept(tls, stream)) => shaken,
        };
        match shaken {
            Ok(Ok(shaken)) => shaken.map(Either::Right),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "TLS handshake took too long");
                None
            }
        }
    }
}

/// What a connection is made of. TLS has some kilobytes of state, which plain ones need not pay for.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// hyper takes no smaller buffer.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// The service as one connection sees it.
#[derive(Debug)]
struct Calls {
    service: Arc<Service>,
    peer: Peer,
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<ReplyBody>;
    type Error = Overrun;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Overrun>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (service, peer) = (self.service.clone(), self.peer.clone());
        Box::pin(async move {
            poll_fn(|context| peer.activity.poll_turn(REQUEST_COST, context)).await;
            service.answer(request, peer).await
        })
    }
}

/// A stream that notes what it does.
#[derive(Debug)]
struct Watched<S> {
    stream: S,
    activity: Activity,
    /// Whether the last flush could not send all: TLS takes bytes before the socket does.
    is_flush_blocked: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.activity.poll_turn(READ_COST, context));
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        if buf.filled().len() > before {
            self.activity.on_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.on_write(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.activity.on_write(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_pending() || self.is_flush_blocked {
            self.is_flush_blocked = flushed.is_pending();
            self.activity.on_write(flushed.is_pending());
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Takes bytes, and can send none of them on: as TLS does while the socket is full.
    struct Full;

    impl AsyncWrite for Full {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// A stream that always has something to read.
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(b"x");
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_without_end_lets_others_have_their_turns() {
        let mut watched = Watched {
            stream: Endless,
            activity: Activity::new(),
            is_flush_blocked: false,
        };
        let reads = tokio::spawn(poll_fn(move |context| {
            let mut reads = 0;
            let mut room = [0; 1000];
            let mut buf = ReadBuf::new(&mut room);
            while reads < 1000
                && Pin::new(&mut watched)
                    .poll_read(context, &mut buf)
                    .is_ready()
            {
                reads += 1;
            }
            Poll::Ready(reads)
        }));
        let reads = reads.await.unwrap();
        assert!((1..=8).contains(&reads), "{reads} in one turn");
    }

    /// Bytes that TLS has taken and cannot send count as not taken.
    #[tokio::test(start_paused = true)]
    async fn a_flush_that_is_held_up_counts_as_blocked() {
        let patience = Patience {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            write: Duration::from_secs(30),
        };
        let activity = Activity::new();
        drop(activity.begin_request(false));
        let mut watched = Watched {
            stream: Full,
            activity: activity.clone(),
            is_flush_blocked: false,
        };
        poll_fn(|context| {
            let written = Pin::new(&mut watched).poll_write(context, b"answer");
            assert!(written.is_ready());
            assert!(activity.is_quiet());
            assert!(Pin::new(&mut watched).poll_flush(context).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(!activity.is_quiet());
        advance(patience.write).await;
        assert_eq!(activity.due(&patience), Due::Stuck);
    }
}
