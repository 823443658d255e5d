//! Everything that happens in a simulation, as lines that can be printed and compared.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Mutex;

/// What becomes of the lines of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// They are not even made.
    Off,
    /// They are counted and hashed.
    Hashed,
    /// They are printed, too.
    Printed,
}

pub(crate) struct Trace {
    tracing: Tracing,
    hash: Mutex<(DefaultHasher, u64)>,
}

impl Trace {
    pub(crate) fn new(tracing: Tracing) -> Self {
        Self {
            tracing,
            // Its keys are fixed, so that hashes of different processes can be compared.
            hash: Mutex::new((DefaultHasher::new(), 0)),
        }
    }

    pub(crate) fn line(&self, at: u64, what: fmt::Arguments<'_>) {
        if self.tracing == Tracing::Off {
            return;
        }
        let line = format!("{:>12.6} {what}", at as f64 / 1e6);
        if self.tracing == Tracing::Printed {
            eprintln!("{line}");
        }
        let (hash, lines) = &mut *self.hash.lock().unwrap();
        hash.write(line.as_bytes());
        *lines += 1;
    }

    /// A hash of all lines, and how many they are.
    pub(crate) fn sum(&self) -> (u64, u64) {
        let (hash, lines) = &*self.hash.lock().unwrap();
        (hash.finish(), *lines)
    }
}
