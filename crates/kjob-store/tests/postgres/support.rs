//! Databases for tests: a schema each, on one server.

use std::sync::atomic::{AtomicU32, Ordering};

use kjob_store::postgres::{PostgresOptions, PostgresStore};

/// A schema of its own, in which a test has its tables.
pub(crate) struct Schema {
    name: String,
    server: String,
}

impl Schema {
    /// An empty one, on the server that all tests share.
    pub(crate) fn new() -> Self {
        Self::on(&kjob_test_postgres::url())
    }

    /// An empty one on this server.
    pub(crate) fn on(server: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Processes of one run may share a server, and so may runs.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let random: u32 = rand::random();
        let name = format!("t{}_{random:08x}_{number}", std::process::id());
        Self {
            name,
            server: server.to_owned(),
        }
    }

    /// How a connection gets there.
    pub(crate) fn url(&self) -> String {
        let separator = if self.server.contains('?') { '&' } else { '?' };
        format!(
            "{}{separator}options=-csearch_path%3D{}",
            self.server, self.name
        )
    }

    /// Runs statements there.
    pub(crate) async fn execute(&self, statements: &str) {
        self.client().await.batch_execute(statements).await.unwrap();
    }

    /// The first number that a query gives.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.client()
            .await
            .query_one(query, &[])
            .await
            .unwrap()
            .get(0)
    }

    /// A connection there; it ends with the runtime that this is called on.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// Makes the schema and its tables.
    pub(crate) fn prepare(&self, is_partitioned: bool) {
        block_on(async {
            self.make().await;
            let (url, options) = (self.url(), PostgresOptions::default());
            let made = match is_partitioned {
                true => PostgresStore::migrate(&url, &options).await,
                false => PostgresStore::migrate_without_partitions(&url, &options).await,
            };
            assert_eq!(made.unwrap(), [1, 2, 3]);
        });
    }

    /// Makes the schema alone.
    pub(crate) async fn make(&self) {
        self.execute(&format!("CREATE SCHEMA {}", self.name)).await;
    }

    /// A handle.
    pub(crate) async fn open(&self, options: PostgresOptions) -> PostgresStore {
        PostgresStore::open(&self.url(), options).await.unwrap()
    }
}

/// Runs this to its end on a runtime of its own, also where one is running.
pub(crate) fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(future)
        };
        scope.spawn(run).join().unwrap()
    })
}
