//! Words between handles: that jobs wait, have ended, or are to stop. They are hints. Whoever misses one sees
//! it at the next look, so they may be lost, come late, or not be there at all.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kjob_core::{Hint, StoreError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Connection, Notification};

use super::connect::Connector;
use super::error::sql;
use super::shared::Shared;

/// Between two words: a commit with a word takes a lock that all such commits share.
const WORDS_APART: Duration = Duration::from_millis(10);

/// How long it takes until a connection that was lost is made anew.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Handles hear of those in their own schema, under a name that needs no quotes.
const CHANNEL: &str = "SELECT 'kjob_' || md5(current_schema())";
const SAY: &str = "SELECT pg_notify('kjob_' || md5(current_schema()), $1)";

/// How hints are said.
const LETTERS: [(Hint, char); 3] = [(Hint::Work, 'w'), (Hint::Ends, 'e'), (Hint::Cancels, 'c')];

/// What a handle has heard, and has to say.
#[derive(Default)]
pub(crate) struct Hints {
    work: Kind,
    ends: Kind,
    cancels: Kind,
    to_say: Notify,
    /// Whether there is nobody else, as far as is known.
    is_alone: AtomicBool,
    closed: Notify,
}

/// One kind of them.
#[derive(Default)]
struct Kind {
    heard: Notify,
    is_to_be_said: AtomicBool,
}

impl Hints {
    fn of(&self, hint: Hint) -> &Kind {
        match hint {
            Hint::Work => &self.work,
            Hint::Ends => &self.ends,
            Hint::Cancels => &self.cancels,
        }
    }

    /// Has something said to the others, soon.
    pub(crate) fn say(&self, hint: Hint) {
        if self.is_alone.load(Ordering::Relaxed) {
            return;
        }
        if !self.of(hint).is_to_be_said.swap(true, Ordering::AcqRel) {
            self.to_say.notify_one();
        }
    }

    /// Waits until another handle has said this.
    pub(crate) async fn hear(&self, hint: Hint) {
        self.of(hint).heard.notified().await;
    }

    pub(crate) fn set_alone(&self, is_alone: bool) {
        self.is_alone.store(is_alone, Ordering::Relaxed);
    }

    pub(crate) fn close(&self) {
        self.closed.notify_waiters();
    }

    /// The letters of what is to be said.
    fn take(&self) -> String {
        let to_be_said = LETTERS
            .into_iter()
            .filter(|(hint, _)| self.of(*hint).is_to_be_said.swap(false, Ordering::AcqRel));
        to_be_said.map(|(_, letter)| letter).collect()
    }

    fn heard(&self, said: &Notification, own: i64) {
        let Some((by, letters)) = said.payload().split_once(' ') else {
            return;
        };
        if by == own.to_string() {
            return;
        }
        for (hint, letter) in LETTERS {
            if letters.contains(letter) {
                self.of(hint).heard.notify_one();
            }
        }
    }
}

/// Says what is to be said, until the store is closed or the database cannot pass it on.
pub(crate) async fn speak(shared: Arc<Shared>) {
    loop {
        let Some(closed) = shared.open() else { return };
        tokio::select! {
            () = shared.hints.to_say.notified() => {}
            () = closed => return,
        }
        let letters = shared.hints.take();
        if letters.is_empty() {
            continue;
        }
        let word = format!("{} {letters}", shared.handle);
        match shared.write("tell the others", SAY, &[&word]).await {
            Err(StoreError::Closed) => return,
            Err(error) if is_not_there(&error) => return,
            // Those who would have heard it look by themselves.
            Ok(_) | Err(_) => {}
        }
        tokio::time::sleep(WORDS_APART).await;
    }
}

/// Listens until the store is closed, or the database says that it passes on nothing.
pub(crate) async fn listen(shared: Arc<Shared>, connector: Connector) {
    loop {
        let Some(closed) = shared.open() else { return };
        let ended = tokio::select! {
            ended = connector.attend(&shared.hints, shared.handle) => ended,
            () = closed => return,
        };
        match ended {
            Err(error) if is_not_there(&error) => {
                tracing::debug!(%error, "the database passes no words between nodes; they look");
                return;
            }
            Err(error) => tracing::debug!(%error, "other nodes cannot be heard for now"),
            Ok(()) => {}
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

impl Shared {
    /// What completes when the store is closed; `None` if it is already.
    fn open(&self) -> Option<Pin<Box<Notified<'_>>>> {
        let mut closed = Box::pin(self.hints.closed.notified());
        // Listens first and looks second, so it misses no close.
        closed.as_mut().enable();
        (!self.gathering.is_closed()).then_some(closed)
    }
}

/// Hears what comes over a connection, until it ends.
pub(crate) async fn attend<S, T>(
    client: Client,
    mut connection: Connection<S, T>,
    hints: &Hints,
    own: i64,
) -> Result<(), StoreError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let failed = sql("listen to the others");
    let set_up = async {
        let channel: String = client.query_one(CHANNEL, &[]).await?.get(0);
        client.batch_execute(&format!("LISTEN {channel}")).await
    };
    let mut set_up = std::pin::pin!(set_up);
    let mut is_set_up = false;
    loop {
        tokio::select! {
            done = &mut set_up, if !is_set_up => {
                done.map_err(&failed)?;
                is_set_up = true;
            }
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(AsyncMessage::Notification(said))) => hints.heard(&said, own),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(failed(error)),
                None => return Ok(()),
            },
        }
    }
}

/// Whether the database has no such thing.
fn is_not_there(error: &StoreError) -> bool {
    let absent = [
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::SYNTAX_ERROR,
        SqlState::UNDEFINED_FUNCTION,
    ];
    let StoreError::Io { source, .. } = error else {
        return false;
    };
    let inner = std::error::Error::source(&**source).and_then(|it| it.downcast_ref());
    let code = inner.and_then(|error: &tokio_postgres::Error| error.code());
    code.is_some_and(|code| absent.contains(code))
}
