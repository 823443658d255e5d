//! Words that make clients leave a cluster (docs/protocol.md section 7).
//!
//! The official clients search the envelope's `message` for certain phrases and go to the next cluster if
//! they find one. An error text must therefore never hold one by accident, not even by echoing what the
//! caller sent; [`defuse`] sees to that.

use std::borrow::Cow;

/// The phrases, searched case-sensitively anywhere in a message by one client or another.
pub const PHRASES: [&str; 10] = [
    "Kinetica is exiting",
    "Kinetica is offline",
    "system-limited-fatal",
    "Connection refused",
    "Connection reset",
    "Query planner is not running",
    "System shutting down",
    "Unavailable: Draining HA queue",
    "System is offline",
    "Unexpected end of file from server",
];

/// Whether a client may take `message` for a reason to leave.
pub fn contains_phrase(message: &str) -> bool {
    PHRASES.iter().any(|phrase| message.contains(phrase))
}

/// Breaks every phrase by turning the case of its first letter, and leaves all else as it is.
///
/// A text that already holds none comes back borrowed, so defusing twice is defusing once.
///
/// ```
/// use kjob_proto::failover::{contains_phrase, defuse};
///
/// let message = defuse("upstream: Connection refused");
/// assert_eq!(message, "upstream: connection refused");
/// assert!(!contains_phrase(&message));
/// ```
pub fn defuse(message: &str) -> Cow<'_, str> {
    let mut message = Cow::Borrowed(message);
    for phrase in PHRASES {
        if message.contains(phrase) {
            message = Cow::Owned(message.replace(phrase, &broken(phrase)));
        }
    }
    message
}

/// A reason to send clients to another cluster on purpose; to be sent with HTTP 400.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// This server is about to end.
    ShuttingDown,
    /// This server takes no new jobs while it finishes what it has.
    Draining,
}

impl Signal {
    /// The message that clients look for.
    pub const fn message(self) -> &'static str {
        match self {
            Self::ShuttingDown => "System shutting down",
            Self::Draining => "Unavailable: Draining HA queue",
        }
    }
}

/// All phrases begin with an ASCII letter. Turning its case makes no other phrase, in whatever text it
/// stands; `turning_a_case_makes_no_phrase` holds that against all pairs.
fn broken(phrase: &str) -> String {
    let mut letters = phrase.chars();
    let first = letters.next().map(|first| {
        if first.is_ascii_lowercase() {
            first.to_ascii_uppercase()
        } else {
            first.to_ascii_lowercase()
        }
    });
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A phrase that is born when a letter is turned would have to hold that letter; so it is enough to
    /// look at all ways to lay another phrase over it.
    #[test]
    fn turning_a_case_makes_no_phrase() {
        for phrase in PHRASES {
            let broken = broken(phrase);
            assert_ne!(broken, phrase);
            for other in PHRASES {
                for (at, _) in other.match_indices(&broken[..1]) {
                    let rest = &other[at..];
                    let common = rest.len().min(broken.len());
                    assert_ne!(rest[..common], broken[..common], "{other} over {broken}");
                }
            }
        }
    }

    #[test]
    fn every_phrase_is_broken_wherever_it_stands() {
        for phrase in PHRASES {
            for text in [
                phrase.to_owned(),
                format!("x{phrase}y"),
                format!("{phrase}{phrase}"),
            ] {
                let defused = defuse(&text);
                assert!(
                    contains_phrase(&text) && !contains_phrase(&defused),
                    "{defused}"
                );
                assert!(defused.eq_ignore_ascii_case(&text), "readable: {defused}");
            }
        }
    }

    #[test]
    fn signals_are_phrases() {
        for signal in [Signal::ShuttingDown, Signal::Draining] {
            assert!(PHRASES.contains(&signal.message()));
        }
    }

    fn piece() -> impl Strategy<Value = String> {
        let cut = (
            0..PHRASES.len(),
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
        );
        prop_oneof![
            (0..PHRASES.len()).prop_map(|n| PHRASES[n].to_owned()),
            cut.prop_map(|(n, a, b)| {
                let (a, b) = (a.index(PHRASES[n].len()), b.index(PHRASES[n].len()));
                PHRASES[n][a.min(b)..a.max(b)].to_owned()
            }),
            "\\PC{0,3}",
        ]
    }

    proptest! {
        /// Phrases, cut phrases and anything else, joined in any way.
        #[test]
        fn defusing_is_complete_and_idempotent(pieces in prop::collection::vec(piece(), 0..12)) {
            let text = pieces.concat();
            let once = defuse(&text);
            prop_assert!(!contains_phrase(&once), "{}", once);
            prop_assert!(once.eq_ignore_ascii_case(&text));
            prop_assert!(matches!(defuse(&once), Cow::Borrowed(same) if same == once));
        }
    }
}
