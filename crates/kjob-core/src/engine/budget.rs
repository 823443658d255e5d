//! The budgets of what is stored, which submits are held to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::RETRY_AFTER;
use super::config::EngineConfig;
use super::submission::SubmitError;
use crate::{Owner, StoreUsage, Usage};

/// Limits of what is stored, and what is on its way into the store: that counts as well, or as many
/// as submit at the same moment would each find the same room.
///
/// Jobs that were accepted are run, and their results stored, whatever has been used up meanwhile.
/// So bytes may pass their limit by the results of jobs that had not ended when it was reached.
#[derive(Debug)]
pub(super) struct Budget {
    jobs_max: u64,
    jobs_per_owner_max: u64,
    bytes_max: u64,
    bytes_per_owner_max: u64,
    under_way: Arc<Mutex<Counts>>,
    /// Something was refused for want of space, since this was last asked.
    was_short: AtomicBool,
}

#[derive(Debug, Default)]
struct Counts {
    total: Usage,
    of: HashMap<Owner, Usage>,
}

/// Something on its way into the store; counts until it is dropped, which is to be done once the
/// store has answered.
#[derive(Debug)]
pub(super) struct UnderWay {
    counts: Arc<Mutex<Counts>>,
    owner: Owner,
    usage: Usage,
}

impl Budget {
    pub(super) fn new(config: &EngineConfig) -> Self {
        Self {
            jobs_max: config.max_stored_jobs,
            jobs_per_owner_max: config.max_stored_jobs_per_owner,
            bytes_max: config.max_stored_bytes,
            bytes_per_owner_max: config.max_stored_bytes_per_owner,
            under_way: Arc::default(),
            was_short: AtomicBool::new(false),
        }
    }

    /// A submit is refused for want of space.
    pub(super) fn note_short(&self) {
        self.was_short.store(true, Ordering::Relaxed);
    }

    /// Whether one was, since this was last asked.
    pub(super) fn was_short(&self) -> bool {
        self.was_short.swap(false, Ordering::Relaxed)
    }

    /// Counts a job with so many bytes of payload, if there is room for it beside what the store
    /// has.
    pub(super) fn admit(
        &self,
        stored: impl FnOnce() -> StoreUsage,
        owner: &Owner,
        bytes: usize,
    ) -> Result<UnderWay, SubmitError> {
        let new = Usage {
            jobs: 1,
            bytes: bytes as u64,
        };
        let mut counts = lock(&self.under_way);
        // Asked while nobody else is admitted: what has been stored is in it, or under way, or both.
        let stored = stored();
        let total = sum([stored.total, counts.total, new]);
        let of_owner = sum([stored.owner, counts.of(owner), new]);
        for (what, found, limit) in [
            ("stored jobs", total.jobs, self.jobs_max),
            (
                "stored jobs of one user",
                of_owner.jobs,
                self.jobs_per_owner_max,
            ),
            ("stored bytes", total.bytes, self.bytes_max),
            (
                "stored bytes of one user",
                of_owner.bytes,
                self.bytes_per_owner_max,
            ),
        ] {
            if found > limit {
                self.note_short();
                return Err(SubmitError::Busy {
                    what,
                    found,
                    limit,
                    retry_after: RETRY_AFTER,
                });
            }
        }
        Ok(self.count(&mut counts, owner, new))
    }

    /// Counts a result, for which room is not asked.
    pub(super) fn result(&self, owner: &Owner, bytes: usize) -> UnderWay {
        let new = Usage {
            jobs: 0,
            bytes: bytes as u64,
        };
        self.count(&mut lock(&self.under_way), owner, new)
    }

    fn count(&self, counts: &mut Counts, owner: &Owner, usage: Usage) -> UnderWay {
        counts.total = sum([counts.total, usage]);
        let of_owner = counts.of.entry(owner.clone()).or_default();
        *of_owner = sum([*of_owner, usage]);
        UnderWay {
            counts: self.under_way.clone(),
            owner: owner.clone(),
            usage,
        }
    }
}

