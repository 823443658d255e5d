//! A campaign on several servers over one database, or over two: nodes are killed, stand still, are cut off from one
//! of them or from all, and take the time for another, and databases are restarted and replaced by their standbys, all at
//! the same time.

mod campaign;
mod database;
mod faults;
mod member;
mod missed;
mod proxy;
mod report;

pub use campaign::{Cast, Outcome, run};
pub use faults::{DatabaseFault, NodeFault};
pub use missed::Missed;
pub use report::Report;
