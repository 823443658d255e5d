//! A campaign on several servers over one database: nodes are killed, stand still, are cut off and take the
//! time for another, and the database is restarted and replaced by its standby, all at the same time.

mod campaign;
mod database;
mod faults;
mod member;
mod proxy;
mod report;

pub use campaign::{Cast, Outcome, run};
pub use faults::{DatabaseFault, NodeFault};
pub use report::Report;
