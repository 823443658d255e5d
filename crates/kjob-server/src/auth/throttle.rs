//! How many passwords may be tried.
//!
//! No kept library fits: rate limiters count calls, and here only those count that failed, which is
//! known after they were let through.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures of one source: 20 at once, then one each 5 s.
const SOURCE: Rule = Rule {
    at_once: 20,
    every: Duration::from_secs(5),
};

/// Failures at one name, from wherever: 10 at once, then one each 10 s.
const NAME: Rule = Rule {
    at_once: 10,
    every: Duration::from_secs(10),
};

/// How many sources, and how many names, are remembered: 4 MiB each at the most.
const KEYS_MAX: usize = 1 << 16;

/// By what a name is remembered: a keyed hash of it, as a name may be long.
pub(crate) type NameKey = [u8; 32];

/// Remembers failed tries by source and by name, and says who has to wait.
#[derive(Debug)]
pub(crate) struct Throttle {
    sources: Mutex<Failures<IpAddr>>,
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
            sources: Mutex::new(Failures::new(SOURCE, KEYS_MAX)),
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
        let by_source = lock(&self.sources).wait(&source(ip), now);
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
        lock(&self.sources).fail(source(ip), now);
        if let Some(name) = name {
            lock(&self.names).fail(*name, now);
        }
        self.wait(ip, name, now)
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
        let allowed = self.rule.every * (self.rule.at_once - 1);
        let wait = ahead.saturating_sub(allowed);
        (!wait.is_zero()).then_some(wait)
    }

    fn fail(&mut self, key: K, now: Instant) {
        let until = self.until.get(&key).copied().unwrap_or(now).max(now);
        if !self.until.contains_key(&key) {
            self.make_room(now);
        }
        self.until.insert(key, until + self.rule.every);
    }

    /// Forgets whoever has waited long enough, and if nobody has, whoever is the first to.
    fn make_room(&mut self, now: Instant) {
        if self.until.len() < self.keys_max {
            return;
        }
        self.until.retain(|_, until| *until > now);
        if self.until.len() >= self.keys_max {
            let first = self.until.iter().min_by_key(|(_, until)| **until);
            if let Some(key) = first.map(|(key, _)| *key) {
                self.until.remove(&key);
            }
        }
    }
}

/// What counts as one source: an address of IPv4, and of IPv6 the network of 64 bits that a single
/// customer has at the least.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let network = u128::from(ip) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        ip => ip,
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
    fn an_ipv6_network_is_one_source() {
        assert_eq!(source(ip("2001:db8::1")), source(ip("2001:db8::ffff:1")));
        assert_ne!(source(ip("2001:db8::1")), source(ip("2001:db8:0:1::1")));
        assert_eq!(source(ip("::ffff:192.0.2.1")), ip(HOME));
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_kept() {
        let mut failures = Failures::new(SOURCE, 3);
        let now = Instant::now();
        for _ in 0..SOURCE.at_once {
            failures.fail(0, now);
        }
        for key in 1..1000 {
            failures.fail(key, now);
            assert!(failures.until.len() <= 3);
        }
        assert!(failures.wait(&0, now).is_some());
        let later = now + SOURCE.every * (SOURCE.at_once + 1);
        failures.fail(1000, later);
        assert_eq!(failures.until.len(), 1, "what is forgotten takes no room");
    }
}
