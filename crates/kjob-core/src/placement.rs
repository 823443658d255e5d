//! Which of several databases a job is in: by its id once it has one, by its tag before.
//!
//! Databases of a set hold one set of jobs together. Each has a number, its [`Shard`], which the ids that
//! are given there carry in their lowest six bits: an id finds its job without asking around, and ids of
//! all shards mix in about the order in which they were given. A job whose submitter gave a tag lives where
//! the tag does, by rendezvous hashing: of all shards the one whose hash with owner and tag is the largest.
//! So a tag always comes to the same database, which alone says whether it is taken.
//!
//! A set may grow. One tag in as many as there are shards then lives in the new one, and what was submitted
//! under it before is where it was: [`Placement::shards_of`] names the earlier shards behind the present one,
//! for as long as jobs of that time are kept.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::{JobId, JobTag, Owner};

/// How many bits of an id tell its shard.
const BITS: u32 = 6;

/// The number of a database in its set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

impl Shard {
    /// How many shards a set may have.
    pub const COUNT_MAX: usize = 1 << BITS;

    /// The first, and where there is one database the only one.
    pub const FIRST: Shard = Shard(0);

    /// The shard with this number, or `None` where none can have it.
    ///
    /// ```
    /// use kjob_core::Shard;
    /// assert_eq!(Shard::new(63).map(Shard::number), Some(63));
    /// assert_eq!(Shard::new(64), None);
    /// ```
    pub fn new(number: usize) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (usize::from(number) < Self::COUNT_MAX).then_some(Self(number))
    }

    /// Its number: below [`COUNT_MAX`](Self::COUNT_MAX).
    pub fn number(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the jobs of a set of databases are.
///
/// ```
/// use kjob_core::{Shard, JobId, Owner, Placement};
///
/// let two = Placement::new(&[2], 0)?;
/// let (ann, tag) = (Owner::new("ann"), "nightly".parse()?);
/// let shard = two.shard_of(&ann, &tag);
/// assert!(shard.number() < 2);
/// // The first id that this shard gives.
/// let id = two.first_id(shard, 1).ok_or("there are enough")?;
/// assert_eq!(two.shard_of_id(id), shard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// How many shards there were, from the beginning until now; each more than the one before.
    sizes: Vec<usize>,
    /// Ids up to this one are from the time when there was one database. With one they all are.
    alone_until: i64,
}

/// Why there is no such placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// A set has at least one shard.
    #[error("a set of databases has at least one")]
    None,
    /// More than [`Shard::COUNT_MAX`].
    #[error("a set of {found} databases is larger than {max}", max = Shard::COUNT_MAX)]
    TooMany {
        /// How many there would be.
        found: usize,
    },
    /// Sets only grow.
    #[error("a set of {before} databases cannot be one of {after}: sets only grow")]
    Shrinks {
        /// How many there were.
        before: usize,
        /// How many there would be then.
        after: usize,
    },
}

impl Placement {
    /// That of one database, whose ids are in no set and follow each other.
    pub fn alone() -> Self {
        Self {
            sizes: vec![1],
            alone_until: JobId::MAX,
        }
    }

    /// One of a set that had these numbers of shards, one after the other, and whose first database had
    /// given ids up to `alone_until` before there was a second (0 if it had given none).
    ///
    /// # Errors
    /// [`PlacementError`].
    pub fn new(sizes: &[usize], alone_until: i64) -> Result<Self, PlacementError> {
        let Some(&largest) = sizes.last() else {
            return Err(PlacementError::None);
        };
        if let Some(pair) = sizes.windows(2).find(|pair| pair[0] >= pair[1]) {
            let (before, after) = (pair[0], pair[1]);
            return Err(PlacementError::Shrinks { before, after });
        }
        match (sizes[0], largest) {
            (0, _) => Err(PlacementError::None),
            (_, found) if found > Shard::COUNT_MAX => Err(PlacementError::TooMany { found }),
            _ => Ok(Self {
                sizes: sizes.to_vec(),
                alone_until,
            }),
        }
    }

    /// How many shards there are now.
    pub fn size(&self) -> usize {
        self.sizes.last().copied().unwrap_or(1)
    }

    /// Where the job with this id is.
    pub fn shard_of_id(&self, id: JobId) -> Shard {
        if self.size() == 1 || id.get() <= self.alone_until {
            return Shard::FIRST;
        }
        // Six bits fit.
        Shard((id.get() & (Shard::COUNT_MAX as i64 - 1)) as u8)
    }

    /// The smallest id that `shard`, one of several, may give and that is at least `from`; `None` once they are
    /// used up.
    pub fn first_id(&self, shard: Shard, from: i64) -> Option<JobId> {
        let from = from.max(self.alone_until + 1);
        let step = Shard::COUNT_MAX as i64;
        let ahead = (shard.number() as i64 - from).rem_euclid(step);
        JobId::new(from.checked_add(ahead)?)
    }

    /// Where a job with this tag is to go.
    pub fn shard_of(&self, owner: &Owner, tag: &JobTag) -> Shard {
        rendezvous(self.size(), owner, tag)
    }

    /// Where jobs with this tag may be, each shard once: first where one would go now, then where one went
    /// when the set was smaller, the latest time first. A tag that carries an id may be with that.
    pub fn shards_of(&self, owner: &Owner, tag: &JobTag) -> Vec<Shard> {
        let carried = tag.carried_id().map(|id| self.shard_of_id(id));
        let by_size = self.sizes.iter().rev();
        let all = carried
            .filter(|shard| shard.number() < self.size())
            .into_iter()
            .chain(by_size.map(|size| rendezvous(*size, owner, tag)));
        let mut shards = Vec::new();
        for shard in all {
            if !shards.contains(&shard) {
                shards.push(shard);
            }
        }
        shards
    }
}