impl Counts {
    fn of(&self, owner: &Owner) -> Usage {
        self.of.get(owner).copied().unwrap_or_default()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.total = less(counts.total, self.usage);
        let left = less(counts.of(&self.owner), self.usage);
        if left == Usage::default() {
            counts.of.remove(&self.owner);
        } else {
            counts.of.insert(self.owner.clone(), left);
        }
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    // Nothing that holds the lock can panic half way.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sum(usages: impl IntoIterator<Item = Usage>) -> Usage {
    let add = |a: Usage, b: Usage| Usage {
        jobs: a.jobs.saturating_add(b.jobs),
        bytes: a.bytes.saturating_add(b.bytes),
    };
    usages.into_iter().fold(Usage::default(), add)
}

fn less(from: Usage, usage: Usage) -> Usage {
    Usage {
        jobs: from.jobs.saturating_sub(usage.jobs),
        bytes: from.bytes.saturating_sub(usage.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(change: impl FnOnce(&mut EngineConfig)) -> Budget {
        let mut config = EngineConfig::default();
        change(&mut config);
        Budget::new(&config)
    }

    fn usage(jobs: u64, bytes: u64) -> Usage {
        Usage { jobs, bytes }
    }

    fn stored(total: Usage, owner: Usage) -> impl Fn() -> StoreUsage {
        move || StoreUsage { total, owner }
    }

    /// What a refusal names, how much there would be, and the limit.
    fn refused(admitted: Result<UnderWay, SubmitError>) -> (&'static str, u64, u64) {
        match admitted {
            Err(SubmitError::Busy {
                what, found, limit, ..
            }) => (what, found, limit),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn each_limit_lets_in_as_much_as_it_says_and_no_more() {
        let ann = Owner::new("ann");
        let at = |budget: &Budget, total, owner| {
            let admitted = budget.admit(stored(total, owner), &ann, 10);
            admitted.map(drop)
        };
        let past =
            |budget: &Budget, total, owner| refused(budget.admit(stored(total, owner), &ann, 10));
        let none = usage(0, 0);
        let jobs = budget(|config| config.max_stored_jobs = 3);
        assert!(at(&jobs, usage(2, 0), none).is_ok());
        assert_eq!(past(&jobs, usage(3, 0), none), ("stored jobs", 4, 3));
        let of_one = budget(|config| config.max_stored_jobs_per_owner = 3);
        assert!(at(&of_one, usage(9, 0), usage(2, 0)).is_ok());
        let told = ("stored jobs of one user", 4, 3);
        assert_eq!(past(&of_one, usage(9, 0), usage(3, 0)), told);
        let bytes = budget(|config| config.max_stored_bytes = 30);
        assert!(at(&bytes, usage(0, 20), none).is_ok());
        assert_eq!(past(&bytes, usage(0, 21), none), ("stored bytes", 31, 30));
        let of_one = budget(|config| config.max_stored_bytes_per_owner = 30);
        assert!(at(&of_one, usage(0, 90), usage(0, 20)).is_ok());
        let told = ("stored bytes of one user", 31, 30);
        assert_eq!(past(&of_one, usage(0, 90), usage(0, 21)), told);
    }

    #[test]
    fn what_is_under_way_has_its_room_until_it_is_stored() {
        let (ann, bob) = (Owner::new("ann"), Owner::new("bob"));
        let empty = stored(usage(0, 0), usage(0, 0));
        let budget = budget(|config| {
            config.max_stored_jobs = 3;
            config.max_stored_jobs_per_owner = 2;
            config.max_stored_bytes = 100;
        });
        let first = budget.admit(&empty, &ann, 40).unwrap();
        let second = budget.admit(&empty, &ann, 40).unwrap();
        let told = refused(budget.admit(&empty, &ann, 1));
        assert_eq!(told, ("stored jobs of one user", 3, 2));
        let told = refused(budget.admit(&empty, &bob, 21));
        assert_eq!(told, ("stored bytes", 101, 100));
        let result = budget.result(&bob, 15);
        let told = refused(budget.admit(&empty, &bob, 6));
        assert_eq!(told, ("stored bytes", 101, 100), "a result counts as well");
        drop((first, result));
        let third = budget.admit(&empty, &bob, 60).unwrap();
        drop((second, third));
        assert_eq!(lock(&budget.under_way).total, usage(0, 0));
        assert!(lock(&budget.under_way).of.is_empty(), "nobody is kept");
    }
}
