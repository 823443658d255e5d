//! In which turn a job waits, so that owners take turns: each job of an owner is a turn behind the one before,
//! and none is in front of the turn that is being served.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kjob_core::{Owner, Priority};

/// Owners whose turns are remembered, before those that are over are looked for.
const OWNERS_MAX: usize = 10_000;

/// The turns of each priority, as far as this process knows them.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    levels: Mutex<[Level; Priority::COUNT]>,
}

#[derive(Debug, Default)]
struct Level {
    /// The turn that was served last.
    present: i64,
    /// The last turn of each owner that lies ahead.
    last: HashMap<Owner, i64>,
}

impl Turns {
    /// The turn of the next job of an owner.
    pub(crate) fn next(&self, priority: Priority, owner: &Owner) -> i64 {
        let level = &mut self.lock()[usize::from(priority.get())];
        let present = level.present;
        if let Some(last) = level.last.get_mut(owner) {
            *last = (*last).max(present) + 1;
            return *last;
        }
        if level.last.len() >= OWNERS_MAX {
            level.last.retain(|_, last| *last > present);
        }
        level.last.insert(owner.clone(), present + 1);
        present + 1
    }

    /// Notes that this turn is being served.
    pub(crate) fn serve(&self, priority: Priority, turn: i64) {
        let level = &mut self.lock()[usize::from(priority.get())];
        level.present = level.present.max(turn);
    }

    fn lock(&self) -> MutexGuard<'_, [Level; Priority::COUNT]> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_with_many_jobs_does_not_come_before_the_next_ones_first() {
        let turns = Turns::default();
        let (ann, bob) = (Owner::new("ann"), Owner::new("bob"));
        let next = |owner| turns.next(Priority::default(), owner);
        assert_eq!([next(&ann), next(&ann), next(&ann)], [1, 2, 3]);
        assert_eq!(next(&bob), 1);
        turns.serve(Priority::default(), 2);
        assert_eq!([next(&bob), next(&ann)], [3, 4]);
        assert_eq!(turns.next(Priority::new(9).unwrap(), &ann), 1);
        turns.serve(Priority::default(), 100);
        assert_eq!([next(&bob), next(&ann)], [101, 101]);
    }
}
