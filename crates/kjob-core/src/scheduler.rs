//! Which waiting job is next: by priority, in fair turns between owners, by id within an owner.
//!
//! Pure: no clock, no tasks, no store; time and the state of the routes are handed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::{JobId, NameKey as OwnerKey, Names, Owner, Priority, Timestamp};

/// A route, by its place in the registry. Jobs of one route share a concurrency limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u16);

/// A job that waits for a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub id: JobId,
    /// Whose turn it uses.
    pub owner: Owner,
    /// Which limit it counts against.
    pub route: RouteId,
    /// How urgent it is.
    pub priority: Priority,
    /// Since when it waits.
    pub since: Timestamp,
}

/// The queue of waiting jobs.
///
/// **The rule.** A priority counts as one higher for each `ageing` that its longest-waiting head
/// has waited (a head is the smallest id of one owner on one route); the highest count goes first,
/// on equal counts the higher priority. Inside a priority the owner who was served longest ago
/// goes first (a new one joins at the end of the round), and inside an owner the smallest id.
/// Routes that are full are passed over, so that one slow route never blocks the others.
///
/// Ageing lifts a whole priority and not one job, so that an owner with very many old jobs does
/// not come before everybody else's new ones.
///
/// **The cost.** `push`, `remove` and `pop` are logarithmic in the queue and linear in the number
/// of routes; a waiting job takes about 40 bytes.
///
/// ```
/// use kjob_core::{JobId, Owner, Priority, RouteId, Scheduler, Timestamp, Waiting};
/// use std::time::Duration;
///
/// let now = Timestamp::from_millis(0);
/// let mut queue = Scheduler::new(Duration::from_secs(60));
/// for (id, owner) in [(1, "ann"), (2, "ann"), (3, "bob")] {
///     queue.push(Waiting {
///         id: JobId::new(id).unwrap(),
///         owner: Owner::new(owner),
///         route: RouteId(0),
///         priority: Priority::default(),
///         since: now,
///     });
/// }
/// let order: Vec<i64> = std::iter::from_fn(|| queue.pop(now, |_| true)).map(|job| job.id.get()).collect();
/// assert_eq!(order, [1, 3, 2], "bob does not wait for all of ann's");
/// ```
#[derive(Debug)]
pub struct Scheduler {
    ageing: Duration,
    levels: [Level; Priority::COUNT],
    owners: Names<Owner>,
    len: usize,
}

/// The jobs of one priority.
#[derive(Debug, Default)]
struct Level {
    /// The turn that was served last; owners who join do so behind it.
    turn: u64,
    /// The next turn of each owner who has jobs here, or had some in this round.
    next_turn: HashMap<OwnerKey, u64>,
    routes: BTreeMap<RouteId, Lane>,
}

/// The jobs of one priority on one route.
#[derive(Debug, Default)]
struct Lane {
    queues: HashMap<OwnerKey, BTreeMap<JobId, Timestamp>>,
    /// The owners of `queues`, by their turn.
    by_turn: BTreeSet<(u64, OwnerKey)>,
    /// The owners of `queues`, by how long their head waits.
    by_age: BTreeSet<(Timestamp, OwnerKey)>,
}

impl Scheduler {
    /// An empty queue, in which waiting for `ageing` (at least a millisecond) is worth one
    /// priority.
    pub fn new(ageing: Duration) -> Self {
        Self {
            ageing: ageing.max(Duration::from_millis(1)),
            levels: Default::default(),
            owners: Names::default(),
            len: 0,
        }
    }

    /// How many jobs wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of `owner`'s jobs wait.
    pub fn len_of(&self, owner: &Owner) -> usize {
        self.owners.uses(owner)
    }

    /// Since when the longest-waiting head has waited (a head is the smallest id of one owner on one
    /// route).
    pub fn waiting_since(&self) -> Option<Timestamp> {
        let heads = self.levels.iter();
        heads
            .filter_map(|level| level.oldest_head(&|_| true, &|_| true))
            .min()
    }

    /// Adds a job. A job that waits already (same id, owner, route and priority) stays as it is.
    pub fn push(&mut self, job: Waiting) {
        let owner = self.owners.enter(&job.owner);
        let level = &mut self.levels[usize::from(job.priority.get())];
        if level.push(owner, &job) {
            self.len += 1;
        } else {
            self.owners.leave(owner);
        }
    }

    /// Takes a job out, and says whether it waited.
    pub fn remove(&mut self, job: &Waiting) -> bool {
        let Some(owner) = self.owners.key(&job.owner) else {
            return false;
        };
        let level = &mut self.levels[usize::from(job.priority.get())];
        let removed = level.remove(owner, job.route, job.id);
        if removed {
            self.gone(owner);
        }
        removed
    }

    /// Lets a job that waits do so for another route, for as long as it has waited so far; says
    /// whether it waits.
    pub fn reroute(&mut self, job: &Waiting, to: RouteId) -> bool {
        let Some(owner) = self.owners.key(&job.owner) else {
            return false;
        };
        let level = &mut self.levels[usize::from(job.priority.get())];
        let Some(since) = level.since(owner, job.route, job.id) else {
            return false;
        };
        level.remove(owner, job.route, job.id);
        let job = Waiting {
            route: to,
            since,
            ..job.clone()
        };
        level.push(owner, &job);
        true
    }

