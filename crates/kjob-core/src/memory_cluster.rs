//! A store in memory that several engines of one process share: for tests and simulations.

mod ears;
mod steps;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use kjob_proto::Text;
use tokio::time::Instant;

use ears::Ears;

use crate::{
    Beat, Claimed, Hint, IdBlock, JobId, MemoryStore, Node, NodeId, Orphan, Owner, Parts, Phase,
    RouteId, Scheduler, SharedStore, State, Store, StoreError, Timestamp, UNSERVED_AFTER, Waiting,
    WaitingCounts, Wanted, pattern_of,
};

/// What [`MemoryNode`]s share. Its clock goes with the time of the runtime, which tests may pause.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use kjob_core::{MemoryCluster, SharedStore};
/// use std::time::Duration;
/// let cluster = MemoryCluster::default();
/// let (a, b) = (cluster.handle(), cluster.handle());
/// a.join(&"http://a".into(), Duration::from_secs(10)).await.unwrap();
/// b.join(&"http://b".into(), Duration::from_secs(10)).await.unwrap();
/// assert_eq!(a.nodes().await.unwrap().len(), 2);
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryCluster {
    shared: Arc<Shared>,
}

struct Shared {
    store: MemoryStore,
    /// What the clock showed, and when.
    began: (Timestamp, Instant),
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    last_node: i64,
    nodes: BTreeMap<NodeId, Member>,
    /// Where each job was started last.
    runs: HashMap<JobId, NodeId>,
    /// What all handles have in common.
    agreed: HashMap<String, Bytes>,
    /// What handles are told by each other.
    ears: Vec<Weak<Ears>>,
    /// Whether new handles are told nothing.
    are_deaf: bool,
}

struct Member {
    url: Text,
    lease_time: Duration,
    alive_until: Instant,
}

fn cut() -> StoreError {
    StoreError::Io {
        doing: "reach the others",
        source: Arc::new(std::io::Error::other("the way is cut")),
    }
}

/// One handle on a [`MemoryCluster`].
pub struct MemoryNode {
    shared: Arc<Shared>,
    ears: Arc<Ears>,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    node: Option<NodeId>,
    patterns: Vec<Text>,
    is_cut: bool,
    is_silent: bool,
    is_closed: bool,
    /// How long reads take to reach the store, and answers to ends to come back.
    delays: (Duration, Duration),
    /// How long answers to submits take to come back.
    submits: Duration,
    /// How long claims take to reach the store, and how many there were.
    claims: (Duration, u64),
    /// How long answers to the next beats take to come back; `None` for those that do not get through.
    beats: VecDeque<Option<Duration>>,
}

impl Default for MemoryCluster {
    /// One whose clock shows the time of the system.
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        Self::at(Timestamp::from_millis(
            i64::try_from(millis).unwrap_or(i64::MAX),
        ))
    }
}

impl MemoryCluster {
    /// One whose clock shows `now`.
    pub fn at(now: Timestamp) -> Self {
        Self {
            shared: Arc::new(Shared {
                store: MemoryStore::default(),
                began: (now, Instant::now()),
                book: Mutex::default(),
            }),
        }
    }

    /// Has no hint get through to handles that are made from now on: they hear of nothing but what they look for.
    pub fn without_hints(self) -> Self {
        self.shared.book().are_deaf = true;
        self
    }

    /// Another handle, which is no node yet.
    pub fn handle(&self) -> MemoryNode {
        let ears = Arc::<Ears>::default();
        let mut book = self.shared.book();
        if !book.are_deaf {
            book.ears.push(Arc::downgrade(&ears));
        }
        drop(book);
        MemoryNode {
            shared: Arc::clone(&self.shared),
            ears,
            own: Mutex::default(),
        }
    }
}

