//! The embedded store: one directory of SQLite segment files, for one process.
//!
//! See docs/store.md for the layout and why it is so.

mod backup;
mod blobs;
mod cache;
mod callback_row;
mod callbacks;
mod catalogue;
mod check;
mod check_segment;
mod checksum;
mod compact;
mod convert;
mod counts;
mod deletions;
mod due;
mod error;
mod filter;
mod glance;
mod header;
mod job_row;
mod layout;
mod ledger;
mod live;
mod lives;
mod lock;
mod log_file;
#[cfg(test)]
mod observed;
mod open;
mod options;
mod pool;
mod query;
mod reader;
mod recent;
mod requests;
mod reserve;
mod retention;
mod rewrite;
mod room;
mod schema;
mod sealing;
mod segment;
mod shared;
mod snapshot;
mod state_row;
mod stats;
mod steps;
mod store;
mod summary;
mod tag_moves;
mod tags;
mod take_up;
mod totals;
mod writer;

pub use backup::{BackupError, BackupReport};
pub use check::{CheckReport, Finding, check};
pub use compact::Compacted;
pub use error::OpenError;
pub use glance::{Glance, Holder, glance};
pub use options::EmbeddedOptions;
pub use stats::{DiskUse, JobCounts, SegmentStats, StoreStats};
pub use store::{EmbeddedStore, Statistics};
