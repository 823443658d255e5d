//! Opening the store that the config names.

use std::sync::Arc;

use kjob_core::{MemoryStore, ShardedStore, SharedStore, Store};
use kjob_store::Observed;
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore};

use crate::config::{Config, StoreKind};
use crate::database::{self, Database};
use crate::metrics::Metrics;
use crate::program::OpenStore;
use crate::run::{RunError, system};

/// A store, as the engine sees it and as whoever looks after it does.
pub(crate) struct Opened {
    pub(crate) store: Opening,
    /// The same, if it is one of files that this program opened itself.
    pub(crate) embedded: Option<Arc<EmbeddedStore>>,
}

/// A store for an engine to be opened on.
pub(crate) enum Opening {
    /// Of this process alone.
    Own(Arc<dyn Store>),
    /// One that other nodes may use.
    Shared(Arc<dyn SharedStore>),
    /// One of several shards, each of which other nodes may use.
    Sharded(ShardedStore),
}

impl Opened {
    fn own(store: Arc<dyn Store>) -> Self {
        Self {
            store: Opening::Own(store),
            embedded: None,
        }
    }

    /// What other nodes use as well: one for each shard.
    pub(crate) fn shared(&self) -> &[Arc<dyn SharedStore>] {
        match &self.store {
            Opening::Own(_) => &[],
            Opening::Shared(store) => std::slice::from_ref(store),
            Opening::Sharded(store) => store.shards(),
        }
    }

    /// How many segments the store has, where that is known.
    pub(crate) fn segments(&self) -> usize {
        let embedded = self.embedded.as_ref();
        embedded.map_or(0, |store| store.statistics().segments)
    }
}

/// Opens the store of the config, or that which the program brings.
///
/// # Errors
/// It cannot be opened.
pub(crate) async fn open(
    config: &Config,
    own: Option<OpenStore>,
    metrics: &Metrics,
) -> Result<Opened, RunError> {
    let observer = Observed::by(metrics.commit_observer());
    match &config.settings.store {
        StoreKind::Postgres(urls) => {
            let store = match database::open(urls, observer).await? {
                Database::One(store) => Opening::Shared(store),
                Database::Shards(store) => Opening::Sharded(store),
            };
            Ok(Opened {
                store,
                embedded: None,
            })
        }
        StoreKind::Memory => {
            tracing::warn!("jobs are kept in memory only, and end with the process");
            Ok(Opened::own(Arc::new(MemoryStore::new())))
        }
        StoreKind::Embedded => {
            let config = config.clone();
            let open = move || files(&config, own, observer);
            let opened = tokio::task::spawn_blocking(open).await;
            let opened = opened.map_err(|error| system("open the store")(error.into()))??;
            if let Some(store) = &opened.embedded {
                metrics.set_store(store);
            }
            Ok(opened)
        }
    }
}

fn files(config: &Config, own: Option<OpenStore>, observer: Observed) -> Result<Opened, RunError> {
    let dir = config.settings.data_dir.clone();
    if let Some(open) = own {
        return match open(&dir) {
            Ok(store) => Ok(Opened::own(store)),
            Err(source) => Err(RunError::OwnStore { dir, source }),
        };
    }
    let options = EmbeddedOptions {
        accept_damaged_logs: config.settings.accept_damaged_logs,
        observer,
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(dir, options)?;
    for (job, damage) in store.damaged_jobs() {
        tracing::error!(%job, %damage, "a job is damaged, and is not run");
    }
    let store = Arc::new(store);
    Ok(Opened {
        store: Opening::Own(store.clone()),
        embedded: Some(store),
    })
}
