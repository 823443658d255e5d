//! What is known of a segment without reading its rows: how much each owner has in it, and when
//! its ended jobs expire.

use std::collections::{BTreeMap, HashMap};

use kjob_core::{Owner, Timestamp, Usage};

use super::ledger::Ledger;
use super::totals::{Sum, Totals};

/// Jobs and bytes of each owner in one segment.
pub(crate) type OwnerUsage = HashMap<Owner, Usage>;

/// Counts of ended jobs by the second in which they have expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expiries {
    /// How many jobs have expired once this second (since the epoch) begins.
    seconds: BTreeMap<i64, u64>,
    /// All of them.
    total: u64,
}

impl Expiries {
    /// The entry of a job that expires at `at`: the first full second by which it has.
    pub(crate) fn second_of(at: Timestamp) -> i64 {
        let millis = at.as_millis();
        millis
            .div_euclid(1000)
            .saturating_add(i64::from(millis.rem_euclid(1000) != 0))
    }

    /// The moment up to which all jobs that count as expired at `now` have expired.
    pub(crate) fn cutoff(now: Timestamp) -> Timestamp {
        Timestamp::from_millis(Self::second_at(now).saturating_mul(1000))
    }

    /// Counts `change` more (or fewer) jobs in a second.
    pub(crate) fn add(&mut self, second: i64, change: i64) {
        let count = self.seconds.entry(second).or_default();
        let before = std::mem::replace(count, count.saturating_add_signed(change));
        self.total = self.total.saturating_sub(before).saturating_add(*count);
        if *count == 0 {
            self.seconds.remove(&second);
        }
    }

    /// How many have expired once `second` begins, and not before.
    pub(crate) fn at(&self, second: i64) -> u64 {
        self.seconds.get(&second).copied().unwrap_or(0)
    }

    /// Jobs that have ended and not expired by `now`. Costs what has expired, not what stays.
    pub(crate) fn unexpired(&self, now: Timestamp) -> u64 {
        let expired: u64 = self
            .seconds
            .range(..=Self::second_at(now))
            .map(|(_, count)| count)
            .sum();
        self.total.saturating_sub(expired)
    }

    /// The first second by which at most `unexpired` jobs have not expired; the least of all
    /// where that is so from the beginning. Costs what expires until then.
    pub(crate) fn second_of_at_most(&self, unexpired: u64) -> i64 {
        let mut left = self.total;
        let mut second = i64::MIN;
        for (next, count) in &self.seconds {
            if left <= unexpired {
                break;
            }
            left = left.saturating_sub(*count);
            second = *next;
        }
        second
    }

    /// The second that `now` is in.
    pub(crate) fn second_at(now: Timestamp) -> i64 {
        now.as_millis().div_euclid(1000)
    }

    /// Forgets the jobs that have expired by `now`.
    pub(crate) fn drop_expired(&mut self, now: Timestamp) {
        self.total = self.unexpired(now);
        self.seconds = self
            .seconds
            .split_off(&Self::second_at(now).saturating_add(1));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        self.seconds.iter().map(|(second, count)| (*second, *count))
    }
}

