//! What strangers do again and again, told of as one: else they could fill the disk.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Event;
use crate::source::source;

/// For how long what a source does again is counted, and not written.
const WINDOW: Duration = Duration::from_secs(60);

/// How many windows there may be at a time for single sources: a mebibyte or two. All sources beyond
/// share one for each thing that they do, so that also a whole network writes no more lines.
const WINDOWS_MAX: usize = 4096;

/// The windows that are open.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    windows: HashMap<Key, Window>,
    /// When they end, the first first.
    ends: VecDeque<(Instant, Key)>,
}

/// What is done, and by which source, if it has a window of its own.
type Key = (&'static str, Option<IpAddr>);

/// What came after the event that opened the window and was written.
#[derive(Debug, Default)]
struct Window {
    /// The last, with the name that all of them claimed, if it is one.
    last: Option<Event>,
    count: u64,
}

impl Repeats {
    /// Gives back an event that is to be written, and keeps one that came before not long ago.
    pub(super) fn pass(&mut self, mut event: Event, now: Instant) -> Option<Event> {
        let Some((what, stranger)) = event.by_stranger() else {
            return Some(event);
        };
        let mut key = (what, stranger.peer.map(source));
        if !self.windows.contains_key(&key) && self.windows.len() >= WINDOWS_MAX {
            key.1 = None;
            stranger.peer = None;
        }
        if let Some(window) = self.windows.get_mut(&key) {
            window.add(event);
            return None;
        }
        self.windows.insert(key, Window::default());
        self.ends.push_back((now + WINDOW, key));
        Some(event)
    }

    /// When the next window ends, if there is one.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Closes the windows that have ended, and gives what is to be written of them.
    pub(super) fn close_ended(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((_, key)) = self.ends.pop_front_if(|(end, _)| *end <= now) {
            let window = self.windows.remove(&key);
            events.extend(window.and_then(Window::close));
        }
        events
    }

    /// Closes all windows.
    pub(super) fn close_all(&mut self) -> Vec<Event> {
        match self.ends.back() {
            Some((last, _)) => self.close_ended(*last),
            None => Vec::new(),
        }
    }
}

impl Window {
    fn add(&mut self, mut event: Event) {
        self.count += 1;
        let before = self.last.as_mut().and_then(Event::claimed);
        if let (Some(before), Some(claimed)) = (before, event.claimed())
            && before != claimed
        {
            *claimed = None;
        }
        self.last = Some(event);
    }

    fn close(self) -> Option<Event> {
        let mut event = self.last?;
        if let Some((_, stranger)) = event.by_stranger() {
            stranger.count = Some(self.count);
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn told(event: &Event) -> serde_json::Value {
        let mut line: serde_json::Value = serde_json::from_slice(&event.line()).unwrap();
        line.as_object_mut().unwrap().remove("time");
        line
    }

    fn failed(claimed: &str, peer: &str) -> Event {
        Event::login_failed(Some(claimed), peer.parse().unwrap())
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_at_the_end_of_the_minute() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let home = "192.0.2.1";
        assert!(repeats.pass(failed("ann", home), now).is_some());
        assert!(repeats.pass(failed("ann", "192.0.2.2"), now).is_some());
        assert!(repeats.pass(Event::Stop, now).is_some());
        let refused = |why| Event::refused(why, home.parse().unwrap());
        assert!(repeats.pass(refused("host"), now).is_some());
        assert!(repeats.pass(refused("origin"), now).is_some());
        for _ in 0..1000 {
            assert!(repeats.pass(failed("ann", home), now).is_none());
        }
        assert!(repeats.pass(refused("host"), now).is_none());
        assert!(repeats.pass(Event::Stop, now).is_some());

        assert_eq!(repeats.next_end(), Some(now + WINDOW));
        let before = now + WINDOW - Duration::from_millis(1);
        assert!(repeats.close_ended(before).is_empty());
        let events = repeats.close_ended(now + WINDOW);
        let lines: Vec<_> = events.iter().map(told).collect();
        let expected = [
            serde_json::json!({"event": "login_failed", "claimed": "ann", "peer": home, "count": 1000}),
            serde_json::json!({"event": "refused", "why": "host", "peer": home, "count": 1}),
        ];
        assert_eq!(lines, expected, "nothing is told of whoever did it once");
        assert_eq!(repeats.next_end(), None);
        assert!(repeats.pass(failed("ann", home), now + WINDOW).is_some());
    }

    #[test]
    fn a_name_is_told_if_all_claimed_it() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for name in ["ann", "bob", "carl", "carl"] {
            repeats.pass(failed(name, "2001:db8::1"), now);
        }
        // Of the same network.
        repeats.pass(failed("carl", "2001:db8::2"), now);
        let expected =
            serde_json::json!({"event": "login_failed", "peer": "2001:db8::2", "count": 4});
        let events = repeats.close_all();
        assert_eq!(events.iter().map(told).collect::<Vec<_>>(), [expected]);
    }

    /// As of somebody who has a whole network of IPv6.
    #[test]
    fn more_sources_than_can_be_counted_apart_are_counted_as_one() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let from = |number: usize| {
            let ip = Ipv6Addr::from((0x2001_0db8 << 96) | ((number as u128) << 64));
            Event::login_failed(None, ip.into())
        };
        let all = 10 * WINDOWS_MAX;
        let at_once = (0..all).filter_map(|number| repeats.pass(from(number), now));
        assert_eq!(at_once.count(), WINDOWS_MAX + 1);
        assert_eq!(repeats.windows.len(), WINDOWS_MAX + 1);
        let count = all - WINDOWS_MAX - 1;
        let expected = serde_json::json!({"event": "login_failed", "count": count});
        let events = repeats.close_all();
        assert_eq!(events.iter().map(told).collect::<Vec<_>>(), [expected]);
        assert!(repeats.windows.is_empty() && repeats.ends.is_empty());
    }
}
