//! A disk that takes only so much more, and gets room back by what is deleted: what was taken goes
//! on, and nothing new is taken until there is room.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use kjob_core::{Finish, JobId, Lease, Output, Store, StoreError};
use kjob_proto::Text;
use kjob_store::embedded::EmbeddedOptions;

use crate::layer::{Errno, Layer, under_the_layer};
use crate::nth::seeds;
use crate::steps::{Answer, Op};
use crate::work::{Work, options, runtime};

const FOR_LONG: Duration = Duration::from_secs(1_000);

#[test]
fn what_was_taken_goes_on_when_the_disk_is_full() {
    let name = "full::what_was_taken_goes_on_when_the_disk_is_full";
    under_the_layer(name, false, |layer| {
        layer.pretend_to_sync();
        for (error, room) in [
            (Errno::NoSpace, 0),
            (Errno::NoSpace, 5_000),
            (Errno::Quota, 0),
            (Errno::Quota, 5_000),
        ] {
            let dir = layer.directory.join(format!("{error:?}-{room}"));
            let work = Work::new(&dir, 1);
            runtime().block_on(go_on(&layer, work, error, room));
        }
    });
}

async fn go_on(layer: &Layer, mut work: Work, error: Errno, room: u64) {
    // Each step below is a commit of its own, of a few pages.
    work.options.reserve_bytes = 1024 * 1024;
    work.options.segment_jobs = 100;
    work.options.segment_age = FOR_LONG;
    // One that is written back has room in it for some steps more.
    work.options.log_bytes = EmbeddedOptions::default().log_bytes;
    work.open().unwrap();
    let full = work.store().watch_full();
    let reserve = work.dir.join("RESERVE");
    let is_whole = || fs::metadata(&reserve).is_ok_and(|file| file.len() == 1024 * 1024);
    assert!(is_whole() && !*full.borrow());
    let mut jobs = Vec::new();
    for number in 0..8 {
        jobs.push(
            work.submit_as(Some(&format!("job_{number}")), FOR_LONG)
                .await,
        );
    }
    let mut repeated = work.history.last().unwrap().steps[0].op.clone();
    work.fail(jobs[0]).await;
    let queued = [
        submit(&mut work, false).await,
        submit(&mut work, false).await,
    ];
    work.pass(Duration::from_secs(1));

    layer.limit_room(room, error);
    // What is there may do for some.
    for tries in 0.. {
        assert!(tries < 10, "it never gets full");
        submit(&mut work, true).await;
        if is_refused(&work) {
            break;
        }
    }
    assert!(*full.borrow());
    let done = |bytes| Finish::Complete(Output::binary(Bytes::from(vec![7; bytes])));
    for op in [
        Op::Cancel(queued[0]),
        Op::Start(queued[1]),
        Op::Cancel(jobs[1]),
        Op::Finish(jobs[1], Lease(1), Finish::Stop),
        Op::Progress(jobs[2], Lease(1), 50),
        Op::Finish(jobs[2], Lease(1), done(20)),
        // In a file of its own.
        Op::Finish(jobs[3], Lease(1), done(6_000)),
        Op::Finish(jobs[4], Lease(1), Finish::Fail(Text::from("it failed"))),
        Op::ExpireAt(jobs[0], work.now.after(Duration::from_secs(2))),
        Op::Reserve(1_000),
        Op::Expire,
    ] {
        let what = format!("{op:?}, {error:?}");
        work.ask(vec![op]).await;
        let answer = &work.history.last().unwrap().steps[0].answer;
        assert!(!answer.is_failed(), "{what}: {answer:?}");
    }
    // Many at once, with submits among them.
    let mut ops = vec![Op::Cancel(jobs[5]), Op::Cancel(jobs[6])];
    ops.insert(1, new(&mut work, true).await);
    work.ask(ops).await;
    let steps = &work.history.last().unwrap().steps;
    let failed: Vec<_> = steps.iter().map(|step| step.answer.is_failed()).collect();
    assert_eq!(failed, [false, true, false]);
    // It needs no room to be told that a job is there already.
    if let Op::Submit(job, _) = &mut repeated {
        job.header.id = work.id().await.unwrap();
    }
    work.ask(vec![repeated]).await;
    assert!(!is_refused(&work));
    let store = work.store().clone();
    work.known.check(&store, work.now).await;
    assert!(layer.misses() > 0 && store.failure().is_none());
    assert!(*full.borrow());
    drop(store);

    // Also when it is opened so: with room for that and no more, and with none but the reserve.
    for room in [200_000, 0] {
        work.close().await;
        if room == 0 {
            layer.lift_limit();
            work.open().unwrap();
            work.close().await;
            assert!(is_whole());
        } else if is_whole() {
            fs::remove_file(&reserve).unwrap();
        }
        layer.limit_room(room, error);
        work.settle().await;
        submit(&mut work, true).await;
        assert!(is_refused(&work) && *work.store().watch_full().borrow());
        work.ask(vec![Op::Progress(jobs[7], Lease(1), 50)]).await;
        assert!(!work.history.last().unwrap().steps[0].answer.is_failed());
    }

    let full = work.store().watch_full();
    layer.lift_limit();
    submit(&mut work, true).await;
    assert!(!is_refused(&work));
    assert!(is_whole() && !*full.borrow());
    work.settle().await;
    work.finish().await;
}