/// The counts of a segment as bytes, for the catalogue: so that a segment that is never written
/// again need not be opened.
pub(crate) fn encode(ledger: &Ledger) -> Vec<u8> {
    let (usage, expiries) = (&ledger.usage, &ledger.expiries);
    let mut bytes = ledger.number.to_le_bytes().to_vec();
    bytes.extend(ledger.generation.to_le_bytes());
    for (_, sum) in ledger.totals.tables() {
        bytes.extend(sum.to_bytes());
    }
    let mut put = |number: u64| bytes.extend(number.to_le_bytes());
    put(usage.len() as u64);
    put(expiries.seconds.len() as u64);
    for (second, count) in &expiries.seconds {
        put(second.cast_unsigned());
        put(*count);
    }
    for (owner, usage) in usage {
        for number in [usage.jobs, usage.bytes, owner.as_str().len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(owner.as_str().as_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// Takes the counts in the bytes of [`encode`] into the ledger of the segment they belong to;
/// `None` if they are damaged or another's.
pub(crate) fn decode(bytes: &[u8], ledger: &mut Ledger) -> Option<()> {
    let (mut rest, crc) = bytes.split_last_chunk()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (number, tail) = rest.split_first_chunk()?;
    let (generation, tail) = tail.split_first_chunk()?;
    rest = tail;
    let of = (u32::from_le_bytes(*number), u32::from_le_bytes(*generation));
    if of != (ledger.number, ledger.generation) {
        return None;
    }
    let totals = Totals {
        jobs: Sum::take(&mut rest)?,
        states: Sum::take(&mut rest)?,
        ends: Sum::take(&mut rest)?,
        expiries: Sum::take(&mut rest)?,
        tags: Sum::take(&mut rest)?,
        usage: Sum::take(&mut rest)?,
        expiry_seconds: Sum::take(&mut rest)?,
        callbacks: Sum::take(&mut rest)?,
        callbacks_due: Sum::take(&mut rest)?,
    };
    let owners = take(&mut rest)?;
    let seconds = take(&mut rest)?;
    let mut expiries = Expiries::default();
    for _ in 0..seconds {
        let second = take(&mut rest)?.cast_signed();
        let count = take(&mut rest)?;
        expiries.add(second, i64::try_from(count).ok()?);
    }
    let mut usage = OwnerUsage::new();
    for _ in 0..owners {
        let (jobs, bytes) = (take(&mut rest)?, take(&mut rest)?);
        let len = usize::try_from(take(&mut rest)?).ok()?;
        let (name, tail) = rest.split_at_checked(len)?;
        rest = tail;
        usage.insert(
            Owner::new(std::str::from_utf8(name).ok()?),
            Usage { jobs, bytes },
        );
    }
    if !rest.is_empty() {
        return None;
    }
    ledger.jobs = usage.values().map(|usage| usage.jobs).sum();
    (ledger.usage, ledger.expiries, ledger.totals) = (usage, expiries, totals);
    Some(())
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let (number, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_counts_as_expired_only_once_it_is() {
        let mut expiries = Expiries::default();
        expiries.add(Expiries::second_of(Timestamp::from_millis(1001)), 1);
        expiries.add(Expiries::second_of(Timestamp::from_millis(2000)), 1);
        let left = |millis| expiries.unexpired(Timestamp::from_millis(millis));
        assert_eq!([left(1001), left(1999), left(2000)], [2, 2, 0]);
        assert_eq!(
            Expiries::second_of(Timestamp::from_millis(i64::MAX)),
            i64::MAX / 1000 + 1
        );
    }

    #[test]
    fn the_running_total_is_that_of_all_seconds() {
        let mut expiries = Expiries::default();
        let changes = [(5, 3), (9, 2), (5, -1), (7, 4), (7, -4), (20, 1), (6, -3)];
        for (second, change) in changes {
            expiries.add(second, change);
        }
        let left = |expiries: &Expiries, second: i64| {
            let counted = expiries.iter().filter(|(at, _)| *at > second);
            let counted: u64 = counted.map(|(_, count)| count).sum();
            let told = expiries.unexpired(Timestamp::from_millis(second * 1000));
            assert_eq!(told, counted, "at {second}");
            told
        };
        let of = |expiries: &Expiries| [0, 5, 8, 9, 20].map(|second| left(expiries, second));
        assert_eq!(of(&expiries), [5, 3, 3, 1, 0]);
        expiries.drop_expired(Timestamp::from_millis(5_999));
        assert_eq!(of(&expiries), [3, 3, 3, 1, 0]);
    }

    #[test]
    fn the_second_is_told_by_which_few_enough_are_left() {
        let mut expiries = Expiries::default();
        for (second, jobs) in [(-5, 2), (7, 3), (20, 1)] {
            expiries.add(second, jobs);
        }
        let seconds = [0, 1, 2, 3, 4, 5, 6].map(|left| expiries.second_of_at_most(left));
        assert_eq!(seconds, [20, 7, 7, 7, -5, -5, i64::MIN]);
        assert_eq!(Expiries::default().second_of_at_most(0), i64::MIN);
    }

    #[test]
    fn counts_come_back_and_damage_is_seen() {
        let mut ledger = Ledger::new(4, 1);
        ledger.expiries.add(-5, 2);
        ledger.expiries.add(7, 3);
        ledger.usage = OwnerUsage::from([
            (Owner::new("a"), Usage { jobs: 1, bytes: 2 }),
            (Owner::new("ö"), Usage { jobs: 3, bytes: 4 }),
        ]);
        ledger.jobs = 4;
        ledger.totals.tags.add(7, 9);
        let bytes = encode(&ledger);
        let mut back = Ledger::new(4, 1);
        assert_eq!(decode(&bytes, &mut back), Some(()));
        assert_eq!(
            (&back.usage, &back.expiries),
            (&ledger.usage, &ledger.expiries)
        );
        assert_eq!((back.jobs, back.totals), (4, ledger.totals));
        assert_eq!(decode(&bytes, &mut Ledger::new(5, 1)), None, "another's");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, &mut back), None, "byte {at}");
            assert_eq!(decode(&bytes[..at], &mut back), None, "cut at {at}");
        }
    }
}
