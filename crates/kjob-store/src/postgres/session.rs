//! A connection that is made anew when it is lost, with its prepared statements.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kjob_core::StoreError;
use rand::RngExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connect::{Connector, Purpose};
use super::error::{is_of_the_server, is_passing, sql};

/// The parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The first wait before a statement is tried again, at most; each is twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(2);

/// The longest of them.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// One connection, or the next one.
pub(crate) struct Link {
    connector: Connector,
    purpose: Purpose,
    tries_max: u32,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
}

/// A connection that was made.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// By the addresses of their texts, which are constants.
    statements: std::sync::Mutex<HashMap<(usize, usize), Statement>>,
    /// Not to be used again, though it is open: the server is no longer what it was.
    is_left: std::sync::atomic::AtomicBool,
}

impl Link {
    pub(crate) fn new(connector: Connector, purpose: Purpose, tries_max: u32) -> Self {
        Self {
            connector,
            purpose,
            tries_max: tries_max.max(1),
            session: tokio::sync::Mutex::new(None),
        }
    }

    /// The connection, made now if there is none.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, StoreError> {
        let mut session = self.session.lock().await;
        if let Some(session) = &*session
            && session.is_usable()
        {
            return Ok(Arc::clone(session));
        }
        *session = None;
        let client = self.connector.connect(self.purpose).await?;
        let made = Arc::new(Session {
            client,
            statements: Default::default(),
            is_left: Default::default(),
        });
        *session = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Runs a statement, again where the database gave it up in favour of others.
    pub(crate) async fn query(
        &self,
        doing: &'static str,
        text: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let run = |session: Arc<Session>| -> BoxFuture<'_, _> {
            Box::pin(async move { session.query(text, params).await })
        };
        match self.attempt(run).await? {
            Ok(rows) => Ok(rows),
            Err(error) => Err(sql(doing)(error)),
        }
    }

    /// Runs something that the database does whole or not at all, again where it gave it up in favour of
    /// others. The outer error is of the connection; the inner one the database's, or that of a connection
    /// that was lost on the way.
    pub(crate) async fn attempt<'a, T>(
        &self,
        run: impl Fn(Arc<Session>) -> BoxFuture<'a, Result<T, tokio_postgres::Error>>,
    ) -> Result<Result<T, tokio_postgres::Error>, StoreError> {
        let mut tries = 1;
        loop {
            let session = self.session().await?;
            match run(Arc::clone(&session)).await {
                Err(error) if is_passing(&error) && tries < self.tries_max => {
                    self.pause(tries).await;
                    tries += 1;
                }
                done => {
                    if done.as_ref().is_err_and(is_of_the_server) {
                        session.leave();
                    }
                    return Ok(done);
                }
            }
        }
    }

    /// Waits a little, never as long as the others who wait, so that they do not meet again.
    pub(crate) async fn pause(&self, tries: u32) {
        let longest = (FIRST_WAIT * (1 << tries.min(10))).min(WAIT_MAX);
        let wait = longest.mul_f64(rand::rng().random_range(0.1..1.0));
        // The caller's runtime may have no timers.
        let _ = self.connector.runtime.spawn(tokio::time::sleep(wait)).await;
    }

    /// Lets go of the connection.
    pub(crate) async fn close(&self) {
        *self.session.lock().await = None;
    }
}

impl Session {
    fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.is_left.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn leave(&self) {
        self.is_left
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Runs a statement whose text is a constant, prepared once.
    pub(crate) async fn query(
        &self,
        text: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.prepared(text).await?;
        self.client.query(&statement, params).await
    }

    async fn prepared(&self, text: &'static str) -> Result<Statement, tokio_postgres::Error> {
        let key = (text.as_ptr() as usize, text.len());
        let known = |session: &Self| {
            let known = session.statements.lock();
            known
                .unwrap_or_else(PoisonError::into_inner)
                .get(&key)
                .cloned()
        };
        if let Some(statement) = known(self) {
            return Ok(statement);
        }
        let statement = self.client.prepare(text).await?;
        let mut known = self
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Of several who prepared it at once, one is kept.
        Ok(known.entry(key).or_insert(statement).clone())
    }
}
