//! Handlers that misbehave, on real threads and in real time: each harms its own job only, and
//! honest jobs beside it end as they should.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "engine/support.rs"]
mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kjob_core::engine::{
    Blocking, Caller, CancelOutcome, Engine, EngineConfig, Handler, HandlerError, JobContext,
    JobKey, Registry, RouteOptions, SystemClock,
};
use kjob_core::{Ending, Job, JobId, MemoryStore, Output, Payload, Phase};
use support::{ann, call, config, echo};

/// Longer than anything here takes, on a busy machine too.
const LONG: Duration = Duration::from_secs(60);

/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(50);

/// An engine with `/honest` and `/hostile`.
async fn engine(config: EngineConfig, hostile: impl Handler, options: RouteOptions) -> Engine {
    let mut registry = Registry::default();
    registry
        .route("/honest", echo, RouteOptions::default())
        .unwrap();
    registry.route("/hostile", hostile, options).unwrap();
    let store = Arc::new(MemoryStore::new());
    Engine::open(store, registry, config, Arc::new(SystemClock), 7)
        .await
        .unwrap()
}

fn impatient() -> EngineConfig {
    config(|config| config.stop_grace = SHORT)
}

async fn begin(engine: &Engine, endpoint: &'static str) -> JobId {
    engine.submit(call(endpoint, "in")).await.unwrap().id
}

async fn ended(engine: &Engine, id: JobId) -> Job {
    let job = engine
        .wait(&Caller::user(ann()), &JobKey::Id(id), LONG)
        .await
        .unwrap()
        .unwrap();
    assert!(job.state.phase.is_terminal(), "{job:?}");
    job
}

async fn error(engine: &Engine, id: JobId) -> String {
    match ended(engine, id).await.ending {
        Some(Ending::Failed(why)) => why.to_string(),
        other => panic!("not failed: {other:?}"),
    }
}

async fn cancel(engine: &Engine, id: JobId) -> CancelOutcome {
    engine
        .cancel(&Caller::user(ann()), &JobKey::Id(id))
        .await
        .unwrap()
}

async fn honest_jobs_are_done(engine: &Engine) {
    for _ in 0..20 {
        let id = begin(engine, "/honest").await;
        let ending = ended(engine, id).await.ending;
        assert_eq!(ending, Some(Ending::Done(Output::binary("in"))));
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "{what}");
}

/// Lets go of a thread that a handler blocks, at the latest when the test ends.
#[derive(Clone, Default)]
struct Block(Arc<AtomicBool>);

impl Block {
    fn hold_thread(&self) {
        while !self.0.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn release(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Releases on drop, so that a failed test does not wait for its own threads.
struct AtTheEnd(Block);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        self.0.release();
    }
}

fn blocker() -> (Block, AtTheEnd, impl Handler) {
    let block = Block::default();
    let held = block.clone();
    let handler = move |_: JobContext, payload: Payload| {
        let held = held.clone();
        async move {
            held.hold_thread();
            Ok(payload)
        }
    };
    (block.clone(), AtTheEnd(block), handler)
}

/// The worst that an async handler can do short of breaking the process: its job ends all the
/// same, by a cancel or its deadline; its place is lost until it returns, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_holds_its_place_and_nothing_else() {
    let (block, _end, handler) = blocker();
    let limits = config(|config| {
        config.stop_grace = SHORT;
        config.workers = 3;
    });
    let options = RouteOptions::default().timeout(Duration::from_secs(3_600));
    let engine = engine(limits, handler, options).await;
    let cancelled = begin(&engine, "/hostile").await;
    let mut late = call("/hostile", "in");
    late.timeout = Some(SHORT);
    let late = engine.submit(late).await.unwrap().id;
    assert_eq!(cancel(&engine, cancelled).await, CancelOutcome::Cancelling);
    honest_jobs_are_done(&engine).await;
    assert_eq!(
        ended(&engine, cancelled).await.state.phase,
        Phase::Cancelled
    );
    assert!(error(&engine, late).await.starts_with("deadline: "));
    until("both are known to be stuck", || engine.stats().stuck == 2).await;
    assert_eq!(engine.stats().running, 2, "their places are not free");
    honest_jobs_are_done(&engine).await;
    block.release();
    until("the places are free again", || engine.stats().running == 0).await;
    assert_eq!(engine.stats().stuck, 0);
}

