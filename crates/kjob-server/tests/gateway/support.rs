//! An engine with routes of the gateway.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::{Caller, Engine, EngineConfig, JobKey, Registry, Submission, SystemClock};
use kjob_core::{Age, Ending, Job, JobId, MemoryStore, Owner, Payload};
use kjob_server::gateway::{Gateway, GatewayOptions, Route};

/// A bound for tests that would hang; no test waits for it to pass.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TEST_TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {TEST_TIMEOUT:?}: {what}"),
    }
}

pub(crate) struct Bed {
    pub(crate) engine: Engine,
    pub(crate) gateway: Gateway,
}

impl Bed {
    pub(crate) async fn with(routes: &[Route]) -> Self {
        Self::configured(routes, |_| {}).await
    }

    pub(crate) async fn configured(
        routes: &[Route],
        change: impl FnOnce(&mut EngineConfig),
    ) -> Self {
        let mut options = GatewayOptions::default();
        options.launcher = Some(env!("CARGO_BIN_EXE_kjob-server").into());
        let mut registry = Registry::default();
        let gateway = Gateway::new(options);
        gateway.add_routes(&mut registry, routes).unwrap();
        let mut config = EngineConfig::default();
        config.retry_backoff = Duration::from_millis(1);
        change(&mut config);
        let (store, clock) = (Arc::new(MemoryStore::new()), Arc::new(SystemClock));
        let engine = Engine::open(store, registry, config, clock, 7).await;
        Self {
            engine: engine.unwrap(),
            gateway,
        }
    }

    pub(crate) async fn submit(&self, endpoint: &str, payload: Payload) -> JobId {
        let call = Submission::new(Owner::new("ann"), endpoint.to_owned(), payload);
        self.engine.submit(call).await.unwrap().id
    }

    pub(crate) async fn ended(&self, id: JobId) -> Job {
        let caller = Caller::user(Owner::new("ann"));
        let key = JobKey::Id(id);
        let wait = self.engine.wait(&caller, &key, TEST_TIMEOUT);
        let job = in_time("the job's end", wait).await.unwrap().unwrap();
        assert!(job.ending.is_some(), "{job:?}");
        job
    }

    /// Waits until a running job's progress is told as this.
    pub(crate) async fn progress(&self, id: JobId, wanted: u8) {
        let (caller, key) = (Caller::user(Owner::new("ann")), JobKey::Id(id));
        let mut seen = Age::from_u64(0).unwrap();
        let waiting = async {
            loop {
                let news = self.engine.news(&caller, &key, seen, TEST_TIMEOUT).await;
                let state = news.unwrap().unwrap().state;
                assert!(state.progress <= wanted, "{state:?}");
                if state.progress == wanted {
                    return;
                }
                seen = state.age();
            }
        };
        in_time("progress", waiting).await;
    }

    pub(crate) async fn cancel(&self, id: JobId) {
        let caller = Caller::user(Owner::new("ann"));
        self.engine.cancel(&caller, &JobKey::Id(id)).await.unwrap();
    }

    /// Runs a job that is to end with a result.
    pub(crate) async fn done(&self, endpoint: &str, payload: Payload) -> Payload {
        let id = self.submit(endpoint, payload).await;
        match self.ended(id).await.ending {
            Some(Ending::Done(result)) => result.payload,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a job that is to fail, and gives its message.
    pub(crate) async fn failed(&self, endpoint: &str, payload: Payload) -> String {
        let id = self.submit(endpoint, payload).await;
        self.failure(id).await
    }

    pub(crate) async fn failure(&self, id: JobId) -> String {
        match self.ended(id).await.ending {
            Some(Ending::Failed(message)) => message.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn json(text: &'static str) -> Payload {
    Payload::json(text)
}
