//! A store that several engines share: who is alive, who runs what, and who takes over.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_proto::Text;

use crate::{Header, IdBlock, JobId, Lease, Owner, State, Store, StoreError, Timestamp};

/// A [`Store`] of which many processes have a handle each, an engine over each handle.
///
/// The contract:
///
/// - A handle is a **node** from [`join`](Self::join) until [`leave`](Self::leave) or until its lease ends.
///   What is started through it meanwhile, by whichever step, runs on that node. Who has not joined may
///   submit, read and cancel, and what it starts is nobody's to take over.
/// - Leases of nodes end by the clock of the store and by no other. One that has ended has ended for good:
///   its node is [`Beat::Lost`], and joins anew, under another id, if it wants to go on.
/// - A job is started on one node at a time. When its node's lease has ended, one other node gets it by
///   [`take_over`](Self::take_over), by a step ([`Event::TakeOver`](crate::Event::TakeOver)) that makes its
///   [`Lease`] number larger; so all that the old node says of it later is refused as of a
///   [stale lease](crate::Refused::StaleLease).
/// - The clock that says whether a waiting job's time has come is the caller's, handed in as everywhere.
///   Callers set theirs by that of the store, of which each [`beat`](Self::beat) tells.
#[async_trait]
pub trait SharedStore: Store {
    /// Makes this handle a node that is reached at `url` and is alive for `lease_time` from now, and gives
    /// its id, which no other node ever had or will have.
    ///
    /// A handle that was a node before is another one afterwards; the old one has left.
    async fn join(&self, url: &Text, lease_time: Duration) -> Result<NodeId, StoreError>;

    /// As [`reserve_ids`](Store::reserve_ids), none of them below `least`, nor any that is reserved later.
    async fn reserve_ids_from(&self, least: JobId, count: u32) -> Result<IdBlock, StoreError>;

    /// Ends this node. What still runs on it is for others to take over at once. Nothing if it is none.
    async fn leave(&self) -> Result<(), StoreError>;

    /// Says which jobs this engine runs, by the patterns of its routes: an endpoint (`/demo/echo`), or a
    /// prefix and an asterisk (`/report/*`).
    ///
    /// A job waits under the pattern that fits it best, by [`pattern_of`], of those that the handle knows
    /// through which it was submitted. Those that wait under a pattern which is none of these, because
    /// routes were others when they came, wait under the best of these from now on, where one fits.
    async fn serve(&self, patterns: &[Text]) -> Result<(), StoreError>;

