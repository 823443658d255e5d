//! Generated steps on a store, each held against what is known.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kjob_core::{
    Finish, Header, JobId, JobOptions, NewJob, OnInterrupt, Owner, Parts, Payload, Phase, QueryId,
    Store, StoreError, TagReuse, Timestamp,
};
use kjob_proto::{Encoding, Text};
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};

use crate::known::Known;
use crate::steps::{Answer, Op};

/// A store at work.
pub struct Work {
    pub dir: PathBuf,
    pub store: Option<Arc<EmbeddedStore>>,
    pub options: EmbeddedOptions,
    pub known: Known,
    pub now: Timestamp,
    /// Whether the store is closed and opened between steps.
    pub reopens: bool,
    /// Everything asked of the store, in the order of asking.
    pub history: Vec<Asked>,
    /// Where the layer writes its journal, which tells when something was asked and answered.
    journal: Option<PathBuf>,
    random: Random,
    ids: Vec<JobId>,
}

/// Steps that were asked for at the same moment (by the length of the journal).
#[derive(Clone, Debug)]
pub struct Asked {
    pub begin: u64,
    pub now: Timestamp,
    pub steps: Vec<Answered>,
}

/// A step, its answer, and the moment by which that was there.
#[derive(Clone, Debug)]
pub struct Answered {
    pub op: Op,
    pub answer: Answer,
    pub end: u64,
}

/// Numbers that look random and come again with the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// So small that segments begin, go and are rewritten all the time.
pub fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        segment_jobs: 5,
        segment_age: Duration::from_secs(20),
        row_bytes_max: 200,
        inline_bytes_max: 1_000,
        readers: 1,
        batch_max: 4,
        cached_headers: 4,
        log_bytes: 64 * 1024,
        sweep_jobs: 3,
        reserve_bytes: 16 * 1024,
        reserve_retry: Duration::ZERO,
        ..EmbeddedOptions::default()
    }
}

/// A runtime whose only other threads are the store's own.
pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.build().unwrap()
}