impl Shared {
    fn now(&self) -> Timestamp {
        let (shown, when) = self.began;
        shown.after(when.elapsed())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryNode {
    /// Has every call of this handle fail from now on, as if the way to the store were cut; or no longer.
    pub fn set_cut(&self, is_cut: bool) {
        self.own().is_cut = is_cut;
    }

    /// Has submits, claims, ends, beats and what is asked for callbacks of this handle get no answer from now on,
    /// as from a store that hangs; or no longer.
    pub fn set_silent(&self, is_silent: bool) {
        self.own().is_silent = is_silent;
    }

    /// Completes when the store is not silent.
    async fn heard(&self) {
        while self.own().is_silent {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has reads take so long to reach the store, and answers to ends so long to come back, as over a slow way.
    pub fn set_slow(&self, reads: Duration, ends: Duration) {
        self.own().delays = (reads, ends);
    }

    /// Has answers to submits take so long to come back; one that is under way when the way is cut is lost.
    pub fn slow_submits(&self, answers: Duration) {
        self.own().submits = answers;
    }

    /// Has claims take so long to reach the store.
    pub fn slow_claims(&self, by: Duration) {
        self.own().claims.0 = by;
    }

    /// How often jobs were claimed, whether there were any or not.
    pub fn claims(&self) -> u64 {
        self.own().claims.1
    }

    /// Has so many of the next beats fail, as if they alone did not get through.
    pub fn lose_beats(&self, count: usize) {
        self.own().beats.extend(std::iter::repeat_n(None, count));
    }

    /// Has the answers to the beats after these take so long to come back, each as long as is said of it.
    pub fn slow_beats(&self, answers: impl IntoIterator<Item = Duration>) {
        self.own().beats.extend(answers.into_iter().map(Some));
    }

    /// The node that it is, if it is one still by its own book.
    pub fn node(&self) -> Option<NodeId> {
        self.own().node
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book()
    }

    fn store(&self) -> Result<&MemoryStore, StoreError> {
        let own = self.own();
        if own.is_closed {
            return Err(StoreError::Closed);
        }
        if own.is_cut {
            return Err(cut());
        }
        Ok(&self.shared.store)
    }

    /// The node, if its lease has not ended.
    fn alive(&self) -> Option<NodeId> {
        let node = self.own().node?;
        let book = self.book();
        let member = book.nodes.get(&node)?;
        (Instant::now() < member.alive_until).then_some(node)
    }

    /// Tells the other handles.
    fn say(&self, hint: Hint) {
        let mut book = self.book();
        book.ears.retain(|ears| ears.strong_count() > 0);
        let others = book.ears.iter().filter_map(Weak::upgrade);
        for ears in others.filter(|ears| !Arc::ptr_eq(ears, &self.ears)) {
            ears.of(hint).notify_one();
        }
    }

    fn starts_here(&self, id: JobId) {
        if let Some(node) = self.node() {
            self.book().runs.insert(id, node);
        }
    }

    async fn live(&self, now: Timestamp) -> Result<Vec<crate::LiveJob>, StoreError> {
        Ok(self.store()?.live(None, usize::MAX, now).await?.jobs)
    }
}

#[async_trait]
impl SharedStore for MemoryNode {
    async fn join(&self, url: &Text, lease_time: Duration) -> Result<NodeId, StoreError> {
        self.leave().await?;
        let mut book = self.book();
        book.last_node += 1;
        let node = NodeId(book.last_node);
        let member = Member {
            url: url.clone(),
            lease_time,
            alive_until: Instant::now() + lease_time,
        };
        book.nodes.insert(node, member);
        self.own().node = Some(node);
        Ok(node)
    }

    async fn reserve_ids_from(&self, least: JobId, count: u32) -> Result<IdBlock, StoreError> {
        self.store()?.reserve_ids_from(least, count)
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.heard().await;
        self.store()?;
        if let Some(node) = self.own().node.take() {
            self.book().nodes.remove(&node);
        }
        Ok(())
    }

    async fn serve(&self, patterns: &[Text]) -> Result<(), StoreError> {
        self.store()?;
        self.own().patterns = patterns.to_vec();
        Ok(())
    }

    async fn claim(
        &self,
        wanted: &[Wanted],
        limit: usize,
        ageing: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.heard().await;
        let slow = {
            let (slow, count) = &mut self.own().claims;
            *count += 1;
            *slow
        };
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        if self.alive().is_none() {
            return Ok(Vec::new());
        }
        let mut queue = Scheduler::new(ageing);
        let patterns: Vec<Text> = wanted.iter().map(|it| it.pattern.clone()).collect();
        for job in self.live(now).await? {
            let is_ripe = job.state.not_before.is_none_or(|at| at <= now);
            let pattern = pattern_of(&patterns, &job.endpoint);
            let place = pattern.and_then(|it| patterns.iter().position(|known| known == it));
            if let (Phase::Queued, true, Some(place)) = (job.state.phase, is_ripe, place) {
                queue.push(Waiting {
                    id: job.id,
                    owner: job.owner,
                    route: RouteId(u16::try_from(place).unwrap_or(u16::MAX)),
                    priority: job.priority,
                    since: now,
                });
            }
        }
        let mut left: Vec<usize> = wanted.iter().map(|it| it.limit).collect();
        let mut claimed = Vec::new();
        while claimed.len() < limit {
            let has_room =
                |route: RouteId| left.get(usize::from(route.0)).is_some_and(|it| *it > 0);
            let Some(job) = queue.pop(now, has_room) else {
                break;
            };
            // Another may have been faster.
            let Ok(started) = self.start(job.id, now).await else {
                continue;
            };
            if let Some(left) = left.get_mut(usize::from(job.route.0)) {
                *left -= 1;
            }
            let stored = self.store()?.get(job.id, Parts::NONE, now).await?;
            claimed.extend(stored.map(|stored| Claimed {
                header: stored.header,
                state: started.state,
                payload: started.payload,
            }));
        }
        Ok(claimed)
    }

    async fn beat(&self) -> Result<Beat, StoreError> {
        self.heard().await;
        self.store()?;
        let fate = self.own().beats.pop_front();
        let Some(delay) = fate.unwrap_or(Some(Duration::ZERO)) else {
            return Err(cut());
        };
        let Some(node) = self.alive() else {
            if let Some(node) = self.own().node.take() {
                self.book().nodes.remove(&node);
            }
            return Ok(Beat::Lost);
        };
        if let Some(member) = self.book().nodes.get_mut(&node) {
            member.alive_until = Instant::now() + member.lease_time;
        }
        let cancelling = |orphan: &Orphan| orphan.state.phase == Phase::Cancelling;
        let running = self.running().await?;
        let cancelling = running.iter().filter(|orphan| cancelling(orphan));
        let now = self.shared.now();
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        Ok(Beat::Alive {
            cancelling: cancelling
                .map(|orphan| (orphan.header.id, orphan.state.lease))
                .collect(),
            now,
        })
    }

    async fn take_over(&self, limit: usize) -> Result<Vec<Orphan>, StoreError> {
        self.store()?;
        let Some(own) = self.alive() else {
            return Ok(Vec::new());
        };
        let now = Timestamp::default();
        let running = self.live(now).await?;
        let running = running
            .iter()
            .filter(|job| job.state.phase != Phase::Queued);
        let patterns = self.own().patterns.clone();
        let mut orphans = Vec::new();
        for job in running {
            let is_served = pattern_of(&patterns, &job.endpoint).is_some();
            let mut book = self.book();
            let is_others = book.runs.get(&job.id).is_none_or(|node| {
                let member = book.nodes.get(node);
                let wait = if is_served {
                    Duration::ZERO
                } else {
                    UNSERVED_AFTER
                };
                member.is_some_and(|member| Instant::now() < member.alive_until + wait)
            });
            if is_others || orphans.len() == limit {
                continue;
            }
            if let Some(job) = self.shared.store.take_over(job.id, now)? {
                book.runs.insert(job.header.id, own);
                orphans.push(Orphan {
                    header: job.header,
                    state: job.state,
                });
            }
        }
        Ok(orphans)
    }

    async fn running(&self) -> Result<Vec<Orphan>, StoreError> {
        let store = self.store()?;
        let Some(node) = self.node() else {
            return Ok(Vec::new());
        };
        let now = Timestamp::default();
        let mut running = Vec::new();
        for job in self.live(now).await? {
            let is_ours = self.book().runs.get(&job.id) == Some(&node);
            if is_ours
                && job.state.phase != Phase::Queued
                && let Some(job) = store.get(job.id, Parts::NONE, now).await?
            {
                running.push(Orphan {
                    header: job.header,
                    state: job.state,
                });
            }
        }
        Ok(running)
    }

    async fn watch(
        &self,
        ids: &[JobId],
        now: Timestamp,
    ) -> Result<Vec<(JobId, State)>, StoreError> {
        let store = self.store()?;
        let mut states = Vec::new();
        for id in ids {
            let job = store.get(*id, Parts::NONE, now).await?;
            states.extend(job.map(|job| (*id, job.state)));
        }
        Ok(states)
    }

    async fn agree(&self, name: &str, value: &[u8]) -> Result<Bytes, StoreError> {
        self.store()?;
        let mut book = self.book();
        let agreed = book.agreed.entry(name.to_owned());
        Ok(agreed
            .or_insert_with(|| Bytes::copy_from_slice(value))
            .clone())
    }

    async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        self.store()?;
        let book = self.book();
        let alive = book.nodes.iter();
        let alive = alive.filter(|(_, member)| Instant::now() < member.alive_until);
        Ok(alive
            .map(|(id, member)| Node {
                id: *id,
                url: member.url.clone(),
            })
            .collect())
    }

    async fn hint(&self, hint: Hint) {
        self.ears.of(hint).notified().await;
    }

    fn waiting(&self, owner: &Owner) -> WaitingCounts {
        self.shared.store.waiting(owner)
    }
}

impl fmt::Debug for MemoryCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCluster").finish_non_exhaustive()
    }
}

impl fmt::Debug for MemoryNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node();
        f.debug_struct("MemoryNode")
            .field("node", &node)
            .finish_non_exhaustive()
    }
}
