//! Two nodes, one job, and a store between them: the lease protocol of `Engine::open_shared`, with all that
//! may go wrong at any moment.
//!
//! Nodes crash, and come back; stand still for as long as they like, also between looking whether they
//! have their lease and beginning a handler; lose the answer to a claim; and send what they have to say
//! of a run at any later time. The store's clock ends the lease of a node whenever it likes, unless the node
//! has just renewed it: time is not in the model, so it holds for clocks of any speed. What the store
//! does to the job is [`kjob_core::apply`] itself.
//!
//! What is checked is in [`Nodes::properties`](stateright::Model::properties).

use kjob_core::{End, Event, Lease, OnInterrupt, Phase, State, Timestamp, Transition, apply};
use stateright::{Model, Property};

/// How many nodes there are.
const NODES: usize = 2;

/// The protocol, for a job of a route with this rule.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// The most attempts of a job that is tried again when its run was cut off; `None` for at most once.
    pub retry: Option<u32>,
    /// How often the job is started or taken over, at most; beyond that nothing is looked at.
    pub leases_max: u32,
    /// How often each node joins, at most.
    pub joins_max: u8,
    /// What is left out, to see that it is needed.
    pub without: Option<Rule>,
}

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The store refuses what is said of a run under an old lease number.
    Fence,
    /// A job is taken over only from a node whose lease has ended.
    WaitForTheLease,
    /// What a node was given without its hearing of it is given back only if it does not run it.
    LookWhatRuns,
}

/// All that there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The job as the store has it.
    pub job: Job,
    /// Where it runs by the store's book: a node and its how manieth joining.
    pub holder: Option<(usize, u8)>,
    /// The nodes.
    pub nodes: [Node; NODES],
    /// How often a handler was begun.
    pub begun: u8,
    /// The first end that anybody was told of.
    pub told: Option<Phase>,
    /// The lease under which the end came that the store has.
    pub ended_under: Option<u32>,
    /// The newest lease when that end came.
    pub newest: u32,
    /// Whether something was refused as of an old lease.
    pub was_refused: bool,
}

/// What the state machine knows of a job, but for times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// Its phase.
    pub phase: Phase,
    /// Starts that count.
    pub attempt: u32,
    /// The newest start or take-over.
    pub lease: u32,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// How often it has joined.
    pub joins: u8,
    /// Whether its lease lasts by the store's clock.
    pub is_alive: bool,
    /// Whether it is a process at all.
    pub is_up: bool,
    /// Whether it stands still.
    pub is_paused: bool,
    /// Whether it may begin handlers by what it knows.
    pub trusts: bool,
    /// A start that it was answered with and has not begun, and whether it has looked for its lease since.
    pub given: Option<(u32, bool)>,
    /// The start whose handler runs.
    pub runs: Option<u32>,
    /// What it has to say of a run, and is on its way.
    pub says: Option<(u32, Said)>,
}

/// How a run is over, as a node says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// With a result.
    Complete,
    /// Stopped as the job was cancelled.
    Stop,
    /// Cut off, or taken over from who was: the route's rule.
    Interrupt,
    /// Not begun.
    NotBegun,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A node claims the job; `heard` is whether the answer comes.
    Claim {
        /// Who.
        node: usize,
        /// Whether it hears of it.
        heard: bool,
    },
    /// It looks whether it has its lease, before it begins.
    Look(usize),
    /// It begins the handler, having looked.
    Begin(usize),
    /// Its handler gives a result.
    Return(usize),
    /// Its handler is stopped: by a cancel that it heard of, or as the lease is lost.
    Stopped(usize),
    /// What it has to say reaches the store, and is answered.
    Deliver(usize),
    /// The same, but the answer is lost: it says so again.
    DeliverUnheard(usize),
    /// The store's clock ends its lease.
    LeaseEnds(usize),
    /// It finds that it cannot prove its lease any more.
    Lose(usize),
    /// It joins anew.
    Join(usize),
    /// It takes over the job of a node that is gone.
    TakeOver(usize),
    /// It finds a job that it was given without hearing of it.
    Reconcile(usize),
    /// It stands still.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// It is gone with all that it knows.
    Crash(usize),
    /// It is started again.
    Restart(usize),
    /// Somebody cancels the job.
    Cancel,
}

impl Job {
    fn state(self) -> State {
        State {
            phase: self.phase,
            attempt: self.attempt,
            lease: Lease(self.lease),
            ..State::queued(None)
        }
    }

    /// The job after an event; `None` if it is refused.
    fn after(self, event: Event) -> Option<Self> {
        match apply(&self.state(), event, Timestamp::default()) {
            Ok(Transition::To(state)) => Some(Self {
                phase: state.phase,
                attempt: state.attempt,
                lease: state.lease.0,
            }),
            Ok(Transition::Unchanged) => Some(self),
            Err(_) => None,
        }
    }