/// As many of them as the runtime has threads: with threads of their own for handlers the engine,
/// and the server around it, still answer, end jobs and shut down.
#[tokio::test]
async fn handlers_on_a_runtime_of_their_own_cannot_stop_the_engine() {
    let (_block, _end, handler) = blocker();
    let handlers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let limits = config(|config| {
        config.stop_grace = SHORT;
        config.handlers = Some(handlers.handle().clone());
    });
    let engine = engine(limits, handler, RouteOptions::default()).await;
    let stuck = begin(&engine, "/hostile").await;
    begin(&engine, "/honest").await;
    cancel(&engine, stuck).await;
    assert_eq!(ended(&engine, stuck).await.state.phase, Phase::Cancelled);
    // The honest job shares the hostile one's only thread, and is cut off.
    let shut_down = engine.shut_down(Duration::ZERO);
    tokio::time::timeout(LONG, shut_down)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(engine.stats().stuck, 2);
    // From async code, which must not wait for it.
    handlers.shutdown_background();
}

/// What computes without `await` belongs on threads of its own; there a run that does not look
/// whether it is to stop uses up its endpoint's threads, and no others.
#[tokio::test]
async fn blocking_handlers_use_up_their_own_threads_only() {
    let block = Block::default();
    let _end = AtTheEnd(block.clone());
    let held = block.clone();
    let handler = Blocking::new(1, move |_: &JobContext, payload: Payload| {
        held.hold_thread();
        Ok(payload)
    });
    let options = RouteOptions::default().timeout(SHORT);
    let engine = engine(impatient(), handler, options).await;
    let stuck = begin(&engine, "/hostile").await;
    assert!(error(&engine, stuck).await.starts_with("deadline: "));
    honest_jobs_are_done(&engine).await;
    // The thread still runs, so this one never begins.
    let behind = begin(&engine, "/hostile").await;
    assert!(error(&engine, behind).await.starts_with("deadline: "));
    until("places are free", || engine.stats().running == 0).await;
    block.release();
    // Each try has its deadline; one of them meets the free thread.
    let done = async {
        loop {
            let id = begin(&engine, "/hostile").await;
            if ended(&engine, id).await.state.phase == Phase::Done {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, done).await.unwrap();
}

#[tokio::test]
async fn a_blocking_handler_is_told_to_stop_and_its_panic_is_its_own() {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let handler = Blocking::new(4, move |context: &JobContext, payload: Payload| {
        if payload.data == "panic" {
            panic!("as the test wants");
        }
        count.fetch_add(1, Ordering::SeqCst);
        while !context.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err::<Payload, _>(HandlerError::Stopped)
    });
    let engine = engine(
        config(|c| c.stop_grace = LONG),
        handler,
        RouteOptions::default(),
    )
    .await;
    let id = begin(&engine, "/hostile").await;
    until("it has begun", || begun.load(Ordering::SeqCst) == 1).await;
    cancel(&engine, id).await;
    assert_eq!(ended(&engine, id).await.state.phase, Phase::Cancelled);
    let id = engine.submit(call("/hostile", "panic")).await.unwrap().id;
    assert!(error(&engine, id).await.contains("panicked"));
    honest_jobs_are_done(&engine).await;
}

/// Panics when it is dropped, as often as there are such values.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        // A second panic while one is on its way would end the process, which nobody can prevent.
        if !std::thread::panicking() {
            panic!("a bomb of the test");
        }
    }
}

/// Never ends, and panics when it is dropped.
struct EndlessBomb(#[allow(dead_code, reason = "it is there to be dropped")] Bomb);

impl Future for EndlessBomb {
    type Output = Result<Payload, HandlerError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Pending
    }
}

#[tokio::test]
async fn panics_of_every_kind_fail_their_own_job() {
    fail_their_own_job(RouteOptions::default()).await;
}

#[tokio::test]
async fn panics_in_the_engines_own_task_fail_their_own_job() {
    fail_their_own_job(RouteOptions::default().cooperative()).await;
}

