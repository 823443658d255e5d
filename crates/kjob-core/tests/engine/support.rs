//! An engine on a clock that the test moves, and handlers that the test holds.
//!
//! All tests run on one thread, so "let everything go as far as it can" is a matter of yielding.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kjob_core::engine::{
    Accepted, Caller, Engine, EngineConfig, Handler, HandlerError, JobContext, JobKey, ManualClock,
    Registry, RouteOptions, Submission,
};
use kjob_core::{Ending, Job, JobId, MemoryStore, Output, Owner, Payload, Phase, Store, Timestamp};
use tokio::sync::{mpsc, oneshot};

pub(crate) const T0: Timestamp = Timestamp::from_millis(1_000_000);

pub(crate) struct Bed {
    pub(crate) engine: Engine,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: ManualClock,
}

/// An engine with this configuration and these routes, on a store of its own.
pub(crate) async fn bed(config: EngineConfig, registry: Registry) -> Bed {
    bed_on(
        Arc::new(MemoryStore::new()),
        ManualClock::at(T0),
        config,
        registry,
    )
    .await
}

pub(crate) async fn bed_on(
    store: Arc<dyn Store>,
    clock: ManualClock,
    config: EngineConfig,
    registry: Registry,
) -> Bed {
    let shared = Arc::new(clock.clone());
    let engine = Engine::open(store.clone(), registry, config, shared, 42)
        .await
        .unwrap();
    Bed {
        engine,
        store,
        clock,
    }
}

pub(crate) fn config(change: impl FnOnce(&mut EngineConfig)) -> EngineConfig {
    let mut config = EngineConfig::default();
    change(&mut config);
    config
}

/// Does a test twice: with all jobs whole in memory, and with all that wait kept as marks.
pub(crate) async fn whole_and_dozing(test: impl AsyncFn(EngineConfig)) {
    test(EngineConfig::default()).await;
    test(config(|config| config.whole_jobs = 0)).await;
}

/// Lets every task go on until all of them wait for something.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn ann() -> Owner {
    Owner::new("ann")
}

pub(crate) fn call(endpoint: &'static str, payload: &'static str) -> Submission {
    Submission::new(ann(), endpoint, Payload::binary(payload))
}

pub(crate) fn tagged(endpoint: &'static str, payload: &'static str, tag: &str) -> Submission {
    let mut submission = call(endpoint, payload);
    submission.tag = Some(tag.parse().unwrap());
    submission
}

pub(crate) async fn echo(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    Ok(payload)
}

impl Bed {
    pub(crate) async fn submit(&self, submission: Submission) -> Accepted {
        self.engine.submit(submission).await.unwrap()
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        let admin = Caller::admin(Owner::anonymous());
        self.engine
            .get(&admin, &JobKey::Id(id))
            .await
            .unwrap()
            .expect("the job exists")
    }

    pub(crate) async fn phase(&self, id: JobId) -> Phase {
        self.job(id).await.state.phase
    }

    pub(crate) async fn error(&self, id: JobId) -> String {
        match self.job(id).await.ending {
            Some(Ending::Failed(message)) => message.to_string(),
            other => panic!("not failed: {other:?}"),
        }
    }

    pub(crate) async fn advance(&self, duration: Duration) {
        settle().await;
        self.clock.advance(duration);
        settle().await;
    }
}

/// A handler whose runs wait for the test: each run announces itself, and ends as it is told.
pub(crate) struct Held {
    announce: mpsc::UnboundedSender<Run>,
    /// Whether a run returns when it is told to stop.
    obedient: bool,
}

/// A run that waits to be told how to end.
pub(crate) struct Run {
    pub(crate) context: JobContext,
    pub(crate) payload: Payload,
    tell: oneshot::Sender<Result<Payload, HandlerError>>,
}

impl Run {
    pub(crate) fn id(&self) -> JobId {
        self.context.job().id
    }

    pub(crate) fn end(self, result: Result<Payload, HandlerError>) {
        self.tell.send(result).expect("the handler waits");
    }

    pub(crate) fn done(self) {
        self.end(Ok(Payload::binary("done")));
    }

    /// Whether the handler's future was dropped.
    pub(crate) fn is_gone(&self) -> bool {
        self.tell.is_closed()
    }
}

/// A held handler, and the runs it begins.
pub(crate) fn held(obedient: bool) -> (Held, mpsc::UnboundedReceiver<Run>) {
    let (announce, runs) = mpsc::unbounded_channel();
    (Held { announce, obedient }, runs)
}

#[async_trait]
impl Handler for Held {
    async fn call(&self, context: JobContext, payload: Payload) -> Result<Output, HandlerError> {
        let (tell, told) = oneshot::channel();
        let run = Run {
            context: context.clone(),
            payload,
            tell,
        };
        self.announce
            .send(run)
            .map_err(|_| HandlerError::failed("the test is over"))?;
        tokio::select! {
            biased;
            result = told => result
                .unwrap_or(Err(HandlerError::failed("the test let go")))
                .map(Into::into),
            () = context.cancelled(), if self.obedient => Err(HandlerError::Stopped),
        }
    }
}

/// A registry with one held route.
pub(crate) fn one(
    endpoint: &str,
    options: RouteOptions,
    obedient: bool,
) -> (Registry, mpsc::UnboundedReceiver<Run>) {
    let (handler, runs) = held(obedient);
    let mut registry = Registry::default();
    registry.route(endpoint, handler, options).unwrap();
    (registry, runs)
}

/// Notes what happens, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn push(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Runs `test` in a runtime of its own and then drops that runtime with all its tasks: what a
/// kill does to an engine.
pub(crate) fn until_killed<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test)
}
