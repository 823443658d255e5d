//! Request bodies: read whole, within bounds of size, time and memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::budget::{Budget, Held, OverBudget, UNCOUNTED_MAX};
use crate::outbound::with_sources;

/// The first buffer for a body, at most. A client that announces more has to send it first: the
/// buffer then grows, [`GROWTH`]-fold at a time.
const FIRST_CAPACITY_MAX: usize = 1 << 20;

/// How much a buffer grows by when it is full. A large factor, since what was not written to costs no
/// memory, while what was written may have to be copied.
const GROWTH: usize = 8;

/// Bounds of reading a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyBounds {
    /// Bytes.
    pub(crate) len_max: usize,
    /// Time for all of it.
    pub(crate) time_max: Duration,
    /// Time without any of it.
    pub(crate) idle_max: Duration,
}

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// It announces, or has, more bytes than allowed.
    #[error("body: {} bytes, limit {limit}", found_words(*.announced, *.limit))]
    TooLarge {
        /// What `Content-Length` says.
        announced: Option<u64>,
        limit: usize,
    },
    /// It comes too slowly.
    #[error("body: {received} bytes came and nothing more within {idle:?}")]
    Stalled { received: usize, idle: Duration },
    /// It takes too long.
    #[error("body: {received} bytes came within {limit:?}, and that is not all")]
    TooSlow { received: usize, limit: Duration },
    /// It ended early, or is not framed as HTTP asks.
    #[error("body: {0}")]
    Broken(String),
    /// All bodies that are being worked on take too much memory together.
    #[error("busy: {0}")]
    Busy(#[from] OverBudget),
}

fn found_words(announced: Option<u64>, limit: usize) -> String {
    match announced {
        Some(found) => found.to_string(),
        None => format!("more than {limit}"),
    }
}

/// Reads a body whole into one buffer.
///
/// # Errors
/// See [`BodyError`]; what is left of the body stays in `body`.
pub(crate) async fn collect<B>(
    body: &mut B,
    bounds: &BodyBounds,
    budget: &Budget,
) -> Result<(Bytes, Held), BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    let announced = body.size_hint().exact();
    // What would not fit if it were alone is not worth another try.
    let len_max = bounds.len_max.min(budget.limit());
    let too_large = BodyError::TooLarge {
        announced,
        limit: len_max,
    };
    let expected = match announced.map(usize::try_from) {
        Some(Ok(len)) if len <= len_max => Some(len),
        Some(_) => return Err(too_large),
        None => None,
    };
    let mut held = budget.hold();
    let mut whole = Vec::new();
    let mut room = expected.unwrap_or(0).min(FIRST_CAPACITY_MAX);
    held.grow_to_counted(room)?;
    whole.reserve_exact(room);

    let mut end = None;
    loop {
        let frame = match next_frame(body, bounds, &mut end).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(BodyError::Broken(with_sources(&error))),
            Ok(None) => return Ok((Bytes::from(whole), held)),
            Err(Late::Idle) => {
                return Err(BodyError::Stalled {
                    received: whole.len(),
                    idle: bounds.idle_max,
                });
            }
            Err(Late::Whole) => {
                return Err(BodyError::TooSlow {
                    received: whole.len(),
                    limit: bounds.time_max,
                });
            }
        };
        // Trailers say nothing that we need.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let len = whole.len() + data.len();
        if len > len_max {
            return Err(too_large);
        }
        if len > room {
            let roomy = if len <= UNCOUNTED_MAX {
                UNCOUNTED_MAX
            } else {
                room.saturating_mul(GROWTH)
            };
            room = roomy.min(expected.unwrap_or(len_max)).max(len);
            held.grow_to_counted(room)?;
            whole.reserve_exact(room - whole.len());
        }
        whole.extend_from_slice(&data);
    }
}

/// What is not there in time.
enum Late {
    /// The next part of a body.
    Idle,
    /// All of it.
    Whole,
}

/// The next part of a body. All of it is to come before `end`, which is set once one has to be waited for, if it is not
/// yet: most bodies are there with their heads, and need no clock.
async fn next_frame<B: Body + Unpin>(
    body: &mut B,
    bounds: &BodyBounds,
    end: &mut Option<Instant>,
) -> Result<Option<Result<Frame<B::Data>, B::Error>>, Late> {
    let first_look = poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context)));
    if let Poll::Ready(frame) = first_look.await {
        return Ok(frame);
    }
    let now = Instant::now();
    let end = *end.get_or_insert(now + bounds.time_max);
    let idle_end = now + bounds.idle_max;
    let late = if idle_end < end {
        Late::Idle
    } else {
        Late::Whole
    };
    timeout_at(end.min(idle_end), body.frame())
        .await
        .map_err(|_| late)
}

