//! Which tags a segment may hold, answered from memory.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use fastbloom::AtomicBloomFilter;
use kjob_core::{JobTag, Owner};

use super::tags;
use super::totals::Sum;

/// One in this many lookups of a tag that a segment does not hold reads its file in vain, and
/// then all its tags, to see that the tag was not lost. So it has to be rare.
const FALSE_POSITIVES: f64 = 1.0 / 65_536.0;

/// Tags that every filter holds. A stored filter that does not know them was written with other
/// hash functions (a new version of a library, or of Rust), would deny tags that are there, and
/// is built anew.
const MARKS: u64 = 16;

/// Stages at most; each holds twice as many tags as the one before.
const STAGES: usize = 40;

/// Tags that the first stage holds at least.
const FIRST_TAGS: u64 = 1024;

/// A Bloom filter over the hashes of (tag, owner), that grows. Says "no" only when that is so.
pub(crate) struct Filter {
    stages: [OnceLock<AtomicBloomFilter>; STAGES],
    /// Tags in the stages, and how many the last stage still takes.
    room: AtomicU64,
    first_tags: u64,
}

/// Whose filter it is: of which file, with which tags in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterOf {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) tags: Sum,
}

impl Filter {
    /// An empty filter, best for so many tags.
    pub(crate) fn new(tags: u64) -> Self {
        let filter = Self {
            stages: [const { OnceLock::new() }; STAGES],
            room: AtomicU64::new(0),
            first_tags: tags.saturating_add(MARKS).max(FIRST_TAGS),
        };
        for mark in marks() {
            filter.insert(mark);
        }
        filter
    }

    /// Takes in a hash of [`tags::hash`]. One thread at a time may.
    pub(crate) fn insert(&self, hash: u64) {
        if self.may_hold(hash) {
            return;
        }
        let mut used = self.stages().count();
        if self.room.load(Ordering::Relaxed) == 0 && used < STAGES {
            let tags = self.first_tags << used;
            let expected = usize::try_from(tags).unwrap_or(usize::MAX);
            let stage = AtomicBloomFilter::with_false_pos(FALSE_POSITIVES)
                .seed(&0)
                .expected_items(expected);
            if let Some(place) = self.stages.get(used) {
                place.get_or_init(|| stage);
            }
            self.room.store(tags, Ordering::Relaxed);
            used += 1;
        }
        if let Some(stage) = self.stages().nth(used.saturating_sub(1)) {
            stage.insert_hash(hash);
            // A filter that is full beyond all its stages only says "perhaps" more often.
            let _ = self
                .room
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
                    room.checked_sub(1)
                });
        }
    }

    /// Whether the tag may be there.
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        self.stages().any(|stage| stage.contains_hash(hash))
    }

    /// The filter as bytes, for [`Filter::decode`].
    pub(crate) fn encode(&self, of: &FilterOf) -> Vec<u8> {
        let mut bytes = of.to_bytes();
        bytes.extend(self.first_tags.to_le_bytes());
        bytes.extend(self.room.load(Ordering::Relaxed).to_le_bytes());
        for stage in self.stages() {
            bytes.extend(stage.num_hashes().to_le_bytes());
            bytes.extend((stage.as_slice().len() as u64).to_le_bytes());
            bytes.extend(stage.iter().flat_map(u64::to_le_bytes));
        }
        // A lost bit would deny a tag that is there, and its call would be run twice.
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// A stored filter and whose it is; `None` if it is not one, is damaged, or is of other hash
    /// functions.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, FilterOf)> {
        let (bytes, crc) = bytes.split_last_chunk()?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (of, rest) = FilterOf::from_bytes(bytes)?;
        let (first_tags, rest) = rest.split_first_chunk()?;
        let (room, mut rest) = rest.split_first_chunk()?;
        let filter = Self {
            stages: [const { OnceLock::new() }; STAGES],
            room: AtomicU64::new(u64::from_le_bytes(*room)),
            first_tags: u64::from_le_bytes(*first_tags),
        };
        let mut places = filter.stages.iter();
        while !rest.is_empty() {
            let (hashes, tail) = rest.split_first_chunk()?;
            let (words, tail) = tail.split_first_chunk()?;
            let words = usize::try_from(u64::from_le_bytes(*words)).ok()?;
            let (stage, tail) = tail.split_at_checked(words.checked_mul(8)?)?;
            rest = tail;
            let hashes = u32::from_le_bytes(*hashes);
            if stage.is_empty() || !(1..=64).contains(&hashes) {
                return None;
            }
            let words = stage.as_chunks::<8>().0.iter();
            let words = words.map(|word| u64::from_le_bytes(*word)).collect();
            let bits = AtomicBloomFilter::from_vec(words).seed(&0).hashes(hashes);
            places.next()?.get_or_init(|| bits);
        }
        let knows = marks().all(|mark| filter.may_hold(mark));
        knows.then_some((filter, of))
    }

    fn stages(&self) -> impl Iterator<Item = &AtomicBloomFilter> {
        self.stages.iter().map_while(OnceLock::get)
    }
}

