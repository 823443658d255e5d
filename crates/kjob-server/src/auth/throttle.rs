//! How many passwords and tokens may be tried.
//!
//! No kept library fits: rate limiters count calls, and here only those count that failed, which is
//! known after they were let through.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::source;

/// Failures of one source: 20 at once, then one each 5 s. Passwords and tokens count apart: no token can
/// be guessed, so wrong ones are no reason to hold back who has a password.
const SOURCE: Rule = Rule {
    at_once: 20,
    every: Duration::from_secs(5),
};

/// Failures at one name, from wherever: 10 at once, then one each 10 s.
const NAME: Rule = Rule {
    at_once: 10,
    every: Duration::from_secs(10),
};

/// The longest wait. Tries that ran side by side count, and so may lead further ahead than one rule's
/// step; but however many they were, nobody waits longer.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// How many sources, twice, and how many names, are remembered: 4 MiB each at the most.
const KEYS_MAX: usize = 1 << 16;

/// What part is forgotten where all room is taken: several at a time, as each time all are looked at.
const FORGOTTEN_PART: usize = 16;

/// By what a name is remembered: a keyed hash of it, as a name may be long.
pub(crate) type NameKey = [u8; 32];

/// Remembers failed tries by source and by name, and says who has to wait.
#[derive(Debug)]
pub(crate) struct Throttle {
    passwords: Mutex<Failures<IpAddr>>,
    tokens: Mutex<Failures<IpAddr>>,
    names: Mutex<Failures<NameKey>>,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    at_once: u32,
    every: Duration,
}

/// A generic cell rate: each failure moves a key's moment on by `every`, and a key whose moment is too
/// far ahead of now has to wait.
#[derive(Debug)]
struct Failures<K> {
    rule: Rule,
    keys_max: usize,
    /// When the last failure is forgotten.
    until: HashMap<K, Instant>,
}

impl Throttle {
    pub(crate) fn new() -> Self {
        Self {
            passwords: Mutex::new(Failures::new(SOURCE, KEYS_MAX)),
            tokens: Mutex::new(Failures::new(SOURCE, KEYS_MAX)),
            names: Mutex::new(Failures::new(NAME, KEYS_MAX)),
        }
    }

    /// How long a try has to wait, if it has to. A token has no name.
    pub(crate) fn wait(
        &self,
        ip: IpAddr,
        name: Option<&NameKey>,
        now: Instant,
    ) -> Option<Duration> {
        let by_source = lock(self.sources(name)).wait(&source(ip), now);
        let by_name = name.and_then(|name| lock(&self.names).wait(name, now));
        by_source.max(by_name)
    }

    /// Notes a failure. Says how long the next try has to wait, if this was the one too many.
    pub(crate) fn fail(
        &self,
        ip: IpAddr,
        name: Option<&NameKey>,
        now: Instant,
    ) -> Option<Duration> {
        lock(self.sources(name)).fail(source(ip), now);
        if let Some(name) = name {
            lock(&self.names).fail(*name, now);
        }
        self.wait(ip, name, now)
    }

    fn sources(&self, name: Option<&NameKey>) -> &Mutex<Failures<IpAddr>> {
        match name {
            Some(_) => &self.passwords,
            None => &self.tokens,
        }
    }
}

impl<K: Copy + Eq + Hash> Failures<K> {
    fn new(rule: Rule, keys_max: usize) -> Self {
        Self {
            rule,
            keys_max,
            until: HashMap::new(),
        }
    }

    fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        let ahead = self.until.get(key)?.saturating_duration_since(now);
        let wait = ahead.saturating_sub(self.rule.allowed());
        (!wait.is_zero()).then_some(wait)
    }

    fn fail(&mut self, key: K, now: Instant) {
        let until = self.until.get(&key).copied().unwrap_or(now).max(now);
        if !self.until.contains_key(&key) {
            self.make_room(now);
        }
        let latest = now + self.rule.allowed() + WAIT_MAX;
        self.until.insert(key, latest.min(until + self.rule.every));
    }

    /// Forgets whoever has waited long enough, and if nobody has, whoever are the first to.
    fn make_room(&mut self, now: Instant) {
        if self.until.len() < self.keys_max {
            return;
        }
        self.until.retain(|_, until| *until > now);
        let room = (self.keys_max / FORGOTTEN_PART).max(1);
        let mut too_many = (self.until.len() + room).saturating_sub(self.keys_max);
        if too_many == 0 {
            return;
        }
        let mut moments: Vec<Instant> = self.until.values().copied().collect();
        let (_, last, _) = moments.select_nth_unstable(too_many - 1);
        self.until.retain(|_, until| {
            // Some that have the same moment as the last of them may stay.
            let is_kept = *until > *last || too_many == 0;
            too_many -= usize::from(!is_kept);
            is_kept
        });
    }
}

impl Rule {
    /// How far ahead of now a key's moment may be without a wait.
    fn allowed(self) -> Duration {
        self.every * (self.at_once - 1)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds the lock can panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "192.0.2.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_may_fail_so_often_and_then_waits() {
        let (throttle, mut now) = (Throttle::new(), Instant::now());
        for _ in 1..SOURCE.at_once {
            assert_eq!(throttle.fail(ip(HOME), None, now), None);
        }
        assert_eq!(throttle.wait(ip(HOME), None, now), None);
        assert_eq!(throttle.fail(ip(HOME), None, now), Some(SOURCE.every));
        assert_eq!(throttle.wait(ip("192.0.2.2"), None, now), None);

        now += SOURCE.every - Duration::from_millis(1);
        assert_eq!(
            throttle.wait(ip(HOME), None, now),
            Some(Duration::from_millis(1))
        );
        now += Duration::from_millis(1);
        assert_eq!(throttle.wait(ip(HOME), None, now), None);
        assert_eq!(throttle.fail(ip(HOME), None, now), Some(SOURCE.every));
    }

    #[test]
    fn a_name_waits_wherever_the_tries_come_from() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let (ann, bob) = ([1; 32], [2; 32]);
        for number in 0..NAME.at_once {
            let from = ip(&format!("192.0.2.{number}"));
            throttle.fail(from, Some(&ann), now);
        }
        let elsewhere = ip("198.51.100.1");
        assert_eq!(throttle.wait(elsewhere, Some(&ann), now), Some(NAME.every));
        assert_eq!(throttle.wait(elsewhere, Some(&bob), now), None);
        assert_eq!(throttle.wait(elsewhere, None, now), None);
    }

    #[test]
    fn wrong_tokens_are_no_reason_to_hold_back_passwords() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for _ in 0..SOURCE.at_once {
            throttle.fail(ip(HOME), None, now);
        }
        assert_eq!(throttle.wait(ip(HOME), None, now), Some(SOURCE.every));
        assert_eq!(throttle.wait(ip(HOME), Some(&[1; 32]), now), None);
    }

    /// The bug: each failure added its seconds, and 233,600 of them came to 13.5 days.
    #[test]
    fn nobody_waits_longer_than_a_minute() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let ann = [1; 32];
        for name in [None, Some(&ann)] {
            for _ in 0..233_600 {
                throttle.fail(ip(HOME), name, now);
            }
            assert_eq!(throttle.wait(ip(HOME), name, now), Some(WAIT_MAX));
            assert_eq!(throttle.wait(ip(HOME), name, now + WAIT_MAX), None);
        }
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_kept() {
        let mut failures = Failures::new(SOURCE, 64);
        let now = Instant::now();
        for _ in 0..SOURCE.at_once {
            failures.fail(0, now);
        }
        for key in 1..1000 {
            failures.fail(key, now);
            assert!(failures.until.len() <= 64);
            assert!(failures.until.len() >= 59.min(key + 1), "few are forgotten");
            assert!(failures.until.contains_key(&key));
        }
        assert!(failures.wait(&0, now).is_some());
        let later = now + SOURCE.every * (SOURCE.at_once + 1);
        while failures.until.len() < 64 {
            failures.fail(1000 + failures.until.len(), now);
        }
        failures.fail(2000, later);
        assert_eq!(failures.until.len(), 1, "what is forgotten takes no room");
    }
}
