//! Which server is asked, and which one next (docs/protocol.md sections 6 and 7).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::retry::wait_after;

/// How often in a row a server may leave it open whether it took a call before another one is asked.
const UNSURE_MAX: u32 = 2;

/// The servers, and the one that calls begin with. Clones share the latter.
#[derive(Clone, Debug)]
pub(crate) struct Ring(Arc<Servers>);

#[derive(Debug)]
struct Servers {
    /// Never empty.
    bases: Vec<String>,
    current: AtomicUsize,
}

impl Ring {
    /// Of at least one server.
    pub(crate) fn new(bases: Vec<String>) -> Self {
        debug_assert!(!bases.is_empty(), "Urls::bases refuses none");
        Self(Arc::new(Servers {
            bases,
            current: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn bases(&self) -> &[String] {
        &self.0.bases
    }

    pub(crate) fn base(&self, server: usize) -> &str {
        self.0
            .bases
            .get(server)
            .map(String::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn current(&self) -> usize {
        self.0.current.load(Ordering::Relaxed)
    }

    fn next(&self, server: usize) -> usize {
        (server + 1) % self.0.bases.len()
    }

    /// Lets calls begin with the next server, unless another call has seen to it already.
    fn leave(&self, server: usize) {
        let next = self.next(server);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self
            .0
            .current
            .compare_exchange(server, next, success, failure);
    }
}

/// What a try says about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The answer stands: any server would give it.
    Stands,
    /// The server asks to wait, and to come back.
    Waits,
    /// The server may have taken the call or not. It is asked once more before another one is, since
    /// only a server that shares its store knows the tag.
    Unsure,
    /// Nobody is there.
    Absent,
    /// The server sends its clients elsewhere, or is of no use to this call.
    Gone,
}

/// The way of one call along the ring.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    ring: &'a Ring,
    at: usize,
    tries_max: u32,
    /// For each server: tries that failed.
    tries: Vec<u32>,
    gone: Vec<bool>,
    unsure: u32,
}

impl<'a> Walk<'a> {
    /// `tries_max` is for each server.
    pub(crate) fn new(ring: &'a Ring, tries_max: u32) -> Self {
        let len = ring.bases().len();
        Self {
            ring,
            at: ring.current(),
            tries_max,
            tries: vec![0; len],
            gone: vec![false; len],
            unsure: 0,
        }
    }

    /// The server to ask.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// After a try that failed: how long to wait before the next, which is at [`at`](Self::at); `None`
    /// if there is none.
    pub(crate) fn after(
        &mut self,
        verdict: Verdict,
        retry_after: Option<Duration>,
    ) -> Option<Duration> {
        if let Some(tries) = self.tries.get_mut(self.at) {
            *tries += 1;
        }
        let tries = self.tries_at(self.at);
        let may_stay = tries < self.tries_max;
        match verdict {
            Verdict::Stands => None,
            Verdict::Waits => may_stay.then(|| wait_after(tries, retry_after)),
            Verdict::Unsure => {
                self.unsure += 1;
                match may_stay && self.unsure < UNSURE_MAX {
                    true => Some(wait_after(tries, retry_after)),
                    false => self.go_on(),
                }
            }
            Verdict::Absent => self.go_on(),
            Verdict::Gone => {
                if let Some(gone) = self.gone.get_mut(self.at) {
                    *gone = true;
                }
                self.go_on()
            }
        }
    }

    /// After a try that did not fail.
    pub(crate) fn arrived(&self) {
        if self.at != self.ring.current() && self.tries.iter().any(|tries| *tries > 0) {
            self.ring.0.current.store(self.at, Ordering::Relaxed);
        }
    }

    /// Goes to the server that was tried least, and comes next among those: at once if it has not been
    /// tried yet.
    fn go_on(&mut self) -> Option<Duration> {
        self.unsure = 0;
        self.ring.leave(self.at);
        let len = self.tries.len();
        let order = (0..len).map(|steps| (self.ring.next(self.at) + steps) % len);
        self.at = order
            .filter(|server| !self.gone.get(*server).copied().unwrap_or(true))
            .filter(|server| self.tries_at(*server) < self.tries_max)
            .min_by_key(|server| self.tries_at(*server))?;
        Some(match self.tries_at(self.at) {
            0 => Duration::ZERO,
            tries => wait_after(tries, None),
        })
    }

    fn tries_at(&self, server: usize) -> u32 {
        self.tries.get(server).copied().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Absent, Gone, Stands, Unsure, Waits};
    use super::*;

    fn ring(len: usize) -> Ring {
        Ring::new((0..len).map(|n| format!("http://s{n}")).collect())
    }

    /// The servers that a call asks, if this is what it meets.
    fn path(ring: &Ring, tries_max: u32, verdicts: &[Verdict]) -> Vec<usize> {
        let mut walk = Walk::new(ring, tries_max);
        let mut path = vec![walk.at()];
        for verdict in verdicts {
            if walk.after(*verdict, None).is_none() {
                return path;
            }
            path.push(walk.at());
        }
        walk.arrived();
        path
    }

    #[test]
    fn one_server_is_tried_as_often_as_allowed() {
        for verdict in [Waits, Unsure, Absent] {
            assert_eq!(path(&ring(1), 3, &[verdict; 9]), [0, 0, 0], "{verdict:?}");
        }
        for verdict in [Stands, Gone] {
            assert_eq!(path(&ring(1), 3, &[verdict; 9]), [0], "{verdict:?}");
        }
    }

    #[test]
    fn each_server_has_its_tries() {
        assert_eq!(path(&ring(3), 2, &[Absent; 9]), [0, 1, 2, 0, 1, 2]);
        assert_eq!(path(&ring(2), 3, &[Unsure; 9]), [0, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn who_sends_clients_elsewhere_is_not_asked_again() {
        assert_eq!(
            path(&ring(3), 2, &[Gone, Absent, Absent, Absent]),
            [0, 1, 2, 1, 2]
        );
        assert_eq!(path(&ring(3), 9, &[Gone; 9]), [0, 1, 2]);
    }

    #[test]
    fn who_asks_to_wait_is_waited_for() {
        assert_eq!(path(&ring(2), 3, &[Waits; 9]), [0, 0, 0]);
    }

    #[test]
    fn another_server_is_asked_at_once_and_the_same_after_a_wait() {
        let ring = ring(2);
        let mut walk = Walk::new(&ring, 5);
        assert_eq!(walk.after(Absent, None), Some(Duration::ZERO));
        assert!(walk.after(Absent, None) > Some(Duration::ZERO));
    }

    #[test]
    fn later_calls_begin_where_an_earlier_one_arrived() {
        let ring = ring(3);
        assert_eq!(path(&ring, 5, &[Absent, Gone]), [0, 1, 2]);
        assert_eq!(ring.clone().current(), 2);
        assert_eq!(path(&ring, 5, &[]), [2]);
        assert_eq!(
            path(&ring, 5, &[Absent]),
            [2, 0],
            "one that is back is used"
        );
        assert_eq!(ring.current(), 0);
    }

    /// Leaving a server makes the next one the first to be asked, also where that one is gone.
    #[test]
    fn later_calls_do_not_begin_with_one_that_was_passed_over() {
        let ring = ring(3);
        assert_eq!(path(&ring, 5, &[Gone, Absent, Absent]), [0, 1, 2, 1]);
        assert_eq!(ring.current(), 1);
    }

    #[test]
    fn calls_that_fail_together_leave_a_server_once() {
        let ring = ring(3);
        let (mut first, mut second) = (Walk::new(&ring, 5), Walk::new(&ring, 5));
        first.after(Absent, None);
        assert_eq!(ring.current(), 1, "calls that begin now need not meet it");
        second.after(Absent, None);
        assert_eq!((ring.current(), first.at(), second.at()), (1, 1, 1));
    }

    #[test]
    fn a_call_that_met_nothing_bad_moves_nobody() {
        let ring = ring(2);
        let slow = Walk::new(&ring, 5);
        path(&ring, 5, &[Absent]);
        slow.arrived();
        assert_eq!(ring.current(), 1);
    }
}