/// Of so many shards the one whose hash with owner and tag is the largest. It is written down nowhere, so the
/// hash is one that never changes.
fn rendezvous(size: usize, owner: &Owner, tag: &JobTag) -> Shard {
    let weight = |shard: &Shard| {
        let mut hasher = SipHasher13::new_with_keys(0, shard.number() as u64);
        // No tag has a slash, so that this is one pair's alone.
        hasher.write(tag.as_str().as_bytes());
        hasher.write(b"/");
        hasher.write(owner.as_str().as_bytes());
        hasher.finish()
    };
    let shards = (0..size).filter_map(Shard::new);
    shards.max_by_key(weight).unwrap_or(Shard::FIRST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner_and_tag() -> impl Strategy<Value = (Owner, JobTag)> {
        ("[a-z]{0,5}", "[A-Za-z0-9_-]{1,20}")
            .prop_map(|(owner, tag)| (Owner::new(&owner), tag.parse().unwrap()))
    }

    fn sizes() -> impl Strategy<Value = Vec<usize>> {
        let all = prop::collection::btree_set(1..=Shard::COUNT_MAX, 1..5);
        all.prop_map(|sizes| sizes.into_iter().collect())
    }

    proptest! {
        #[test]
        fn an_id_tells_the_shard_that_gave_it(
            sizes in sizes(), shard in 0..Shard::COUNT_MAX, from in 0..JobId::MAX - 64, alone in 0..JobId::MAX - 64,
        ) {
            prop_assume!(sizes.last() > Some(&1));
            let placement = Placement::new(&sizes, alone).unwrap();
            let shard = Shard::new(shard).unwrap();
            let id = placement.first_id(shard, from).unwrap();
            prop_assert_eq!(placement.shard_of_id(id), shard);
            prop_assert!(id.get() >= from && id.get() > alone);
            prop_assert!(id.get() - from.max(alone + 1) < Shard::COUNT_MAX as i64);
            if let Some(old) = JobId::new(alone) {
                prop_assert_eq!(placement.shard_of_id(old), Shard::FIRST);
            }
        }

        #[test]
        fn a_tag_moves_to_the_new_shard_or_stays((owner, tag) in owner_and_tag(), size in 1..Shard::COUNT_MAX) {
            let before = Placement::new(&[size], 0).unwrap().shard_of(&owner, &tag);
            let grown = Placement::new(&[size, size + 1], 0).unwrap();
            let after = grown.shard_of(&owner, &tag);
            prop_assert!(after == before || after.number() == size);
            let shards = grown.shards_of(&owner, &tag);
            prop_assert!(shards.contains(&before) && shards.contains(&after));
        }

        #[test]
        fn all_places_of_a_tag_are_named_once((owner, tag) in owner_and_tag(), sizes in sizes()) {
            let placement = Placement::new(&sizes, 0).unwrap();
            let shards = placement.shards_of(&owner, &tag);
            let mut distinct = shards.clone();
            distinct.sort();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), shards.len());
            prop_assert!(shards.iter().all(|shard| shard.number() < placement.size()));
        }
    }

    #[test]
    fn shards_have_about_as_many_tags_each_and_keep_them_for_ever() {
        let placement = Placement::new(&[4], 0).unwrap();
        let mut counts = [0; 4];
        for number in 0..10_000 {
            let tag = format!("tag-{number}").parse().unwrap();
            counts[placement.shard_of(&Owner::new("ann"), &tag).number()] += 1;
        }
        assert!(
            counts.iter().all(|count| (2_350..2_650).contains(count)),
            "{counts:?}"
        );
        // Whoever changes these loses the tags of those who have sets.
        let shard = |tag: &str| {
            placement
                .shard_of(&Owner::new("ann"), &tag.parse().unwrap())
                .number()
        };
        assert_eq!(["a", "b", "nightly", "x-1"].map(shard), [0, 3, 2, 3]);
    }

    #[test]
    fn a_generated_tag_is_looked_for_where_its_id_says() {
        let placement = Placement::new(&[3], 1_000).unwrap();
        let shard = Shard::new(2).unwrap();
        let id = placement.first_id(shard, 5_000).unwrap();
        let tag = format!("job-{id}-abcdefghijkl").parse().unwrap();
        assert_eq!(placement.shards_of(&Owner::new("ann"), &tag)[0], shard);
        // One that only looks like it, of a shard that there is not.
        let strange = Shard::new(40).unwrap();
        let id = placement.first_id(strange, 5_000).unwrap();
        let tag = format!("job-{id}-abcdefghijkl").parse().unwrap();
        assert!(
            !placement
                .shards_of(&Owner::new("ann"), &tag)
                .contains(&strange)
        );
    }

    #[test]
    fn sets_have_shards_and_only_grow() {
        assert_eq!(Placement::new(&[], 0), Err(PlacementError::None));
        assert_eq!(Placement::new(&[0, 1], 0), Err(PlacementError::None));
        assert_eq!(
            Placement::new(&[65], 0),
            Err(PlacementError::TooMany { found: 65 })
        );
        let shrinks = PlacementError::Shrinks {
            before: 2,
            after: 2,
        };
        assert_eq!(Placement::new(&[2, 2], 0), Err(shrinks));
    }
}
