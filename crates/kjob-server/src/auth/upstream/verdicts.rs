//! What an upstream said of credentials, remembered for a time under their keyed hash.

use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::super::{KNOWN_MAX, WRONG_MAX};
use super::{Barred, Print, Verdict};

/// How often it is told of credentials that they are good.
const TOLD_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Verdicts {
    good: Cache<Print, Good>,
    barred: Cache<Print, (Barred, Instant)>,
}

#[derive(Clone, Copy)]
struct Good {
    at: Instant,
    /// When it was last told, as to the audit log.
    told: Instant,
}

impl Verdicts {
    pub(super) fn new() -> Self {
        Self {
            good: Cache::new(KNOWN_MAX),
            barred: Cache::new(WRONG_MAX),
        }
    }

    /// What was said of credentials, if that was less than `hold_for` ago.
    pub(super) fn remembered(&self, print: &Print, hold_for: Duration) -> Option<Verdict> {
        if let Some(good) = self.good.get(print)
            && good.at.elapsed() < hold_for
        {
            return Some(Verdict::Good);
        }
        let (barred, at) = self.barred.get(print)?;
        (at.elapsed() < hold_for).then_some(Verdict::Barred(barred))
    }

    /// When credentials were said to be good, if that is the last that was said of them.
    pub(super) fn good_since(&self, print: &Print) -> Option<Instant> {
        self.good.peek(print).map(|good| good.at)
    }

    /// Says whether it is to be told.
    pub(super) fn note_good(&self, print: Print, at: Instant) -> bool {
        let told = self.good.peek(&print).map(|good| good.told);
        let told = told.filter(|told| at.saturating_duration_since(*told) < TOLD_EVERY);
        self.barred.remove(&print);
        let good = Good {
            at,
            told: told.unwrap_or(at),
        };
        self.good.insert(print, good);
        told.is_none()
    }

    pub(super) fn note_barred(&self, print: Print, barred: Barred, at: Instant) {
        self.good.remove(&print);
        self.barred.insert(print, (barred, at));
    }
}
