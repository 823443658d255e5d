//! Several statements that the database does whole or not at all.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use kjob_core::StoreError;
use tokio_postgres::{Client, Error};

use super::error::sql;
use super::session::{Link, Session};

/// A transaction on a connection that nobody else uses meanwhile. Where it is dropped before its end was heard of, the
/// connection ends with it: what comes next on that would be a part of it, and commit what is half done.
pub(crate) struct Transaction<'a> {
    link: &'a Link,
    session: Arc<Session>,
    is_over: bool,
}

impl<'a> Transaction<'a> {
    pub(crate) async fn begin(link: &'a Link, doing: &'static str) -> Result<Self, StoreError> {
        let begun = Self::on(link, link.session().await?);
        let begin = begun.client().batch_execute("BEGIN").await;
        begin.map_err(sql(doing))?;
        Ok(begun)
    }

    /// One that may begin at any moment.
    fn on(link: &'a Link, session: Arc<Session>) -> Self {
        Self {
            link,
            session,
            is_over: false,
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.session.client
    }

    pub(crate) async fn commit(self) -> Result<(), Error> {
        self.end("COMMIT").await
    }

    pub(crate) async fn roll_back(self) -> Result<(), Error> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> Result<(), Error> {
        self.client().batch_execute(statement).await?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.link.let_go(&self.session);
        }
    }
}

/// Runs a transaction, written out from its `BEGIN` to its `COMMIT`, on a connection that nobody else uses meanwhile.
pub(crate) async fn transaction(
    link: &Link,
    doing: &'static str,
    text: &str,
) -> Result<(), StoreError> {
    let run = |session: Arc<Session>| -> BoxFuture<'_, _> {
        Box::pin(async move {
            let mut running = Transaction::on(link, session);
            let done = running.client().batch_execute(text).await;
            match &done {
                Ok(()) => running.is_over = true,
                // Where that fails too, the connection was let go.
                Err(_) => drop(running.roll_back().await),
            }
            done
        })
    };
    link.attempt(run).await?.map_err(sql(doing))
}