    /// The next job on a route for which `free` holds, taken out of the queue.
    pub fn pop(&mut self, now: Timestamp, free: impl Fn(RouteId) -> bool) -> Option<Waiting> {
        self.pop_of(now, free, |_| true)
    }

    /// Likewise, of the owners for whom `may` holds: the others are passed over, which costs a look at
    /// each of them.
    pub fn pop_of(
        &mut self,
        now: Timestamp,
        free: impl Fn(RouteId) -> bool,
        may: impl Fn(&Owner) -> bool,
    ) -> Option<Waiting> {
        let owners = &self.owners;
        let may = |key| owners.name(key).is_some_and(&may);
        let (_, number) = (0..Priority::COUNT)
            .filter_map(|number| {
                let since = self.levels[number].oldest_head(&free, &may)?;
                let aged = now.since(since).as_millis() / self.ageing.as_millis();
                Some((aged + number as u128, number))
            })
            .max()?;
        let priority = Priority::new(number as u8)?;
        let (key, route, id, since) = self.levels[number].pop(&free, &may)?;
        let owner = self.owners.name(key)?.clone();
        self.gone(key);
        Some(Waiting {
            id,
            owner,
            route,
            priority,
            since,
        })
    }

    /// One job of `owner` fewer.
    fn gone(&mut self, owner: OwnerKey) {
        self.len -= 1;
        if self.owners.leave(owner) {
            for level in &mut self.levels {
                level.next_turn.remove(&owner);
            }
        }
    }
}

impl Level {
    fn push(&mut self, owner: OwnerKey, job: &Waiting) -> bool {
        let turn = *self.next_turn.entry(owner).or_insert(self.turn + 1);
        let lane = self.routes.entry(job.route).or_default();
        lane.change(owner, turn, |queue| match queue.entry(job.id) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(job.since);
                true
            }
        })
    }

    /// Since when a job waits.
    fn since(&self, owner: OwnerKey, route: RouteId, id: JobId) -> Option<Timestamp> {
        let queue = self.routes.get(&route)?.queues.get(&owner)?;
        queue.get(&id).copied()
    }

    fn remove(&mut self, owner: OwnerKey, route: RouteId, id: JobId) -> bool {
        let Some(turn) = self.next_turn.get(&owner).copied() else {
            return false;
        };
        let Some(lane) = self.routes.get_mut(&route) else {
            return false;
        };
        let removed = lane.change(owner, turn, |queue| queue.remove(&id).is_some());
        if lane.queues.is_empty() {
            self.routes.remove(&route);
        }
        removed
    }

    fn oldest_head(
        &self,
        free: &impl Fn(RouteId) -> bool,
        may: &impl Fn(OwnerKey) -> bool,
    ) -> Option<Timestamp> {
        let lanes = self.routes.iter().filter(|(route, _)| free(**route));
        lanes
            .filter_map(|(_, lane)| lane.by_age.iter().find(|(_, owner)| may(*owner)))
            .map(|(since, _)| *since)
            .min()
    }

    fn pop(
        &mut self,
        free: &impl Fn(RouteId) -> bool,
        may: &impl Fn(OwnerKey) -> bool,
    ) -> Option<(OwnerKey, RouteId, JobId, Timestamp)> {
        let lanes = self.routes.iter().filter(|(route, _)| free(**route));
        // An owner may head several lanes with the same turn: the smallest id decides.
        let (turn, id, owner, route) = lanes
            .filter_map(|(route, lane)| {
                let (turn, owner) = *lane.by_turn.iter().find(|(_, owner)| may(*owner))?;
                Some((turn, owner, *route))
            })
            .min()
            .and_then(|(turn, owner, _)| {
                let heads = self.routes.iter().filter(|(route, _)| free(**route));
                heads
                    .filter_map(|(route, lane)| {
                        let (id, _) = lane.queues.get(&owner)?.first_key_value()?;
                        Some((*id, *route))
                    })
                    .min()
                    .map(|(id, route)| (turn, id, owner, route))
            })?;
        let since = self.since(owner, route, id)?;
        self.remove(owner, route, id);
        self.served(owner, turn);
        Some((owner, route, id, since))
    }

    /// Sends `owner` to the end of the round.
    fn served(&mut self, owner: OwnerKey, turn: u64) {
        self.turn = self.turn.max(turn);
        let next = self.turn + 1;
        self.next_turn.insert(owner, next);
        for lane in self.routes.values_mut() {
            if lane.by_turn.remove(&(turn, owner)) {
                lane.by_turn.insert((next, owner));
            }
        }
    }
}

impl Lane {
    /// Changes the owner's queue and brings the two orders in step with it.
    fn change(
        &mut self,
        owner: OwnerKey,
        turn: u64,
        change: impl FnOnce(&mut BTreeMap<JobId, Timestamp>) -> bool,
    ) -> bool {
        let head = |queue: &BTreeMap<JobId, Timestamp>| queue.first_key_value().map(|(_, t)| *t);
        let queue = self.queues.entry(owner).or_default();
        let before = head(queue);
        let changed = change(queue);
        let after = head(queue);
        if before != after {
            if let Some(since) = before {
                self.by_age.remove(&(since, owner));
            }
            if let Some(since) = after {
                self.by_age.insert((since, owner));
            }
        }
        match after {
            Some(_) => self.by_turn.insert((turn, owner)),
            None => {
                self.queues.remove(&owner);
                self.by_turn.remove(&(turn, owner))
            }
        };
        changed
    }
}

#[cfg(test)]
mod tests;
