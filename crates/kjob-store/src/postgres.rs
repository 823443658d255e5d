//! A store in PostgreSQL, or in a database that speaks its protocol, for many processes at once.
//!
//! See docs/clustering.md for the tables, the statements and why they are so.

mod callbacks;
mod claim;
mod connect;
mod describe;
mod details;
mod error;
mod expiry;
mod finish;
mod fitting;
mod gathering;
mod gets;
mod hints;
mod lanes;
mod late_shard;
mod lookup;
mod nodes;
mod options;
mod parts;
mod read;
mod row;
mod schema;
mod session;
mod shard_set;
mod shards;
mod shared;
mod sharing;
mod start;
mod store;
mod submit;
mod tls;
mod transaction;
mod turns;
mod url;
mod usage;

pub use describe::{Connections, Description, ShardPlace};
pub use error::OpenError;
pub use options::PostgresOptions;
pub use schema::VERSION as TABLES_VERSION;
pub use shards::{MigratedShards, ShardsError};
pub use store::PostgresStore;