async fn fail_their_own_job(options: RouteOptions) {
    let handler = |_: JobContext, payload: Payload| async move {
        match &payload.data[..] {
            b"text" => panic!("as the test wants"),
            b"formatted" => panic!("as {} wants", "the test"),
            b"number" => std::panic::panic_any(7_u64),
            b"bomb" => std::panic::panic_any(Bomb),
            b"endless" => EndlessBomb(Bomb).await,
            _ => {
                let _bomb = Bomb;
                Ok(payload)
            }
        }
    };
    let engine = engine(impatient(), handler, options).await;
    for how in ["text", "formatted", "number", "bomb", "while it ends"] {
        let id = engine.submit(call("/hostile", how)).await.unwrap().id;
        let why = error(&engine, id).await;
        assert_eq!(
            why, "the handler panicked; the server's log says where",
            "{how}"
        );
        honest_jobs_are_done(&engine).await;
    }
    // Dropped because it does not stop: the cancel is how it ended.
    let id = engine.submit(call("/hostile", "endless")).await.unwrap().id;
    cancel(&engine, id).await;
    assert_eq!(ended(&engine, id).await.state.phase, Phase::Cancelled);
    honest_jobs_are_done(&engine).await;
    until("all places are free", || engine.stats().running == 0).await;
    assert_eq!(engine.stats().live, 0);
}

/// Zeros that are counted while they are in memory.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Such a result is neither stored nor kept; it never fails the server, only its job.
#[tokio::test]
async fn a_result_of_a_gibibyte_is_refused_and_its_memory_is_given_back() {
    const GIB: usize = 1 << 30;
    let in_memory = Arc::new(AtomicUsize::new(0));
    let count = in_memory.clone();
    let handler = move |_: JobContext, _: Payload| {
        count.fetch_add(1, Ordering::SeqCst);
        // Zeroed pages that nobody touches are not there until somebody does.
        let result = Counted(vec![0; GIB], count.clone());
        async move { Ok(Payload::binary(Bytes::from_owner(result))) }
    };
    let engine = engine(impatient(), handler, RouteOptions::default().concurrency(2)).await;
    for _ in 0..3 {
        let ids = [
            begin(&engine, "/hostile").await,
            begin(&engine, "/hostile").await,
        ];
        honest_jobs_are_done(&engine).await;
        for id in ids {
            let limit = 64 << 20;
            let expected = format!("result too large: {GIB} bytes, more than the limit of {limit}");
            assert_eq!(error(&engine, id).await, expected);
        }
    }
    until("it is given back", || in_memory.load(Ordering::SeqCst) == 0).await;
    assert_eq!(engine.usage(&ann()).total.bytes, (6 + 60) * 2 + 60 * 2);
}

#[tokio::test]
async fn a_million_reports_do_no_harm() {
    let handler = |context: JobContext, payload: Payload| async move {
        for n in 0..1_000_000_u32 {
            context.progress((n / 11_000) as u8);
        }
        Ok(payload)
    };
    let engine = engine(impatient(), handler, RouteOptions::default()).await;
    let ids = [
        begin(&engine, "/hostile").await,
        begin(&engine, "/hostile").await,
    ];
    honest_jobs_are_done(&engine).await;
    for id in ids {
        let job = ended(&engine, id).await;
        assert_eq!((job.state.phase, job.state.progress), (Phase::Done, 100));
    }
}

/// What a handler leaves behind can talk on, but its job is over, and nothing of the engine's
/// stays in memory for it.
#[tokio::test]
async fn what_outlives_its_job_changes_nothing() {
    let release = Arc::new(tokio::sync::Notify::new());
    let contexts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (let_go, kept) = (release.clone(), contexts.clone());
    let handler = move |context: JobContext, payload: Payload| {
        let (let_go, kept) = (let_go.clone(), kept.clone());
        async move {
            kept.lock().unwrap().push(context.clone());
            tokio::spawn(async move {
                let_go.notified().await;
                context.progress(99);
                context.cancelled().await;
            });
            Ok(payload)
        }
    };
    let engine = engine(impatient(), handler, RouteOptions::default()).await;
    let id = begin(&engine, "/hostile").await;
    let before = ended(&engine, id).await;
    until("nothing is live", || engine.stats().live == 0).await;
    release.notify_waiters();
    contexts.lock().unwrap()[0].progress(99);
    honest_jobs_are_done(&engine).await;
    assert_eq!(ended(&engine, id).await, before);
    assert_eq!(cancel(&engine, id).await, CancelOutcome::Ended(Phase::Done));
    assert!(!contexts.lock().unwrap()[0].is_cancelled());
}
