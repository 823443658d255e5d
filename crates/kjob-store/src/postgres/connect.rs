//! Making connections: to which of the hosts of a URL, how, and in which thread they live.

use std::sync::Arc;
use std::time::Duration;

use kjob_core::StoreError;
use tokio::runtime::Handle;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, NoTls};

use super::error::sql;
use super::hints::{self, Hints};
use super::tls::MakeTls;
use super::url::Target;
use super::{OpenError, PostgresOptions, tls, url};
use crate::panics::panicked;

const CONNECTING: &str = "connect to the database";

/// How long a peer may be silent before it is asked whether it lives.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(10);

/// How long what was sent may stay unanswered.
const SENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Settings of a connection that writes. Its statements find rows by their keys, a batch at a time; plans are
/// made once, when nobody knows how large tables will be, so those that read whole tables are out of the
/// question. Other databases have no such settings, and no such plans.
const WRITER: &str = "SET jit = off; SET enable_seqscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan";

/// Settings of one that reads: by keys too, or along an index. A plan that is made while a table is empty is
/// kept until somebody has counted its rows, which is long after there are many.
const READER: &str = "SET jit = off; SET enable_seqscan = off; SET enable_hashjoin = off";

/// What is acknowledged is on disk, also where the server's default says otherwise.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') = 'off'";

/// How many times as long as its connect timeout says a host may take until its connection is set up: its addresses
/// are tried in turn, and what answers there may be silent.
const PATIENCE: u32 = 4;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Write,
    Read,
}

/// Makes connections on a runtime.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Config,
    tls: Option<MakeTls>,
    pub(crate) runtime: Handle,
}

impl Connector {
    pub(crate) fn new(
        url: &str,
        options: &PostgresOptions,
        runtime: Handle,
    ) -> Result<Self, OpenError> {
        let Target { mut config, files } = url::parse(url)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(options.connect_timeout);
        }
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if config.get_application_name().is_none() {
            config.application_name("kjob");
        }
        config.keepalives_idle(KEEPALIVES_IDLE);
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SENT_TIMEOUT);
        }
        let tls = match (config.get_ssl_mode(), &options.tls) {
            (SslMode::Disable, _) => None,
            (_, Some(config)) => Some(MakeTls(Arc::clone(config))),
            (_, None) => Some(MakeTls(tls::by_files(&files)?)),
        };
        Ok(Self {
            config,
            tls,
            runtime,
        })
    }

    /// A new connection. May be awaited on any runtime; it lives on ours.
    pub(crate) async fn connect(&self, purpose: Purpose) -> Result<Client, StoreError> {
        let connector = self.clone();
        let connecting = self
            .runtime
            .spawn(async move { connector.here(purpose).await });
        match connecting.await {
            Ok(made) => made,
            Err(ended) if ended.is_panic() => Err(panicked(CONNECTING)),
            // The runtime has ended, so the store has.
            Err(_) => Err(StoreError::Closed),
        }
    }

    /// Hears what other handles say, over a connection of its own, until that ends. On our runtime.
    pub(crate) async fn attend(&self, hints: &Hints, own: i64) -> Result<(), StoreError> {
        match &self.tls {
            Some(tls) => {
                let made = self.in_time(self.config.connect(tls.clone())).await?;
                hints::attend(made.0, made.1, hints, own).await
            }
            None => {
                let made = self.in_time(self.config.connect(NoTls)).await?;
                hints::attend(made.0, made.1, hints, own).await
            }
        }
    }

    /// What comes of making a connection. The driver bounds only how long an address takes to answer at all.
    async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let hosts = self.config.get_hosts().len();
        let hosts = u32::try_from(hosts.max(1)).unwrap_or(u32::MAX);
        let of_host = self.config.get_connect_timeout().copied();
        let long = of_host.unwrap_or_default().saturating_mul(PATIENCE);
        match tokio::time::timeout(long.saturating_mul(hosts), connecting).await {
            Ok(made) => made.map_err(sql(CONNECTING)),
            Err(elapsed) => Err(StoreError::Io {
                doing: CONNECTING,
                source: Arc::new(std::io::Error::from(elapsed)),
            }),
        }
    }

    async fn here(&self, purpose: Purpose) -> Result<Client, StoreError> {
        // The two kinds of connection are of different types, and do the same. They are set up before they live by
        // themselves: one that has taken too long for that ends here, and nobody waits for its server any more.
        macro_rules! connect {
            ($tls:expr) => {{
                let (client, mut connection) = self.config.connect($tls).await?;
                tokio::select! {
                    set_up = set_up(&client, purpose) => set_up?,
                    ended = &mut connection => ended?,
                }
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!("a connection to the database has ended: {error}");
                    }
                });
                Ok(client)
            }};
        }
        let connecting = async {
            match &self.tls {
                Some(tls) => connect!(tls.clone()),
                None => connect!(NoTls),
            }
        };
        self.in_time(connecting).await
    }
}

/// Makes the settings of a connection.
async fn set_up(client: &Client, purpose: Purpose) -> Result<(), tokio_postgres::Error> {
    let settings = match purpose {
        Purpose::Write => WRITER,
        Purpose::Read => READER,
    };
    for settings in [settings, DURABLE] {
        // A database that knows no such setting needs none.
        if let Err(error) = client.batch_execute(settings).await
            && error.is_closed()
        {
            return Err(error);
        }
    }
    Ok(())
}