impl Work {
    /// Work on a store in `dir` that is yet to be opened.
    pub fn new(dir: &Path, seed: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            store: None,
            options: options(),
            known: Known::default(),
            now: Timestamp::from_millis(1_700_000_000_000),
            reopens: true,
            history: Vec::new(),
            journal: None,
            random: Random::new(seed),
            ids: Vec::new(),
        }
    }

    pub fn with_journal(mut self, journal: &Path) -> Self {
        self.journal = Some(journal.to_owned());
        self
    }

    pub fn open(&mut self) -> Result<(), OpenError> {
        self.store = Some(Arc::new(EmbeddedStore::open(
            &self.dir,
            self.options.clone(),
        )?));
        Ok(())
    }

    pub fn store(&self) -> &Arc<EmbeddedStore> {
        self.store.as_ref().unwrap()
    }

    /// Closes the store; whether that went well says nothing of what is in it.
    pub async fn close(&mut self) {
        if let Some(store) = self.store.take() {
            let _ = store.close().await;
        }
    }

    /// Opens the store anew, where everything works, and finds what is known.
    pub async fn settle(&mut self) {
        self.close().await;
        self.open().unwrap();
        let store = Arc::clone(self.store());
        self.known.settle(&store, self.now).await;
        assert!(store.failure().is_none());
    }

    /// Does so many generated things. Gives up early if the store cannot be opened again.
    pub async fn run(&mut self, count: usize) {
        for _ in 0..count {
            match self.random.below(100) {
                0..8 => self.burst().await,
                8..12 => self.pass(Duration::from_millis(self.random.clone().next() % 3_000)),
                12..14 if self.reopens => {
                    self.close().await;
                    if self.open().is_err() {
                        return;
                    }
                }
                14..20 => self.look().await,
                _ => {
                    if let Some(op) = self.choose().await {
                        self.ask(vec![op]).await;
                    }
                }
            }
        }
    }

    /// Time goes by.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.random.next();
    }

    /// Ends and expires everything: then nothing is left of it, in memory or on disk.
    pub async fn finish(mut self) {
        self.cancel_all().await;
        self.pass(Duration::from_secs(1_000_000_000));
        let store = Arc::clone(self.store());
        for calls in 0.. {
            assert!(calls < 1_000, "expiring never ends");
            if !store.expire(self.now).await.unwrap().more {
                break;
            }
        }
        self.known.check(&store, self.now).await;
        assert_eq!(store.usage(&Owner::anonymous()).total.jobs, 0);
        assert_eq!(store.usage(&Owner::anonymous()).total.bytes, 0);
        drop(store);
        self.close().await;
        // What is left over is gone once it was opened and closed without a fault.
        self.open().unwrap();
        self.close().await;
        let count = |dir: &str| match fs::read_dir(self.dir.join(dir)) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        };
        assert_eq!(count("blobs"), Vec::<PathBuf>::new());
        assert_eq!(count("segments").len(), 1, "{:?}", count("segments"));
    }

    /// Cancels what lives.
    pub async fn cancel_all(&mut self) {
        for id in self.known.ids() {
            if let Some((phase, lease)) = self.known.live(id) {
                self.ask(vec![Op::Cancel(id)]).await;
                if phase != Phase::Queued {
                    self.ask(vec![Op::Finish(id, lease, Finish::Stop)]).await;
                }
            }
        }
    }

    /// Submits a job under an id of its own, started at once, to be kept for so long.
    pub async fn submit_as(&mut self, tag: Option<&str>, retention: Duration) -> JobId {
        let id = self.id().await.unwrap();
        let tag = tag.map_or_else(|| format!("job-{id}-abcdefghijkl"), str::to_owned);
        let Op::Submit(mut job, _) = self.submit(id, tag) else {
            unreachable!("it is a submit");
        };
        job.header.owner = Owner::anonymous();
        job.header.options.retention = retention;
        job.tag_reuse = TagReuse::IfFailed;
        self.ask(vec![Op::Submit(job, true)]).await;
        id
    }

    /// Lets a job fail.
    pub async fn fail(&mut self, id: JobId) {
        let (_, lease) = self.known.live(id).unwrap();
        let finish = Finish::Fail(Text::from("it failed"));
        self.ask(vec![Op::Finish(id, lease, finish)]).await;
    }

    /// Asks for steps at the same moment.
    pub async fn ask(&mut self, ops: Vec<Op>) {
        let (now, begin) = (self.now, self.moment());
        // Whatever is done from here on cannot be acknowledged.
        let had_failed = self.store().failure().is_some();
        let asked: Vec<_> = ops
            .into_iter()
            .map(|op| {
                let store = Arc::clone(self.store());
                let asked = op.clone();
                (
                    op,
                    tokio::spawn(async move { asked.carry_out(&store, now).await }),
                )
            })
            .collect();
        let mut steps = Vec::new();
        for (op, answer) in asked {
            let answer = answer.await.unwrap();
            assert!(
                !had_failed || answer.is_failed() || changes_nothing(&op, &answer),
                "{op:?} was acknowledged after the store had failed: {answer:?}"
            );
            if let Answer::Ids(ids) = &answer {
                self.ids.extend(ids.iter().rev());
            }
            let end = self.moment();
            steps.push(Answered { op, answer, end });
        }
        let answered: Vec<_> = steps.iter().map(|s| (&s.op, Some(&s.answer))).collect();
        self.known.take(&answered, now);
        self.history.push(Asked { begin, now, steps });
    }

    /// A few new jobs and ends of old ones at once, so that they share commits. Some want the same
    /// tag, which may be that of a job that ends.
    async fn burst(&mut self) {
        let mut ops = Vec::new();
        for _ in 0..3 {
            if let Some(id) = self.id().await {
                let tag = format!("pool-{}", self.random.below(5));
                ops.push(self.submit(id, tag));
            }
        }
        let mut live: Vec<_> = self.live();
        live.truncate(3);
        ops.extend(live.into_iter().map(|id| self.end(id)));
        self.ask(ops).await;
    }

    async fn choose(&mut self) -> Option<Op> {
        let live = self.live();
        let all = self.known.ids();
        let any = |random: &mut Random| (!all.is_empty()).then(|| random.pick(&all));
        let one = |random: &mut Random| match live.is_empty() {
            false => Some(random.pick(&live)),
            true => any(random),
        };
        match self.random.below(80) {
            0..32 => {
                let id = self.id().await?;
                let tag = self.tag(id);
                Some(self.submit(id, tag))
            }
            32..38 => one(&mut self.random).map(Op::Start),
            38..44 => {
                let id = one(&mut self.random)?;
                let lease = self.known.live(id)?.1;
                Some(Op::Progress(id, lease, self.random.below(100) as u8))
            }
            44..62 => one(&mut self.random).map(|id| self.end(id)),
            62..66 => one(&mut self.random).map(Op::Cancel),
            66..70 => {
                let id = any(&mut self.random)?;
                let to = Duration::from_millis(self.random.below(3_000));
                Some(Op::ExpireAt(id, self.now.after(to)))
            }
            70..78 => Some(Op::Expire),
            _ => Some(Op::Reserve(1 + self.random.below(4) as u32)),
        }
    }

    fn end(&mut self, id: JobId) -> Op {
        let lease = self
            .known
            .live(id)
            .map_or(kjob_core::Lease(1), |live| live.1);
        let reason = Text::from("it failed");
        let finish = match self.random.below(8) {
            0 => Finish::Fail(reason),
            1 => Finish::Stop,
            2 => {
                let then = OnInterrupt::Retry {
                    max_attempts: 2,
                    not_before: self.now,
                    charged: true,
                };
                Finish::Interrupt { reason, then }
            }
            _ => Finish::Complete(Payload::binary(self.bytes()).into()),
        };
        Op::Finish(id, lease, finish)
    }

    pub fn submit(&mut self, id: JobId, tag: String) -> Op {
        let short = Duration::from_millis(self.random.below(4_000));
        let retention = if self.random.one_in(8) {
            Duration::from_secs(1_000_000)
        } else {
            short
        };
        let header = Header {
            id,
            tag: tag.parse().unwrap(),
            owner: Owner::new(self.random.pick(&["anonymous", "ann"])),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).unwrap(),
            parent_span: 0,
            received_at: self.now,
            source_ip: Text::from("127.0.0.1"),
            options: JobOptions {
                retention,
                ..JobOptions::default()
            },
        };
        // The same tag often means the same call.
        let payload = match tag.strip_prefix("pool-") {
            Some(tag) if !self.random.one_in(4) => Bytes::from(tag.to_owned()),
            _ => self.bytes(),
        };
        let job = NewJob {
            header,
            payload,
            tag_reuse: self.random.pick(&[TagReuse::Never, TagReuse::IfFailed]),
        };
        Op::Submit(Box::new(job), !self.random.one_in(3))
    }

    /// A tag of every form, by chance.
    fn tag(&mut self, id: JobId) -> String {
        match self.random.below(5) {
            0 => format!("job-{id}-abcdefghijkl"),
            1 => {
                let last = id.get() as u64;
                format!("{:08x}-0000-4000-8000-{last:012x}", last ^ 0xa5a5)
            }
            2 => {
                // Of one that is there: the tag of one to come cannot be guessed.
                let there = self.known.ids();
                let earlier = (!there.is_empty()).then(|| self.random.pick(&there));
                format!("job-{}-abcdefghijkl", earlier.unwrap_or(id))
            }
            _ => format!("pool-{}", self.random.below(5)),
        }
    }

    /// Bytes for a row, or too many for one.
    fn bytes(&mut self) -> Bytes {
        let len = self.random.pick(&[0, 20, 300, 1_000, 1_001, 6_000]);
        (0..len).map(|_| self.random.next() as u8).collect()
    }

    /// An id that was set aside for us.
    pub async fn id(&mut self) -> Option<JobId> {
        if self.ids.is_empty() {
            self.ask(vec![Op::Reserve(8)]).await;
        }
        self.ids.pop()
    }

    fn live(&self) -> Vec<JobId> {
        let ids = self.known.ids().into_iter();
        ids.filter(|id| self.known.live(*id).is_some()).collect()
    }

    /// Gets a job: whatever is found must be possible.
    async fn look(&mut self) {
        let all = self.known.ids();
        if all.is_empty() {
            return;
        }
        let id = self.random.pick(&all);
        let parts = Parts {
            payload: true,
            result: true,
        };
        if let Ok(found) = self.store().get(id, parts, self.now).await {
            let allowed = self.known.allows(id, found.as_ref(), self.now);
            assert!(allowed, "job {id} cannot be {found:#?}");
        }
    }

    /// Steps that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let steps = self.history.iter().flat_map(|asked| &asked.steps);
        steps.filter(|step| !step.answer.is_failed()).count()
    }

    pub fn moment(&self) -> u64 {
        let journal = self.journal.as_ref();
        journal.map_or(0, |journal| fs::metadata(journal).unwrap().len())
    }
}

/// Whether the answer promises nothing that has to be made durable.
fn changes_nothing(op: &Op, answer: &Answer) -> bool {
    matches!(op, Op::Expire) || matches!(answer, Answer::Failed(StoreError::Closed))
}