/// Steps that come one by one, each a commit of its own.
#[test]
fn the_reserve_does_for_a_hundred_single_cancels() {
    let name = "full::the_reserve_does_for_a_hundred_single_cancels";
    under_the_layer(name, false, |layer| {
        layer.pretend_to_sync();
        let mut work = Work::new(&layer.directory.join("store"), 1);
        work.options = EmbeddedOptions::default();
        runtime().block_on(async {
            work.open().unwrap();
            let mut queued = Vec::new();
            for _ in 0..2_000 {
                queued.push(submit(&mut work, false).await);
            }
            layer.limit_room(0, Errno::NoSpace);
            let mut cancelled = 0;
            for id in queued {
                let asked = work.store().request_cancel(id, work.now).await;
                if asked.is_err() {
                    break;
                }
                cancelled += 1;
            }
            println!("{cancelled} cancels in 4 MiB");
            assert!(cancelled >= 100);
            layer.lift_limit();
            work.close().await;
        });
    });
}

async fn new(work: &mut Work, start: bool) -> Op {
    let id = work.id().await.unwrap();
    let tag = format!("new_{id}");
    let Op::Submit(mut job, _) = work.submit(id, tag) else {
        unreachable!("it is a submit");
    };
    job.header.options.retention = FOR_LONG;
    Op::Submit(job, start)
}

async fn submit(work: &mut Work, start: bool) -> JobId {
    let op = new(work, start).await;
    let Op::Submit(job, _) = &op else {
        unreachable!("it is a submit");
    };
    let id = job.header.id;
    work.ask(vec![op]).await;
    id
}

fn is_refused(work: &Work) -> bool {
    match &work.history.last().unwrap().steps[0].answer {
        Answer::Failed(error) => {
            assert!(matches!(error, StoreError::Full), "{error}");
            true
        }
        _ => false,
    }
}

/// However much there is, and also once the reserve is used up.
#[test]
fn a_disk_that_gets_full_at_any_moment_is_no_end() {
    let name = "full::a_disk_that_gets_full_at_any_moment_is_no_end";
    under_the_layer(name, false, |layer| {
        layer.pretend_to_sync();
        let (seeds, every) = seeds();
        let step = if every { 7_000 } else { 45_000 };
        for (seed, room) in (0..seeds).flat_map(|seed| (0..20).map(move |n| (seed, n * step))) {
            for error in [Errno::NoSpace, Errno::Quota] {
                let dir = layer.directory.join(format!("{seed}-{room}-{error:?}"));
                let mut work = Work::new(&dir, seed);
                // With less than a step takes, and with enough for some.
                work.options.reserve_bytes = if seed % 2 == 0 { 100_000 } else { 10_000 };
                runtime().block_on(fill(&layer, work, error, room));
                fs::remove_dir_all(&dir).unwrap();
            }
        }
        assert!(layer.misses() > 0);
    });
}

async fn fill(layer: &Layer, mut work: Work, error: Errno, room: u64) {
    let before = layer.misses();
    work.reopens = false;
    work.open().unwrap();
    work.run(10).await;
    layer.limit_room(room, error);
    work.run(60).await;
    layer.lift_limit();
    let store = work.store().clone();
    assert!(store.failure().is_none(), "{:?}", store.failure());
    work.known.check(&store, work.now).await;
    drop(store);
    let asked = work.history.len();
    work.run(10).await;
    for step in work.history[asked..].iter().flat_map(|asked| &asked.steps) {
        assert!(!step.answer.is_failed(), "{step:?}");
    }
    work.settle().await;
    println!(
        "{room} bytes, {error:?}: {} missed",
        layer.misses() - before
    );
    assert!(!*work.store().watch_full().borrow());
    work.run(10).await;
    work.settle().await;
    work.finish().await;
}

/// The reserve is the store's own, and nothing of it matters.
#[test]
fn a_reserve_that_is_damaged_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut work = Work::new(dir.path(), 1);
    let reserve = dir.path().join("RESERVE");
    let len = options().reserve_bytes;
    runtime().block_on(async {
        work.open().unwrap();
        work.run(20).await;
        work.close().await;
        for damaged in [
            Vec::new(),
            vec![0; 5],
            vec![0; len as usize],
            vec![0; 100_000],
        ] {
            fs::write(&reserve, damaged).unwrap();
            let report = kjob_store::embedded::check(dir.path()).unwrap();
            assert_eq!(report.findings, []);
            work.settle().await;
            assert_eq!(fs::metadata(&reserve).unwrap().len(), len);
            work.close().await;
        }
        // With a hole in it, it would hold nothing.
        let file = fs::File::create(&reserve).unwrap();
        file.set_len(len).unwrap();
        drop(file);
        work.settle().await;
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&reserve).unwrap());
        assert!(blocks * 512 >= len, "{blocks}");
        work.finish().await;
    });
}
