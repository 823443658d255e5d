//! The siege: the real server under load and bad input, with honest clients beside it.
//!
//! ```text
//! parent   the server · honest clients · vital signs · the table
//! child    one attack, on the last processor while nobody else wants that, as attackers have machines of
//!          their own; prints a tally
//! ```
//!
//! An attack is a function in [`attacks`]; it notes what it did and what it was answered in a
//! [`Tally`]. Whatever is not as it has to be is a violation: an answer that is no valid envelope
//! or problem where one is owed, a 429 that does not say when to come back, a phrase that sends clients to
//! another cluster, a server that ends, keeps files or memory, or loses or changes a job that it
//! acknowledged. Latencies are reported, and judged
//! where that is asked for, which makes sense on a machine that does nothing else.

mod accounts;
pub mod attacks;
mod bound;
mod campaign;
mod honest;
mod http1;
mod http2;
mod http2_client;
mod mutation;
mod owed;
mod problems;
mod report;
mod requests;
mod server;
mod tally;
mod vectors;

pub use attacks::{ATTACKS, Attack, Field, Terms};
pub use campaign::{Campaign, run};
pub use tally::Tally;
