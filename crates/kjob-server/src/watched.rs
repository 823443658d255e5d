//! A connection's stream, which notes what goes through it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::activity::Activity;
use crate::turn::{READ_COST, WRITE_MAX};

/// What clients of HTTP/2 send first (RFC 9113, section 3.4), as far as it takes to know it.
pub(crate) const PREFACE: &[u8] = b"PRI ";

/// How many pieces are written at once where all of them are too much.
const PIECES_MAX: usize = 8;

/// The first of the pieces, no more than so many bytes, the last of them in part: what stands before a large one,
/// such as the head of an answer, is to go along with it. And how many they are.
fn first_of<'a>(
    pieces: &'a [io::IoSlice<'a>],
    len_max: usize,
) -> ([io::IoSlice<'a>; PIECES_MAX], usize) {
    let mut first = [io::IoSlice::new(&[]); PIECES_MAX];
    let (mut left, mut count) = (len_max, 0);
    for (place, piece) in first.iter_mut().zip(pieces) {
        if left == 0 {
            break;
        }
        let part = piece.get(..left).unwrap_or(piece);
        *place = io::IoSlice::new(part);
        left -= part.len();
        count += 1;
    }
    (first, count)
}

/// Pieces of so many bytes or fewer are copied together: the system takes one piece faster than several.
const TOGETHER_MAX: usize = 2 << 10;

/// All pieces, copied together, where they are few bytes.
fn together(pieces: &[io::IoSlice<'_>], len: usize) -> Option<[u8; TOGETHER_MAX]> {
    if len > TOGETHER_MAX || pieces.len() < 2 {
        return None;
    }
    let mut all = [0; TOGETHER_MAX];
    let mut at = 0;
    for piece in pieces {
        let end = at + piece.len();
        all.get_mut(at..end)?.copy_from_slice(piece);
        at = end;
    }
    Some(all)
}

/// A stream that notes what it does.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    activity: Activity,
    /// Whether the last flush could not send all: TLS takes bytes before the socket does.
    is_flush_blocked: bool,
    /// How much of the preface has come; `None` once it is known whether it is one.
    preface: Option<usize>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, activity: Activity) -> Self {
        Self {
            stream,
            activity,
            is_flush_blocked: false,
            preface: Some(0),
        }
    }

    fn note_read(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.activity.turn().on_read(bytes.len());
        self.activity.on_read(bytes.len());
        let Some(seen) = self.preface else { return };
        let rest = PREFACE.get(seen..).unwrap_or_default();
        let is_alike = rest.iter().zip(bytes).all(|(wanted, byte)| wanted == byte);
        self.preface = (is_alike && bytes.len() < rest.len()).then_some(seen + bytes.len());
        if is_alike && self.preface.is_none() {
            self.activity.turn().set_framed();
        }
    }

    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        self.activity.on_write(written.is_pending());
        if let Poll::Ready(Ok(len)) = written {
            self.activity.turn().on_written(*len);
            self.activity.on_moved(*len);
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
        self.note_read(buf.filled().get(before..).unwrap_or_default());
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
        ready!(self.activity.turn().poll(0, context));
        let (first, count);
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let pieces = if len > WRITE_MAX {
            (first, count) = first_of(pieces, WRITE_MAX);
            &first[..count]
        } else {
            pieces
        };
        let stream = Pin::new(&mut self.stream);
        let written = match together(pieces, len) {
            Some(all) => stream.poll_write(context, all.get(..len).unwrap_or(&all)),
            None => stream.poll_write_vectored(context, pieces),
        };
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

    /// Gives what it has in pieces of so many bytes.
    struct Pieces(&'static [u8], usize);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self(bytes, len) = *self;
            let (piece, rest) = bytes.split_at(len.min(bytes.len()));
            buf.put_slice(piece);
            self.0 = rest;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn http2_is_known_by_its_first_bytes_however_they_come() {
        for (bytes, is_framed) in [
            (b"PRI * HTTP/2.0".as_slice(), true),
            (b"PRINT / HTTP/1.1", false),
            (b"PUT /x HTTP/1.1", false),
        ] {
            for len in 1..bytes.len() {
                let mut watched = Watched::new(Pieces(bytes, len), Activity::new());
                let mut room = [0; 100];
                let mut buf = ReadBuf::new(&mut room);
                while buf.filled().len() < bytes.len() {
                    watched.activity.turn().begin(std::time::Instant::now());
                    poll_fn(|context| Pin::new(&mut watched).poll_read(context, &mut buf))
                        .await
                        .unwrap();
                }
                let is_bounded = watched.activity.turn().read_max().is_some();
                assert_eq!(is_bounded, is_framed, "{bytes:?} in pieces of {len}");
            }
        }
    }

    #[test]
    fn a_head_goes_along_with_a_part_of_what_is_behind_it() {
        let body = vec![b'b'; 100];
        let pieces = [b"head".as_slice(), b"", &body, b"more"].map(io::IoSlice::new);
        let (first, count) = first_of(&pieces, 50);
        let lens: Vec<usize> = first[..count].iter().map(|piece| piece.len()).collect();
        assert_eq!(lens, [4, 0, 46]);
        let (first, count) = first_of(&pieces[2..], 50);
        assert_eq!((first[0].len(), count), (50, 1));
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
