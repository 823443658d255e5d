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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule, written the slow way.
    #[derive(Default)]
    struct Model {
        jobs: Vec<Waiting>,
        /// (priority, owner) → next turn, kept while the owner has waiting jobs.
        turns: HashMap<(u8, String), u64>,
        served: [u64; Priority::COUNT],
        /// Ties between owners of one turn are broken as the scheduler numbers them.
        numbers: Names<Owner>,
    }

    impl Model {
        fn push(&mut self, job: Waiting) {
            if self.jobs.iter().any(|other| other.id == job.id) {
                return;
            }
            let p = job.priority.get();
            let next = self.served[usize::from(p)] + 1;
            self.turns
                .entry((p, job.owner.as_str().to_owned()))
                .or_insert(next);
            self.numbers.enter(&job.owner);
            self.jobs.push(job);
        }

        fn remove(&mut self, id: JobId) -> bool {
            let Some(at) = self.jobs.iter().position(|job| job.id == id) else {
                return false;
            };
            let owner = self.jobs.remove(at).owner;
            let key = self.numbers.key(&owner).unwrap();
            if self.numbers.leave(key) {
                self.turns.retain(|(_, name), _| name != owner.as_str());
            }
            true
        }

        fn pop(
            &mut self,
            now: Timestamp,
            ageing: Duration,
            full: &BTreeSet<RouteId>,
            sated: &BTreeSet<String>,
        ) -> Option<Waiting> {
            let may =
                |job: &&Waiting| !full.contains(&job.route) && !sated.contains(job.owner.as_str());
            let runnable: Vec<_> = self.jobs.iter().filter(may).collect();
            let is_head = |job: &Waiting| {
                !self.jobs.iter().any(|o| {
                    o.owner == job.owner
                        && o.route == job.route
                        && o.priority == job.priority
                        && o.id < job.id
                })
            };
            let heads: Vec<_> = runnable.into_iter().filter(|job| is_head(job)).collect();
            let count = |p: u8| {
                let level = heads.iter().filter(|job| job.priority.get() == p);
                let aged = level.map(|job| now.since(job.since).as_millis() / ageing.as_millis());
                aged.max().map(|aged| aged + u128::from(p))
            };
            let level = (0..10)
                .filter(|p| count(*p).is_some())
                .max_by_key(|p| (count(*p), *p))?;
            let best = heads
                .iter()
                .filter(|job| job.priority.get() == level)
                .min_by_key(|job| {
                    let turn = self.turns[&(level, job.owner.as_str().to_owned())];
                    (turn, self.numbers.key(&job.owner), job.id)
                })?;
            let (best, owner) = (Waiting::clone(best), best.owner.as_str().to_owned());
            let turn = self.turns[&(level, owner.clone())];
            let served = &mut self.served[usize::from(level)];
            *served = turn.max(*served);
            self.turns.insert((level, owner), *served + 1);
            self.remove(best.id);
            Some(best)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push {
            owner: u8,
            route: u16,
            priority: u8,
        },
        Remove {
            nth: usize,
        },
        Pop {
            full: BTreeSet<u16>,
            sated: BTreeSet<u8>,
        },
        Wait {
            millis: u32,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..4u8, 0..3u16, 0..10u8)
                .prop_map(|(owner, route, priority)| Step::Push { owner, route, priority }),
            1 => any::<usize>().prop_map(|nth| Step::Remove { nth }),
            4 => (
                proptest::collection::btree_set(0..3u16, 0..3),
                proptest::collection::btree_set(0..4u8, 0..3),
            )
                .prop_map(|(full, sated)| Step::Pop { full, sated }),
            1 => (0..5_000u32).prop_map(|millis| Step::Wait { millis }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn it_serves_as_the_rule_says(steps in proptest::collection::vec(step(), 0..200)) {
            let ageing = Duration::from_millis(1_000);
            let mut queue = Scheduler::new(ageing);
            let mut model = Model::default();
            let mut now = Timestamp::from_millis(0);
            let mut id = 0;
            for step in steps {
                match step {
                    Step::Push { owner, route, priority } => {
                        id += 1;
                        let job = Waiting {
                            id: JobId::new(id).unwrap(),
                            owner: Owner::new(&format!("o{owner}")),
                            route: RouteId(route),
                            priority: Priority::new(priority).unwrap(),
                            since: now,
                        };
                        queue.push(job.clone());
                        queue.push(job.clone());
                        model.push(job);
                    }
                    Step::Remove { nth } if !model.jobs.is_empty() => {
                        let job = model.jobs[nth % model.jobs.len()].clone();
                        prop_assert!(queue.remove(&job));
                        prop_assert!(!queue.remove(&job));
                        model.remove(job.id);
                    }
                    Step::Remove { .. } => {}
                    Step::Pop { full, sated } => {
                        let full = full.into_iter().map(RouteId).collect::<BTreeSet<_>>();
                        let sated: BTreeSet<_> = sated.iter().map(|n| format!("o{n}")).collect();
                        let free = |route| !full.contains(&route);
                        let popped = queue.pop_of(now, free, |o| !sated.contains(o.as_str()));
                        let expected = model.pop(now, ageing, &full, &sated);
                        prop_assert_eq!(popped, expected);
                    }
                    Step::Wait { millis } => now = now.after(Duration::from_millis(millis.into())),
                }
                prop_assert_eq!(queue.len(), model.jobs.len());
                for owner in 0..4 {
                    let owner = Owner::new(&format!("o{owner}"));
                    let waiting = model.jobs.iter().filter(|job| job.owner == owner).count();
                    prop_assert_eq!(queue.len_of(&owner), waiting);
                }
            }
        }

        #[test]
        fn everything_is_served_and_nothing_is_left_behind(
            jobs in proptest::collection::vec((0..5u8, 0..3u16, 0..10u8), 0..200),
        ) {
            let mut queue = Scheduler::new(Duration::from_secs(1));
            for (n, (owner, route, priority)) in jobs.iter().enumerate() {
                queue.push(Waiting {
                    id: JobId::new(n as i64 + 1).unwrap(),
                    owner: Owner::new(&format!("o{owner}")),
                    route: RouteId(*route),
                    priority: Priority::new(*priority).unwrap(),
                    since: Timestamp::from_millis(0),
                });
            }
            let mut served: Vec<_> =
                std::iter::from_fn(|| queue.pop(Timestamp::from_millis(0), |_| true))
                    .map(|job| job.id)
                    .collect();
            served.sort();
            prop_assert_eq!(served.len(), jobs.len());
            served.dedup();
            prop_assert_eq!(served.len(), jobs.len());
            prop_assert!(queue.is_empty());
            prop_assert!(queue.owners.is_empty());
            prop_assert!(queue.levels.iter().all(|l| l.routes.is_empty() && l.next_turn.is_empty()));
        }
    }

    /// A stream of urgent work must not keep a low job waiting for ever: after nine times
    /// `ageing` and a little it is served before an urgent job that has just come.
    #[test]
    fn a_low_job_is_not_starved() {
        let job = |id, priority, since| Waiting {
            id: JobId::new(id).unwrap(),
            owner: Owner::anonymous(),
            route: RouteId(0),
            priority: Priority::new(priority).unwrap(),
            since: Timestamp::from_millis(since),
        };
        let mut queue = Scheduler::new(Duration::from_secs(1));
        queue.push(job(1, 0, 0));
        queue.push(job(2, 9, 9_000));
        assert_eq!(
            queue
                .pop(Timestamp::from_millis(9_000), |_| true)
                .unwrap()
                .id
                .get(),
            2
        );
        queue.push(job(3, 9, 10_000));
        assert_eq!(
            queue
                .pop(Timestamp::from_millis(10_000), |_| true)
                .unwrap()
                .id
                .get(),
            1
        );
    }
}
