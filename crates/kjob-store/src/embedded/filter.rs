//! Which tags a sealed segment may hold, answered from memory.

use std::fmt;

use fastbloom::AtomicBloomFilter;
use kjob_core::{JobTag, Owner};

use super::tags;

/// One in this many lookups of a tag that a segment does not hold reads its file in vain.
const FALSE_POSITIVES: f64 = 1.0 / 256.0;

/// Tags that every filter holds. A stored filter that does not know them was written with other
/// hash functions (a new version of a library, or of Rust), would deny tags that are there, and
/// is built anew.
const MARKS: u64 = 16;

/// A Bloom filter over the hashes of (tag, owner). Says "no" only when that is so.
pub(crate) struct Filter {
    bits: AtomicBloomFilter,
}

impl Filter {
    /// An empty filter that keeps its rate up to `tags` entries.
    pub(crate) fn new(tags: u64) -> Self {
        let expected = usize::try_from(tags.saturating_add(MARKS)).unwrap_or(usize::MAX);
        let bits = AtomicBloomFilter::with_false_pos(FALSE_POSITIVES)
            .seed(&0)
            .expected_items(expected.max(64));
        let filter = Self { bits };
        for mark in marks() {
            filter.insert(mark);
        }
        filter
    }

    /// Takes in a hash of [`tags::hash`].
    pub(crate) fn insert(&self, hash: u64) {
        self.bits.insert_hash(hash);
    }

    /// Whether the tag may be there.
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        self.bits.contains_hash(hash)
    }

    /// The filter as bytes, for [`Filter::decode`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.bits.num_hashes().to_le_bytes().to_vec();
        bytes.extend(self.bits.iter().flat_map(u64::to_le_bytes));
        // A lost bit would deny a tag that is there, and its call would be run twice.
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// A stored filter; `None` if it is not one, is damaged, or is of other hash functions.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, crc) = bytes.split_last_chunk()?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (hashes, words) = bytes.split_first_chunk()?;
        let (words, rest) = words.as_chunks::<8>();
        let hashes = u32::from_le_bytes(*hashes);
        if words.is_empty() || !rest.is_empty() || !(1..=64).contains(&hashes) {
            return None;
        }
        let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let bits = AtomicBloomFilter::from_vec(words).seed(&0).hashes(hashes);
        let filter = Self { bits };
        marks().all(|mark| filter.may_hold(mark)).then_some(filter)
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
        write!(f, "Filter({} bits)", self.bits.num_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u32) -> u64 {
        let tag: JobTag = format!("tag-{number}").parse().unwrap();
        tags::hash_of(&tag, &Owner::anonymous())
    }

    #[test]
    fn what_was_put_in_is_never_denied_also_after_storing() {
        let filter = Filter::new(10_000);
        (0..10_000).for_each(|n| filter.insert(hash(n)));
        let filter = Filter::decode(&filter.encode()).unwrap();
        assert!((0..10_000).all(|n| filter.may_hold(hash(n))));
        let wrong = (10_000..110_000)
            .filter(|n| filter.may_hold(hash(*n)))
            .count();
        assert!(
            wrong < 800,
            "{wrong} of 100000 false positives, 390 expected"
        );
    }

    #[test]
    fn a_filter_of_other_hash_functions_is_refused() {
        let bits = AtomicBloomFilter::with_num_bits(1 << 14).seed(&1).hashes(8);
        (0..16).for_each(|n| {
            bits.insert(&n);
        });
        assert!(Filter::decode(&Filter { bits }.encode()).is_none());
        assert!(Filter::decode(&[]).is_none());
    }

    #[test]
    fn damage_is_seen() {
        let bytes = Filter::new(10).encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Filter::decode(&damaged).is_none(), "byte {at}");
            assert!(Filter::decode(&bytes[..at]).is_none(), "cut at {at}");
        }
    }
}
