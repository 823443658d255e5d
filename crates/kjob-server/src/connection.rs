//! One connection, from accept to end.

use std::future::{Future, poll_fn, ready};
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{self, Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::ServerOptions;
use crate::activity::{Activity, Due, Patience};
use crate::latch::Latch;
use crate::load::Overrun;
use crate::pace::{LongTurns, Pace, Streams, paced};
use crate::reply::ReplyBody;
use crate::service::{Peer, Service};
use crate::tls::{self, Tls};
use crate::watched::{PREFACE, Watched};

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

/// How connections are served.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    service: Arc<Service>,
    tls: Option<Tls>,
    /// Finds out what the client speaks by reading its first bytes. These then are all that hyper's first read has, which is
    /// no whole head, so that it doubles its buffer, once for each connection.
    either: auto::Builder<TokioExecutor>,
    /// For HTTP/1 that is known to be so.
    http1: auto::Builder<TokioExecutor>,
    patience: Patience,
    long_turns: LongTurns,
    /// Those of TLS handshakes, which wait for each other and for nobody else.
    handshakes: LongTurns,
    stopping: Latch,
    cutting: Latch,
}

impl Connector {
    /// `stopping` ends connections politely, `cutting` at once.
    pub(crate) fn new(
        service: Arc<Service>,
        options: &ServerOptions,
        stopping: Latch,
        cutting: Latch,
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
            http1: builder.clone().http1_only(),
            either: builder,
            long_turns: LongTurns::new(threads()),
            handshakes: LongTurns::new(threads()),
            patience: Patience {
                head: options.header_timeout,
                keep_alive: options.keep_alive_timeout,
                write: options.write_timeout,
            },
            stopping,
            cutting,
        }
    }

    /// The same for connections that have this runtime's threads for themselves.
    pub(crate) fn for_runtime(&self, runtime: &Handle) -> Self {
        let threads = runtime.metrics().num_workers();
        Self {
            long_turns: LongTurns::new(threads),
            handshakes: LongTurns::new(threads),
            ..self.clone()
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
        let Some((stream, builder)) = self.begin(stream, peer, &activity, head_end).await else {
            return;
        };
        let io = TokioIo::new(Watched::new(stream, activity.clone()));
        let calls = Calls {
            service: self.service.clone(),
            peer: Peer {
                ip: peer.ip(),
                activity: activity.clone(),
            },
            long_turns: self.long_turns.clone(),
            streams: OnceLock::new(),
        };
        let mut connection = pin!(builder.serve_connection(io, calls));
        let mut timer = pin!(sleep_until(head_end));
        let mut pace = Pace::new(&self.long_turns);
        let mut is_ending = false;
        let mut cut_at = Instant::now();
        loop {
            let is_to_end = tokio::select! {
                biased;
                () = self.cutting.wait() => break,
                ended = poll_fn(|context| {
                    let begun = pace.poll_begin(context);
                    activity.set_in_line(begun.is_pending());
                    let began = task::ready!(begun);
                    activity.begin_turn(began);
                    let polled = connection.as_mut().poll(context);
                    activity.end_turn(pace.end(context));
                    activity.set_long_turns(pace.is_long());
                    polled
                }) => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error, "connection ended early");
                    }
                    break;
                }
                () = self.stopping.wait(), if !is_ending => true,
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
                        false
                    }
                    Due::Idle => true,
                    Due::Later(at) => {
                        timer.as_mut().reset(at);
                        false
                    }
                },
            };
            if is_to_end {
                is_ending = true;
                cut_at = Instant::now() + self.patience.write;
                // What has come until the end is answered, however long the others take.
                pace.set_free();
                connection.as_mut().graceful_shutdown();
                timer.as_mut().reset(Instant::now() + LAST_LOOKS_EVERY);
            }
        }
    }

    /// Shakes hands where TLS is spoken, and waits for the first bytes where it is not, either of which has to be over before
    /// `end`. Gives what is to serve it then.
    async fn begin(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        activity: &Activity,
        end: Instant,
    ) -> Option<(Stream, &auto::Builder<TokioExecutor>)> {
        let Some(tls) = &self.tls else {
            let is_http1 = tokio::select! {
                biased;
                () = self.cutting.wait() => return None,
                is_http1 = timeout_at(end, is_http1(&stream)) => is_http1.ok()?,
                // What has come until the end is answered, or is about to come.
                () = self.stopping.wait() => timeout(LAST_LOOKS_EVERY, is_http1(&stream)).await.ok()?,
            };
            let builder = if is_http1? { &self.http1 } else { &self.either };
            return Some((Either::Left(stream), builder));
        };
        // In a box of its own: a connection is to take the memory of what it is once it has begun, which is a quarter.
        let accept = Box::pin(async {
            let hello = tls::Hello::hear(stream).await?;
            // What a client of TLS says goes to and fro before there is a request.
            activity.on_spoken();
            // A signature is the most that a stranger can ask for.
            paced(Pace::of_long(&self.handshakes), hello.answer(tls)).await
        });
        let shaken = tokio::select! {
            biased;
            () = self.cutting.wait() => return None,
            // Nothing was asked yet.
            () = self.stopping.wait() => return None,
            shaken = timeout_at(end, accept) => shaken,
        };
        match shaken {
            Ok(Ok(shaken)) => Some((Either::Right(shaken?), &self.either)),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                if is_about_certificate(&error) {
                    self.service.access().refused_certificate(peer.ip()).await;
                }
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "TLS handshake took too long");
                None
            }
        }
    }
}

