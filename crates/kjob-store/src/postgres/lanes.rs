//! Steps that go together in one statement, and the lanes that carry them.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kjob_core::StoreError;
use tokio::sync::oneshot;

use super::error::{is_of_a_row, is_without_part, sql};
use super::gathering::{Gathering, Pending, Queues};
use super::session::{Link, Session};
use super::shared::Shared;
use crate::panics::{panicked, said};

/// A step that goes with others of its kind in one statement.
#[async_trait]
pub(crate) trait Step: Send + Sync + Sized + 'static {
    /// What it gives where it was done.
    type Answer: Send + 'static;

    /// For errors.
    const DOING: &'static str;

    /// Whether it changes anything.
    const WRITES: bool = true;

    /// The queue of its kind.
    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>>;

    /// How many bytes it brings along.
    fn bytes(&self) -> usize {
        0
    }

    /// Does all that can be done, in one round trip; gives what was, by its place among `steps`. What is not
    /// there was not done, and why is to be looked up.
    async fn run(
        lane: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, Self::Answer)>, tokio_postgres::Error>;

    /// Makes what was missing, after an error that says that something was.
    async fn prepare(_: &Shared, _: &[&Self]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A connection that carries batches, and whose row of the usage it writes.
pub(crate) struct Lane {
    pub(crate) link: Link,
    pub(crate) tally: i64,
    pub(crate) shared: Arc<Shared>,
    /// From where: what is read waits for nothing that is written.
    pub(crate) from: fn(&Shared) -> &Gathering,
}

/// Some steps of one kind.
pub(crate) trait Batch: Send {
    fn run<'a>(self: Box<Self>, lane: &'a Lane) -> BoxFuture<'a, ()>;
}

/// What was done, or why the database did not, or why it could not be asked.
type Done<S> = Result<Result<Vec<(usize, <S as Step>::Answer)>, tokio_postgres::Error>, StoreError>;

impl Lane {
    /// Carries batches until there are no more.
    pub(crate) async fn run(self) {
        let shared = Arc::clone(&self.shared);
        while let Some((batch, _at_work)) = (self.from)(&shared).next().await {
            batch.run(&self).await;
        }
        self.link.close();
    }

    /// Does all of them or none. A panic ends nothing but that: the lane goes on, on another connection, as nobody
    /// knows what this one was in the middle of.
    async fn commit<S: Step>(&self, steps: &[&S]) -> Done<S> {
        match AssertUnwindSafe(self.commit_all(steps))
            .catch_unwind()
            .await
        {
            Ok(done) => done,
            Err(panic) => {
                let (said, doing) = (said(&*panic), S::DOING);
                tracing::error!(
                    said,
                    doing,
                    "work of the store panicked; other work goes on"
                );
                self.link.close();
                Err(panicked(doing))
            }
        }
    }

    /// Does all of them or none, and tells who counts that.
    async fn commit_all<S: Step>(&self, steps: &[&S]) -> Done<S> {
        let begun = Instant::now();
        let mut done = self.try_all(steps).await;
        if let Ok(Err(error)) = &done
            && is_without_part(error)
        {
            done = match S::prepare(&self.shared, steps).await {
                Ok(()) => self.try_all(steps).await,
                Err(error) => Err(error),
            };
        }
        if S::WRITES {
            let observer = &self.shared.options.observer;
            observer.committed(steps.len(), begun.elapsed(), matches!(done, Ok(Ok(_))));
        }
        done
    }

    async fn try_all<S: Step>(&self, steps: &[&S]) -> Done<S> {
        self.link
            .attempt(|session| Box::pin(async move { S::run(self, &session, steps).await }))
            .await
    }
}

impl<S: Step> Batch for Vec<Pending<S>> {
    fn run<'a>(self: Box<Self>, lane: &'a Lane) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let (steps, replies): (Vec<S>, Vec<_>) =
                self.into_iter().map(|it| (it.step, it.reply)).unzip();
            let all: Vec<&S> = steps.iter().collect();
            match lane.commit(&all).await {
                Ok(Ok(answers)) => answer::<S>(answers, replies),
                Ok(Err(error)) if all.len() > 1 && is_of_a_row(&error) => {
                    // So that the one which the database does not take harms itself alone.
                    for (step, reply) in all.into_iter().zip(replies) {
                        match lane.commit(&[step]).await {
                            Ok(Ok(answers)) => answer::<S>(answers, vec![reply]),
                            Ok(Err(error)) => fail::<S>(sql(S::DOING)(error), vec![reply]),
                            Err(error) => fail::<S>(error, vec![reply]),
                        }
                    }
                }
                Ok(Err(error)) => fail::<S>(sql(S::DOING)(error), replies),
                Err(error) => fail::<S>(error, replies),
            }
        })
    }
}

type Replies<S> = Vec<oneshot::Sender<Result<Option<<S as Step>::Answer>, StoreError>>>;

// That nobody waits for an answer any more is no failure.

fn answer<S: Step>(answers: Vec<(usize, S::Answer)>, replies: Replies<S>) {
    let mut replies: Vec<_> = replies.into_iter().map(Some).collect();
    for (place, answer) in answers {
        if let Some(reply) = replies.get_mut(place).and_then(Option::take) {
            let _ = reply.send(Ok(Some(answer)));
        }
    }
    for reply in replies.into_iter().flatten() {
        let _ = reply.send(Ok(None));
    }
}

fn fail<S: Step>(error: StoreError, replies: Replies<S>) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}
