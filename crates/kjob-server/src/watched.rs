//! A connection's stream, which notes what goes through it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::activity::Activity;
use crate::turn::{READ_COST, WRITE_MAX};

/// What clients of HTTP/2 send first (RFC 9113, section 3.4), as far as it takes to know it.
const PREFACE: &[u8] = b"PRI ";

/// A stream that notes what it does.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    activity: Activity,
    /// Whether the last flush could not send all: TLS takes bytes before the socket does.
    is_flush_blocked: bool,
    has_begun: bool,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, activity: Activity) -> Self {
        Self {
            stream,
            activity,
            is_flush_blocked: false,
            has_begun: false,
        }
    }

    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        self.activity.on_write(written.is_pending());
        if let Poll::Ready(Ok(len)) = written {
            self.activity.turn().on_written(*len);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.activity.turn().poll(READ_COST, context));
        let before = buf.filled().len();
        match self.activity.turn().read_max() {
            Some(max) if max < buf.remaining() => {
                let mut part = ReadBuf::new(buf.initialize_unfilled_to(max));
                ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
                let len = part.filled().len();
                buf.advance(len);
            }
            _ => ready!(Pin::new(&mut self.stream).poll_read(context, buf))?,
        }
        if buf.filled().len() > before {
            if !self.has_begun {
                self.has_begun = true;
                if buf.filled().starts_with(PREFACE) {
                    self.activity.turn().set_framed();
                }
            }
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
        ready!(self.activity.turn().poll(0, context));
        let bytes = bytes.get(..WRITE_MAX).unwrap_or(bytes);
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() > WRITE_MAX {
            let first = pieces.iter().find(|piece| !piece.is_empty());
            return self.poll_write(context, first.map_or(&[], |piece| piece));
        }
        ready!(self.activity.turn().poll(0, context));
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.note_written(&written);
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
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::activity::{Due, Patience};

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
        let mut watched = Watched::new(Endless, Activity::new());
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
        let mut watched = Watched::new(Full, activity.clone());
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