/// Whether the first bytes that come can only be HTTP/1; `None` if none come.
async fn is_http1(stream: &TcpStream) -> Option<bool> {
    let mut first = [0; PREFACE.len()];
    let len = stream.peek(&mut first).await.ok()?;
    (len > 0).then(|| !PREFACE.starts_with(&first[..len]))
}

/// Whether a handshake failed as the client showed no certificate, or none that is taken. Nothing else is
/// told: whoever scans ports speaks no TLS at all.
fn is_about_certificate(error: &io::Error) -> bool {
    use rustls::Error::{InvalidCertificate, NoCertificatesPresented};
    let error = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(NoCertificatesPresented | InvalidCertificate(_)))
}

/// How many threads do the work of connections.
fn threads() -> usize {
    match Handle::try_current() {
        Ok(runtime) => runtime.metrics().num_workers(),
        Err(_) => std::thread::available_parallelism().map_or(1, NonZero::get),
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
    long_turns: LongTurns,
    /// Made for the first request that comes beside another.
    streams: OnceLock<Streams>,
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<ReplyBody>;
    type Error = Overrun;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Overrun>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (service, peer) = (self.service.clone(), self.peer.clone());
        let is_http2 = request.version() == Version::HTTP_2;
        // It counts from here on, however long it waits for its turn.
        let arrived = match service.arrive(is_http2, &peer) {
            Ok(arrived) => arrived,
            Err(overrun) => return Box::pin(ready(Err(overrun))),
        };
        if arrived.is_alone() {
            return Box::pin(async move {
                peer.activity.turn().ask().await;
                Ok(service.answer(request, peer, arrived).await)
            });
        }
        // HTTP/2 may bring a thousand at once, and each is a task.
        peer.activity.turn().on_request();
        let streams = self.streams.get_or_init(|| Streams::new(threads()));
        let pace = Pace::of_many(&self.long_turns, streams);
        let is_over = arrived.is_over();
        let mut answer = Box::pin(service.answer(request, peer, arrived));
        // To refuse one is to be a part of the turn of who brings too many, and to keep nothing that waits.
        // Where it is not refused after all, it is looked at again in its own turn.
        if is_over
            && let Poll::Ready(refused) = answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        {
            return Box::pin(ready(Ok(refused)));
        }
        Box::pin(async move { Ok(paced(pace, answer).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::size;

    /// There may be tens of thousands.
    #[test]
    fn a_connection_is_small() {
        let serve = size(Connector::serve);
        assert!(serve <= 2560, "{serve} bytes");
    }
}