    fn runs(self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Cancelling)
    }
}

impl Node {
    fn new() -> Self {
        Self {
            joins: 1,
            is_alive: true,
            is_up: true,
            is_paused: false,
            trusts: true,
            given: None,
            runs: None,
            says: None,
        }
    }

    fn acts(&self) -> bool {
        self.is_up && !self.is_paused
    }

    fn is_idle(&self) -> bool {
        self.given.is_none() && self.runs.is_none() && self.says.is_none()
    }
}

impl Nodes {
    fn is_without(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    fn end(&self, said: Said) -> End {
        let retry = |max_attempts, charged| {
            End::Interrupt(OnInterrupt::Retry {
                max_attempts,
                not_before: Timestamp::default(),
                charged,
            })
        };
        match (said, self.retry) {
            (Said::Complete, _) => End::Complete,
            (Said::Stop, _) => End::Stop,
            (Said::Interrupt, None) => End::Interrupt(OnInterrupt::Fail),
            (Said::Interrupt, Some(max_attempts)) => retry(max_attempts, true),
            (Said::NotBegun, _) => retry(u32::MAX, false),
        }
    }

    /// The store applies what a node says of a run.
    fn hear(&self, world: &mut World, lease: u32, said: Said) {
        let newest = world.job.lease;
        let taken = if self.is_without(Rule::Fence) && world.job.runs() {
            newest
        } else {
            lease
        };
        let event = Event::End {
            lease: Lease(taken),
            end: self.end(said),
        };
        match world.job.after(event) {
            Some(job) => {
                world.job = job;
                world.holder = None;
                if job.phase.is_terminal() {
                    world.ended_under = Some(lease);
                    world.newest = newest;
                    world.told.get_or_insert(job.phase);
                }
            }
            None => world.was_refused |= lease < newest,
        }
    }
}

impl Model for Nodes {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            job: Job {
                phase: Phase::Queued,
                attempt: 0,
                lease: 0,
            },
            holder: None,
            nodes: [Node::new(), Node::new()],
            begun: 0,
            told: None,
            ended_under: None,
            newest: 0,
            was_refused: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (index, node) in world.nodes.iter().enumerate() {
            let me = Some((index, node.joins));
            if node.is_alive && (!node.trusts || !node.acts()) {
                // One that acts and trusts its lease renews it in time.
                actions.push(Action::LeaseEnds(index));
            }
            if !node.is_up {
                actions.push(Action::Restart(index));
                continue;
            }
            actions.push(match node.is_paused {
                true => Action::Resume(index),
                false => Action::Pause(index),
            });
            actions.push(Action::Crash(index));
            if node.is_paused {
                continue;
            }
            // The store asks whether the node that asks is alive.
            let is_a_node = node.is_alive && node.trusts;
            if is_a_node && node.is_idle() && world.job.phase == Phase::Queued {
                actions.push(Action::Claim {
                    node: index,
                    heard: true,
                });
                actions.push(Action::Claim {
                    node: index,
                    heard: false,
                });
            }
            match node.given {
                Some((_, false)) => actions.push(Action::Look(index)),
                Some((_, true)) => actions.push(Action::Begin(index)),
                None => {}
            }
            if node.runs.is_some() {
                actions.push(Action::Return(index));
                if !node.trusts || world.job.phase == Phase::Cancelling {
                    actions.push(Action::Stopped(index));
                }
            }
            if node.says.is_some() {
                actions.push(Action::Deliver(index));
                actions.push(Action::DeliverUnheard(index));
            }
            if node.trusts {
                // Also without a reason: the way to the store may be cut.
                actions.push(Action::Lose(index));
            } else if node.is_idle() {
                actions.push(Action::Join(index));
            }
            if is_a_node && node.is_idle() && world.job.runs() {
                let others = world.holder.filter(|holder| Some(*holder) != me);
                let is_gone = others.is_some_and(|(other, joins)| {
                    let other = &world.nodes[other];
                    !other.is_alive || other.joins != joins
                });
                if is_gone || (others.is_some() && self.is_without(Rule::WaitForTheLease)) {
                    actions.push(Action::TakeOver(index));
                }
            }
            let runs_it = !node.is_idle();
            if node.trusts
                && world.job.runs()
                && world.holder == me
                && (!runs_it || self.is_without(Rule::LookWhatRuns))
                && node.says.is_none()
            {
                actions.push(Action::Reconcile(index));
            }
        }
        if !world.job.phase.is_terminal() {
            actions.push(Action::Cancel);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Claim { node, heard } => {
                world.job = world.job.after(Event::Start)?;
                world.holder = Some((node, world.nodes[node].joins));
                if heard {
                    world.nodes[node].given = Some((world.job.lease, false));
                }
            }
            Action::Look(index) => {
                let node = &mut world.nodes[index];
                let (lease, _) = node.given?;
                if node.trusts {
                    node.given = Some((lease, true));
                } else {
                    node.given = None;
                    node.says = Some((lease, Said::NotBegun));
                }
            }
            Action::Begin(index) => {
                let (lease, _) = world.nodes[index].given.take()?;
                world.nodes[index].runs = Some(lease);
                world.begun += 1;
            }
            Action::Return(index) => {
                let lease = world.nodes[index].runs.take()?;
                world.nodes[index].says = Some((lease, Said::Complete));
            }
            Action::Stopped(index) => {
                let lease = world.nodes[index].runs.take()?;
                // It heard of a cancel only while it had its lease.
                let said = match (world.nodes[index].trusts, world.job.phase) {
                    (true, Phase::Cancelling) => Said::Stop,
                    _ => Said::Interrupt,
                };
                world.nodes[index].says = Some((lease, said));
            }
            Action::Deliver(index) => {
                let (lease, said) = world.nodes[index].says.take()?;
                self.hear(&mut world, lease, said);
            }
            Action::DeliverUnheard(index) => {
                let (lease, said) = world.nodes[index].says?;
                self.hear(&mut world, lease, said);
            }
            Action::LeaseEnds(index) => world.nodes[index].is_alive = false,
            Action::Lose(index) => world.nodes[index].trusts = false,
            Action::Join(index) => {
                let node = &mut world.nodes[index];
                node.joins += 1;
                node.is_alive = true;
                node.trusts = true;
            }
            Action::TakeOver(index) => {
                world.job = world.job.after(Event::TakeOver)?;
                world.holder = Some((index, world.nodes[index].joins));
                world.nodes[index].says = Some((world.job.lease, Said::Interrupt));
            }
            Action::Reconcile(index) => {
                world.nodes[index].says = Some((world.job.lease, Said::NotBegun));
            }
            Action::Pause(index) => world.nodes[index].is_paused = true,
            Action::Resume(index) => {
                let node = &mut world.nodes[index];
                node.is_paused = false;
            }
            Action::Crash(index) => {
                let node = &mut world.nodes[index];
                *node = Node {
                    joins: node.joins,
                    is_alive: node.is_alive,
                    is_up: false,
                    trusts: false,
                    ..Node::new()
                };
            }
            Action::Restart(index) => {
                let node = &mut world.nodes[index];
                node.is_up = true;
                node.joins += 1;
                node.is_alive = true;
                node.trusts = true;
            }
            Action::Cancel => {
                world.job = world.job.after(Event::RequestCancel)?;
                if world.job.phase.is_terminal() {
                    world.ended_under = Some(world.job.lease);
                    world.newest = world.job.lease;
                    world.told.get_or_insert(world.job.phase);
                }
            }
        }
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        let joins = world.nodes.iter().map(|node| node.joins).max();
        world.job.lease <= self.leases_max && joins <= Some(self.joins_max) && world.begun <= 4
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an end never changes", |_, world: &World| {
                world.told.is_none_or(|told| told == world.job.phase)
            }),
            Property::always(
                "an end is said under the newest lease",
                |_, world: &World| world.ended_under.is_none_or(|lease| lease == world.newest),
            ),
            Property::always(
                "a handler begins at most once",
                |model: &Nodes, world: &World| model.retry.is_some() || world.begun <= 1,
            ),
            Property::always("attempts are counted", |model: &Nodes, world: &World| {
                model.retry.is_none_or(|most| world.job.attempt <= most)
            }),
            Property::always("of nodes with a lease one runs it", |_, world: &World| {
                let running = world.nodes.iter();
                let running = running.filter(|node| node.is_alive && node.runs.is_some());
                running.count() <= 1
            }),
            Property::always("what is done was begun", |_, world: &World| {
                world.job.phase != Phase::Done || world.begun > 0
            }),
            Property::always("what is held has a holder", |_, world: &World| {
                !world.job.runs() || world.holder.is_some()
            }),
            Property::sometimes("a late word is refused", |_, world: &World| {
                world.was_refused
            }),
            Property::sometimes(
                "a job is done after a take-over",
                |model: &Nodes, world: &World| {
                    let phase = if model.retry.is_some() {
                        Phase::Done
                    } else {
                        Phase::Failed
                    };
                    world.job.phase == phase && world.job.lease > 1
                },
            ),
            Property::sometimes("a job is cancelled while it runs", |_, world: &World| {
                world.job.phase == Phase::Cancelled && world.begun > 0
            }),
        ]
    }
}