    /// Starts up to `limit` waiting jobs whose time has come at `now`, of each pattern at most as many as
    /// are wanted, and hands them out.
    ///
    /// The order is by priority, in fair turns between owners inside a priority, by id inside an owner.
    /// Each `ageing` that the first of a priority has waited lifts that priority by one, so that none is
    /// starved. Over several nodes the order is kept as well as what they know of each other allows; a job
    /// is handed out once in any case.
    ///
    /// What was claimed runs on this node even where the answer was lost, or the future dropped; see
    /// [`running`](Self::running).
    async fn claim(
        &self,
        wanted: &[Wanted],
        limit: usize,
        ageing: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError>;

    /// Makes this node's lease as long again as when it joined, and tells what it has to know.
    ///
    /// Its lease lasts at least until as long after the moment at which this was *called*, by a clock that
    /// is never set; a node that has no answer by then has to let go of what it runs.
    async fn beat(&self) -> Result<Beat, StoreError>;

    /// Takes over up to `limit` jobs that run on nodes whose leases have ended. Each goes to one node
    /// alone, which ends its run by its route's rule with the lease it is given here.
    ///
    /// Jobs go to nodes that [serve](Self::serve) their endpoint, as others do not know the rule of their route. What
    /// is left [`UNSERVED_AFTER`] the end of the lease goes to any node, as there may be none.
    async fn take_over(&self, limit: usize) -> Result<Vec<Orphan>, StoreError>;

    /// All jobs that run on this node. An engine that had no answer to a start or a claim, and so cannot know
    /// what was started for it, finds here what it does not run.
    async fn running(&self) -> Result<Vec<Orphan>, StoreError>;

    /// The states of those of these jobs that exist at `now`, in no order.
    async fn watch(&self, ids: &[JobId], now: Timestamp)
    -> Result<Vec<(JobId, State)>, StoreError>;

    /// Completes when another handle has said such a thing since this was last awaited. These are hints: any of
    /// them may be lost, so whoever waits for one looks now and then all the same. By default there are none.
    async fn hint(&self, hint: Hint) {
        let _ = hint;
        std::future::pending().await
    }

    /// Has all handles agree on a value: gives what the first said, now or at any time before. For what nodes
    /// have to have in common; a secret is best told by its hash.
    async fn agree(&self, name: &str, value: &[u8]) -> Result<Bytes, StoreError>;

    /// Those nodes that are alive, by rising id.
    async fn nodes(&self) -> Result<Vec<Node>, StoreError>;

    /// How many jobs wait to be started, on all nodes, in all and of `owner`. Answers from memory, so what
    /// others did may be missing for a second or so.
    fn waiting(&self, owner: &Owner) -> WaitingCounts;
}

/// How long jobs of a node that is gone are left to nodes that serve their endpoints.
pub const UNSERVED_AFTER: Duration = Duration::from_secs(60);

/// What handles tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// There may be something to [claim](SharedStore::claim).
    Work,
    /// Jobs have ended that somebody may [watch](SharedStore::watch).
    Ends,
    /// A running job is to stop, of which the next [beat](SharedStore::beat) of its node tells.
    Cancels,
}

/// A node, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i64);

/// A node that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Where it is reached.
    pub url: Text,
}

/// How many jobs of a pattern a node has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// A pattern, as given to [`SharedStore::serve`].
    pub pattern: Text,
    /// At most this many.
    pub limit: usize,
}

/// A job that was started for the node that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// What was submitted.
    pub header: Header,
    /// Its state, running.
    pub state: State,
    /// What its handler gets. `None` if it is damaged: the job is started all the same, so that it can be
    /// failed.
    pub payload: Option<Bytes>,
}

/// What a node's [`SharedStore::beat`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It is alive.
    Alive {
        /// Those of its running jobs that are to stop, each with the start that is meant.
        cancelling: Vec<(JobId, Lease)>,
        /// What the clock of the store showed at some moment of the call.
        now: Timestamp,
    },
    /// Its lease has ended, or it never joined: what it runs may be others' already.
    Lost,
}

/// A job that runs on this node by the store's book, and that no handler here runs: that of a node that is
/// gone, taken over by this one, or one of which this node never heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// What was submitted.
    pub header: Header,
    /// Its state, running or cancelling, with the lease that ends it.
    pub state: State,
}

/// Jobs that wait to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WaitingCounts {
    /// Of everyone together.
    pub total: u64,
    /// Of the owner asked about.
    pub owner: u64,
}

/// Which of these patterns an endpoint's jobs wait under: the one that is the endpoint, or else the longest
/// prefix.
///
/// ```
/// use kjob_core::pattern_of;
/// let patterns = ["/a/*".into(), "/a/b/*".into(), "/a/b/c".into()];
/// assert_eq!(pattern_of(&patterns, "/a/b/c"), Some(&patterns[2]));
/// assert_eq!(pattern_of(&patterns, "/a/b/d"), Some(&patterns[1]));
/// assert_eq!(pattern_of(&patterns, "/ab"), None);
/// ```
pub fn pattern_of<'a>(patterns: &'a [Text], endpoint: &str) -> Option<&'a Text> {
    let fitting = patterns.iter().filter_map(|pattern| {
        let rank = match pattern.strip_suffix('*') {
            Some(prefix) if endpoint.starts_with(prefix) => prefix.len(),
            None if **pattern == *endpoint => usize::MAX,
            _ => return None,
        };
        Some((rank, pattern))
    });
    fitting
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, pattern)| pattern)
}