impl FilterOf {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.number.to_le_bytes().to_vec();
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.tags.to_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (generation, mut rest) = rest.split_first_chunk()?;
        let tags = Sum::take(&mut rest)?;
        let of = Self {
            number: u32::from_le_bytes(*number),
            generation: u32::from_le_bytes(*generation),
            tags,
        };
        Some((of, rest))
    }
}

fn marks() -> impl Iterator<Item = u64> {
    (0..MARKS).filter_map(|number| {
        let tag: JobTag = format!("mark_{number}").parse().ok()?;
        // No user has an empty name, so no job has these.
        Some(tags::hash_of(&tag, &Owner::new("")))
    })
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits: usize = self.stages().map(AtomicBloomFilter::num_bits).sum();
        write!(f, "Filter({bits} bits)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u32) -> u64 {
        let tag: JobTag = format!("tag-{number}").parse().unwrap();
        tags::hash_of(&tag, &Owner::anonymous())
    }

    const OF: FilterOf = FilterOf {
        number: 3,
        generation: 1,
        tags: Sum {
            rows: 2,
            ids: -3,
            crcs: 4,
        },
    };

    #[test]
    fn what_was_put_in_is_never_denied_also_after_storing() {
        // As many as were expected, and many more.
        for expected in [10_000, 0] {
            let filter = Filter::new(expected);
            (0..10_000).for_each(|n| filter.insert(hash(n)));
            let (filter, of) = Filter::decode(&filter.encode(&OF)).unwrap();
            assert_eq!(of, OF);
            assert!((0..10_000).all(|n| filter.may_hold(hash(n))));
            let wrong = (10_000..410_000)
                .filter(|n| filter.may_hold(hash(*n)))
                .count();
            assert!(
                wrong < 40,
                "{wrong} of 400000 false positives, 6 to 25 expected"
            );
            // A decoded one goes on taking in.
            (20_000..60_000).for_each(|n| filter.insert(hash(n)));
            assert!((20_000..60_000).all(|n| filter.may_hold(hash(n))));
        }
    }

    #[test]
    fn a_filter_of_other_hash_functions_is_refused() {
        let filter = Filter {
            stages: [const { OnceLock::new() }; STAGES],
            room: AtomicU64::new(1),
            first_tags: 1,
        };
        let bits = AtomicBloomFilter::with_num_bits(1 << 14).seed(&1).hashes(8);
        (0..16).for_each(|n| {
            bits.insert(&n);
        });
        filter.stages[0].set(bits).unwrap();
        assert!(Filter::decode(&filter.encode(&OF)).is_none());
        assert!(Filter::decode(&[]).is_none());
    }

    #[test]
    fn damage_is_seen() {
        let bytes = Filter::new(10).encode(&OF);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Filter::decode(&damaged).is_none(), "byte {at}");
            assert!(Filter::decode(&bytes[..at]).is_none(), "cut at {at}");
        }
    }
}
