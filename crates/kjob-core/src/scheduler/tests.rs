//! The scheduler, against a model that looks at everything.

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
