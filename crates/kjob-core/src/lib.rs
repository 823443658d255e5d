#![doc = include_str!("../README.md")]

mod callback;
mod callback_queue;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "engine")]
pub mod engine;
mod id;
mod job;
mod memory;
#[cfg(feature = "engine")]
mod memory_cluster;
mod names;
mod output;
mod phase;
mod placement;
#[cfg(feature = "engine")]
pub mod purge;
mod query;
mod scheduler;
#[cfg(feature = "engine")]
mod sharded_store;
mod shared_store;
mod state;
mod store;
mod tag;
mod time;

pub use callback::{CallbackOutcome, CallbackPhase, CallbackState, CallbackTry, ClaimedCallbacks};
pub use callback_queue::CallbackQueue;
pub use id::{IdBlock, JobId};
pub use job::{Ending, Header, Job, JobOptions, NewJob, Owner, Payload, Priority, TagReuse};
pub use memory::MemoryStore;
#[cfg(feature = "engine")]
pub use memory_cluster::{MemoryCluster, MemoryNode};
pub use names::{NameKey, Names};
pub use output::{Info, InfoError, Output};
pub use phase::{BadStatus, Phase, Status};
pub use placement::{Placement, PlacementError, Shard};
pub use query::{BadQueryId, QueryId, TraceParent};
pub use scheduler::{RouteId, Scheduler, Waiting};
#[cfg(feature = "engine")]
pub use sharded_store::{ShardCountError, ShardedStore};
pub use shared_store::{
    Beat, Claimed, Hint, Node, NodeId, Orphan, SharedStore, UNSERVED_AFTER, WaitingCounts, Wanted,
    pattern_of,
};
pub use state::{Age, End, Event, Lease, OnInterrupt, Refused, State, Transition, apply};
pub use store::{
    Difference, Expired, Filter, Finish, LiveJob, LivePage, Order, Page, Parts, Started, StepError,
    Store, StoreError, StoreUsage, Submitted, Usage,
};
pub use tag::{JobTag, TagError};
pub use time::{Clock, Timestamp};
