//! Trials of the real server: clients write down what they are told while the server is killed
//! again and again, and a checker holds what they were told against what was promised.
//!
//! ```text
//! clients  →  history    what each client asked and was told, and when
//! handlers →  journal    each start and end of a handler
//! store    →  marks      each step that the store began and ended, up to the kill
//! receiver →  tellings   each callback that came
//! history + journal + tellings → checker → violations
//! ```
//!
//! [`checker`] is a pure function and knows no server: any number of nodes over any store can be
//! held against it. A seed chooses what clients ask and when servers are killed; how far each of
//! them is by then is up to the machine, so a seed does not replay a run exactly.
//!
//! [`siege`] is by itself: load and bad input, one attack after the other.

pub mod asker;
pub mod audit;
pub mod call;
pub mod campaign;
pub mod checker;
pub mod client_processes;
pub mod clients;
pub mod cluster;
pub mod fate;
pub mod handlers;
pub mod history;
pub mod hostile;
pub mod journal;
mod lines;
pub mod marked_store;
pub mod marks;
pub mod plan;
pub mod receiver;
pub mod report;
pub mod server;
pub mod siege;
