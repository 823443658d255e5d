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
        Timestamp::from_millis(now.as_millis().div_euclid(1000).saturating_mul(1000))
    }

    /// Counts `change` more (or fewer) jobs in a second.
    pub(crate) fn add(&mut self, second: i64, change: i64) {
        let count = self.seconds.entry(second).or_default();
        *count = count.saturating_add_signed(change);
        if *count == 0 {
            self.seconds.remove(&second);
        }
    }

    /// How many have expired once `second` begins, and not before.
    pub(crate) fn at(&self, second: i64) -> u64 {
        self.seconds.get(&second).copied().unwrap_or(0)
    }

    /// Jobs that have ended and not expired by `now`.
    pub(crate) fn unexpired(&self, now: Timestamp) -> u64 {
        let second = now.as_millis().div_euclid(1000);
        self.seconds
            .range(second.saturating_add(1)..)
            .map(|(_, count)| count)
            .sum()
    }

    /// Forgets the jobs that have expired by `now`.
    pub(crate) fn drop_expired(&mut self, now: Timestamp) {
        let second = now.as_millis().div_euclid(1000);
        self.seconds = self.seconds.split_off(&second.saturating_add(1));
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
        expiries.seconds.insert(second, count);
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
