//! A connection that is made anew when it is lost, with its prepared statements.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
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
    /// Locked for a moment only, and nobody waits in it: requests come to their turn when they do, and who was the
    /// next to have the connection might sleep while all others need it, those who renew a lease among them.
    latest: Mutex<Option<Attempt>>,
}

/// The making of a connection, which goes on whoever waits for it, and what came of it.
type Attempt = Shared<BoxFuture<'static, Result<Arc<Session>, StoreError>>>;

/// A connection that was made.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// By the addresses of their texts, which are constants.
    statements: Mutex<HashMap<(usize, usize), Statement>>,
    /// Not to be used again, though it is open: the server is no longer what it was.
    is_left: std::sync::atomic::AtomicBool,
}

impl Link {
    pub(crate) fn new(connector: Connector, purpose: Purpose, tries_max: u32) -> Self {
        Self {
            connector,
            purpose,
            tries_max: tries_max.max(1),
            latest: Mutex::new(None),
        }
    }

    /// The connection, made now if there is none. All who wait for it meanwhile get it, or the one error.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, StoreError> {
        let attempt = {
            let mut latest = self.lock();
            match latest.as_ref().filter(|attempt| is_of_use(attempt)) {
                Some(attempt) => attempt.clone(),
                None => latest.insert(self.begin()).clone(),
            }
        };
        attempt.await
    }

    /// A new connection. It is made in a task of its own once this is looked at.
    fn begin(&self) -> Attempt {
        let (connector, purpose) = (self.connector.clone(), self.purpose);
        let making = async move {
            let client = connector.connect(purpose).await?;
            Ok(Arc::new(Session {
                client,
                statements: Default::default(),
                is_left: Default::default(),
            }))
        };
        making.boxed().shared()
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

    /// Lets go of the connection. It ends once nobody is at work on it.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    /// Lets go of this connection, which is not to be used again.
    pub(crate) fn let_go(&self, session: &Arc<Session>) {
        session.leave();
        let is_it = |attempt: &mut Attempt| match attempt.peek() {
            Some(Ok(latest)) => Arc::ptr_eq(latest, session),
            _ => false,
        };
        drop(self.lock().take_if(is_it));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a connection is being made, or was, and can be used.
fn is_of_use(attempt: &Attempt) -> bool {
    match attempt.clone().now_or_never() {
        Some(made) => made.is_ok_and(|session| session.is_usable()),
        None => true,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;

    use super::*;
    use crate::postgres::PostgresOptions;

    /// What there is instead of a database: it counts who comes, and answers as far as it is let.
    struct Server {
        address: SocketAddr,
        came: Arc<AtomicUsize>,
        /// How many statements of a connection it answers.
        answers: watch::Sender<usize>,
    }

    impl Server {
        async fn start(answers: usize) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let came = Arc::<AtomicUsize>::default();
            let (answers, allowed) = watch::channel(answers);
            let count = Arc::clone(&came);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream, allowed.clone()));
                }
            });
            Self {
                address,
                came,
                answers,
            }
        }

        fn link(&self, connect_timeout: Duration) -> Link {
            let url = format!("postgresql://kjob@{}/kjob?sslmode=disable", self.address);
            let options = PostgresOptions {
                connect_timeout,
                ..PostgresOptions::default()
            };
            let runtime = tokio::runtime::Handle::current();
            let connector = Connector::new(&url, &options, runtime).unwrap();
            Link::new(connector, Purpose::Write, 1)
        }

        fn came(&self) -> usize {
            self.came.load(Ordering::Relaxed)
        }
    }

    /// Lets anybody in, and says of each statement that it was done, or that it gives `off`.
    async fn serve(mut stream: TcpStream, mut allowed: watch::Receiver<usize>) -> Option<()> {
        let length = stream.read_u32().await.ok()?;
        stream
            .read_exact(&mut vec![0; length as usize - 4])
            .await
            .ok()?;
        stream
            .write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")
            .await
            .ok()?;
        for answered in 1.. {
            let kind = stream.read_u8().await.ok()?;
            let length = stream.read_u32().await.ok()?;
            let mut text = vec![0; length as usize - 4];
            stream.read_exact(&mut text).await.ok()?;
            allowed
                .wait_for(|answers| answered <= *answers)
                .await
                .ok()?;
            assert_eq!(kind, b'Q');
            if text.starts_with(b"SHOW") {
                let row = b"T\0\0\0\x1a\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0\
                    D\0\0\0\x0d\0\x01\0\0\0\x03off";
                stream.write_all(row).await.ok()?;
            }
            stream
                .write_all(b"C\0\0\0\x09DONE\0Z\0\0\0\x05I")
                .await
                .ok()?;
        }
        None
    }

    const SHORT: Duration = Duration::from_millis(250);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn all_who_wait_for_a_server_that_is_silent_hear_of_it_at_once() {
        // From the first word on, and after some: while it tells what it is, and while it takes our settings.
        for answers in 0..3 {
            let server = Server::start(answers).await;
            let link = server.link(SHORT);
            let all = join_all((0..10).map(|_| link.session())).await;
            let errors = all.into_iter().map(|made| made.err().unwrap());
            for error in errors {
                let said = error.to_string();
                assert!(said.contains("cannot connect to the database"), "{said}");
            }
            assert_eq!(server.came(), 1, "by one connection for all of them");
            // Nobody is told later of what was so then.
            server.answers.send_replace(usize::MAX);
            assert!(link.session().await.unwrap().is_usable());
            assert_eq!(server.came(), 2);
        }
    }

    #[tokio::test]
    async fn who_sleeps_or_goes_away_keeps_nobody_from_the_connection() {
        let server = Server::start(0).await;
        let link = server.link(LONG);
        let [mut gone, mut sleeps, mut awake] = [(); 3].map(|()| Box::pin(link.session()));
        for waiting in [&mut gone, &mut sleeps, &mut awake] {
            assert!(waiting.now_or_never().is_none());
        }
        while server.came() == 0 {
            tokio::task::yield_now().await;
        }
        drop(gone);
        server.answers.send_replace(usize::MAX);
        let made = tokio::time::timeout(LONG, awake).await.unwrap().unwrap();
        for _ in 0..3 {
            assert!(Arc::ptr_eq(&made, &link.session().await.unwrap()));
        }
        assert!(Arc::ptr_eq(&made, &sleeps.await.unwrap()));
        assert_eq!(server.came(), 1);
    }

    #[tokio::test]
    async fn a_connection_is_made_also_where_all_who_asked_for_it_have_gone() {
        let server = Server::start(usize::MAX).await;
        let link = server.link(LONG);
        assert!(link.session().now_or_never().is_none());
        while server.came() == 0 {
            tokio::task::yield_now().await;
        }
        link.session().await.unwrap();
        assert_eq!(server.came(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_was_let_go_is_not_used_again() {
        let server = Server::start(usize::MAX).await;
        let link = server.link(LONG);
        let first = link.session().await.unwrap();
        link.let_go(&first);
        let second = link.session().await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        // It is another's meanwhile.
        link.let_go(&first);
        assert!(Arc::ptr_eq(&second, &link.session().await.unwrap()));
        assert_eq!(server.came(), 2);
    }
}