/// Reads on and throws away, within the bounds of time and up to `bytes_max`, so that a client that is
/// still sending reads its answer and no reset of the connection or the stream.
pub(crate) async fn discard<B: Body<Data = Bytes> + Unpin>(
    body: Pin<&mut B>,
    bounds: &BodyBounds,
    bytes_max: usize,
) {
    let body = body.get_mut();
    let mut end = Some(Instant::now() + bounds.time_max);
    let mut left = bytes_max;
    while let Ok(Some(Ok(frame))) = next_frame(body, bounds, &mut end).await {
        let len = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(len) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use http_body::{Frame, SizeHint};

    use super::*;

    /// Gives its pieces, then ends or stays silent.
    struct Pieces {
        pieces: VecDeque<Bytes>,
        announced: Option<u64>,
        silent: bool,
    }

    impl Pieces {
        fn new(pieces: &[usize]) -> Self {
            Self {
                pieces: pieces.iter().map(|len| vec![7; *len].into()).collect(),
                announced: None,
                silent: false,
            }
        }

        fn announcing(mut self, len: u64) -> Self {
            self.announced = Some(len);
            self
        }

        fn silent(mut self) -> Self {
            self.silent = true;
            self
        }
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.pieces.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None if self.silent => Poll::Pending,
                None => Poll::Ready(None),
            }
        }

        fn size_hint(&self) -> SizeHint {
            self.announced
                .map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    const BOUNDS: BodyBounds = BodyBounds {
        len_max: 8 << 20,
        time_max: Duration::from_secs(60),
        idle_max: Duration::from_secs(5),
    };

    async fn read(mut body: Pieces, budget: &Budget) -> Result<usize, BodyError> {
        let (bytes, held) = collect(&mut body, &BOUNDS, budget).await?;
        assert!(bytes.iter().all(|byte| *byte == 7));
        let counted = bytes.len() > UNCOUNTED_MAX;
        assert!(
            !counted || held.bytes() >= bytes.len(),
            "{} held",
            held.bytes()
        );
        Ok(bytes.len())
    }

    fn roomy() -> Budget {
        Budget::new(usize::MAX)
    }

    #[tokio::test]
    async fn the_limit_holds_at_the_byte_announced_or_not() {
        let limit = BOUNDS.len_max;
        let too_large = |announced| Err(BodyError::TooLarge { announced, limit });
        assert_eq!(read(Pieces::new(&[]), &roomy()).await, Ok(0));
        assert_eq!(
            read(Pieces::new(&[limit - 1, 1]), &roomy()).await,
            Ok(limit)
        );
        assert_eq!(
            read(Pieces::new(&[limit, 1]), &roomy()).await,
            too_large(None)
        );
        let exact = Pieces::new(&[limit]).announcing(limit as u64);
        assert_eq!(read(exact, &roomy()).await, Ok(limit));
        // Refused before anything is read: this one would never send a byte.
        let over = Pieces::new(&[]).announcing(limit as u64 + 1).silent();
        assert_eq!(
            read(over, &roomy()).await,
            too_large(Some(limit as u64 + 1))
        );
        let absurd = Pieces::new(&[]).announcing(u64::MAX).silent();
        assert_eq!(read(absurd, &roomy()).await, too_large(Some(u64::MAX)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_is_left_after_the_idle_time() {
        let error = read(Pieces::new(&[3, 4]).silent(), &roomy()).await;
        let (received, idle) = (7, BOUNDS.idle_max);
        assert_eq!(error, Err(BodyError::Stalled { received, idle }));
    }

    #[tokio::test(start_paused = true)]
    async fn an_announced_length_costs_one_step_until_it_comes() {
        let budget = Budget::new(8 << 20);
        // The budget has room for one first step only.
        let mut others = budget.hold();
        others.grow_to((8 << 20) - FIRST_CAPACITY_MAX).unwrap();
        // It lies: 8 MiB announced, none sent.
        let stalled = read(Pieces::new(&[]).announcing(8 << 20).silent(), &budget).await;
        assert!(matches!(
            stalled,
            Err(BodyError::Stalled { received: 0, .. })
        ));
        drop(others);
        assert_eq!(budget.used(), 0, "given back");
    }

    #[tokio::test]
    async fn what_never_fits_is_too_large_and_not_busy() {
        let too_large = |announced| {
            Err(BodyError::TooLarge {
                announced,
                limit: 9,
            })
        };
        let body = Pieces::new(&[10]);
        assert_eq!(read(body, &Budget::new(9)).await, too_large(None));
        let body = Pieces::new(&[10]).announcing(10);
        assert_eq!(read(body, &Budget::new(9)).await, too_large(Some(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_much_is_thrown_away() {
        for (bytes_max, left) in [(0, 2), (11, 1), (12, 0), (usize::MAX, 0)] {
            let mut body = Pieces::new(&[6, 6, 6]);
            discard(Pin::new(&mut body), &BOUNDS, bytes_max).await;
            assert_eq!(body.pieces.len(), left, "{bytes_max}");
        }
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_given_back() {
        let kib = 1 << 10;
        let budget = Budget::new(1000 * kib);
        let mut first = Pieces::new(&[600 * kib]).announcing(600 << 10);
        let kept = collect(&mut first, &BOUNDS, &budget).await.unwrap();
        let (wanted, limit) = (401 * kib, 1000 * kib);
        let busy = Err(BodyError::Busy(OverBudget { wanted, limit }));
        let body = || Pieces::new(&[401 * kib]);
        assert_eq!(read(body().announcing(401 << 10), &budget).await, busy);
        assert_eq!(read(body(), &budget).await, busy);
        let body = Pieces::new(&[400 * kib]).announcing(400 << 10);
        assert_eq!(read(body, &budget).await, Ok(400 * kib));
        drop(kept);
        let body = Pieces::new(&[1000 * kib]).announcing(1000 << 10);
        assert_eq!(read(body, &budget).await, Ok(1000 * kib));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn small_bodies_come_in_when_the_budget_is_used_up() {
        let budget = Budget::new(100 << 10);
        let mut others = budget.hold();
        others.grow_to(100 << 10).unwrap();
        for announced in [true, false] {
            let body = |len: usize| {
                let body = Pieces::new(&[len / 2, len - len / 2]);
                if announced {
                    body.announcing(len as u64)
                } else {
                    body
                }
            };
            assert_eq!(read(body(UNCOUNTED_MAX), &budget).await, Ok(UNCOUNTED_MAX));
            let refused = read(body(UNCOUNTED_MAX + 1), &budget).await;
            assert!(matches!(refused, Err(BodyError::Busy(_))), "{refused:?}");
        }
    }
}
