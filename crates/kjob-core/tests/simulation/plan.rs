//! What a seed makes of the world: routes, limits, and what goes wrong when.

use std::time::Duration;

use kjob_core::engine::{EngineConfig, RouteOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A world before anything happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) config: EngineConfig,
    pub(crate) routes: Vec<RoutePlan>,
    pub(crate) rounds: Vec<Round>,
}

#[derive(Clone, Debug)]
pub(crate) struct RoutePlan {
    pub(crate) endpoint: &'static str,
    pub(crate) concurrency: Option<usize>,
    /// Whether its handlers are polled by the engine's own tasks.
    pub(crate) cooperative: bool,
    pub(crate) timeout: Option<Duration>,
    /// The most attempts of a route that retries.
    pub(crate) attempts_max: Option<u32>,
}

/// The life of one engine.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) length: Duration,
    pub(crate) end: RoundEnd,
    pub(crate) trouble: Trouble,
    /// When the wall clock is set, and how far, in milliseconds.
    pub(crate) jumps: Vec<(Duration, i64)>,
    /// The store is full from then until then.
    pub(crate) full: Option<(Duration, Duration)>,
    /// When the store fails for good.
    pub(crate) fails_at: Option<Duration>,
    /// A route that this engine does not have.
    pub(crate) gone: Option<usize>,
    pub(crate) users: usize,
    pub(crate) calls_per_user: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoundEnd {
    Kill,
    /// With this much time for what runs; a drain may come before.
    ShutDown(Duration),
    /// Everybody finishes what they do, and all jobs end.
    Calm,
}

/// What the store does to every step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// The most that a step waits before it is done, and before it is answered, in microseconds.
    pub(crate) latency_max: u64,
    /// One in so many steps is answered with an error; half of those are done all the same.
    pub(crate) error_one_in: Option<u32>,
}

impl Trouble {
    pub(crate) const NONE: Trouble = Trouble {
        latency_max: 1_000,
        error_one_in: None,
    };
}

impl Round {
    /// Whether the store answers each step as it should, and in time.
    pub(crate) fn is_reliable(&self) -> bool {
        self.trouble.error_one_in.is_none() && self.full.is_none() && self.fails_at.is_none()
    }
}

impl RoutePlan {
    pub(crate) fn options(&self) -> RouteOptions {
        let mut options = RouteOptions::default();
        options.concurrency = self.concurrency;
        options.cooperative = self.cooperative;
        options.timeout = self.timeout;
        match self.attempts_max {
            Some(attempts) => options.retry(attempts),
            None => options,
        }
    }
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let rounds = rng.random_range(1..=4);
        let routes: Vec<RoutePlan> = ["/once", "/again", "/narrow", "/plain"]
            .into_iter()
            .map(|endpoint| route(endpoint, rng))
            .collect();
        Self {
            seed,
            config: config(rng),
            rounds: (1..=rounds).map(|n| round(n == rounds, rng)).collect(),
            routes,
        }
    }

    /// A generator for one of the many who draw at random, so that none disturbs another's draws.
    pub(crate) fn rng(&self, whose: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ whose)
    }

    pub(crate) fn route(&self, endpoint: &str) -> &RoutePlan {
        let found = self.routes.iter().find(|route| route.endpoint == endpoint);
        found.expect("jobs are submitted to routes of the plan")
    }
}

fn route(endpoint: &'static str, rng: &mut StdRng) -> RoutePlan {
    let retries = endpoint == "/again" || rng.random_bool(0.2);
    RoutePlan {
        endpoint,
        concurrency: (endpoint == "/narrow" || rng.random_bool(0.2))
            .then(|| rng.random_range(1..=2)),
        cooperative: rng.random_bool(0.5),
        // Without a limit only some handlers end, by their own will or a cancel.
        timeout: Some(millis(rng, 200, 20_000)),
        attempts_max: retries.then(|| rng.random_range(1..=4)),
    }
}

fn config(rng: &mut StdRng) -> EngineConfig {
    let mut config = EngineConfig::default();
    config.workers = rng.random_range(1..=6);
    if rng.random_bool(0.5) {
        config.reserved_workers = Some(rng.random_range(0..=3));
    }
    if rng.random_bool(0.3) {
        config.max_queued = rng.random_range(1..=8);
    }
    if rng.random_bool(0.3) {
        config.max_queued_per_owner = rng.random_range(1..=4);
    }
    if rng.random_bool(0.1) {
        config.max_stored_jobs = rng.random_range(5..30);
    }
    if rng.random_bool(0.1) {
        config.max_stored_jobs_per_owner = rng.random_range(3..12);
    }
    if rng.random_bool(0.15) {
        config.max_stored_bytes = rng.random_range(60..400);
    }
    if rng.random_bool(0.15) {
        config.max_stored_bytes_per_owner = rng.random_range(30..200);
    }
    config.max_result = 100;
    config.retention = if rng.random_bool(0.5) {
        millis(rng, 1_000, 30_000)
    } else {
        Duration::from_secs(3_600)
    };
    config.remove_grace = millis(rng, 500, 5_000);
    config.stop_grace = millis(rng, 100, 3_000);
    config.ageing = millis(rng, 100, 10_000);
    config.progress_interval = millis(rng, 10, 500);
    config.retry_backoff = millis(rng, 50, 2_000);
    config.retry_backoff_max = Duration::from_secs(4);
    config.expire_interval = millis(rng, 500, 10_000);
    config.id_block = rng.random_range(1..=40);
    if rng.random_bool(0.5) {
        config.whole_jobs = rng.random_range(0..4);
    }
    config
}

fn round(is_last: bool, rng: &mut StdRng) -> Round {
    let length = millis(rng, 300, 20_000);
    let trouble = Trouble {
        latency_max: [50, 2_000, 40_000, 400_000][rng.random_range(0..4)],
        error_one_in: [None, None, Some(60), Some(12)][rng.random_range(0..4)],
    };
    let within = |rng: &mut StdRng| length.mul_f64(rng.random_range(0.0..1.0));
    let full = rng.random_bool(0.2).then(|| {
        let begin = within(rng);
        (begin, begin + millis(rng, 100, 5_000))
    });
    let jumps = if rng.random_bool(0.25) {
        (0..rng.random_range(1..=3))
            .map(|_| (within(rng), rng.random_range(-20_000..20_000)))
            .collect()
    } else {
        Vec::new()
    };
    let end = match rng.random_range(0..10) {
        _ if is_last => RoundEnd::Calm,
        0..6 => RoundEnd::Kill,
        _ => RoundEnd::ShutDown(millis(rng, 0, 5_000)),
    };
    Round {
        length,
        end,
        trouble,
        jumps,
        full,
        fails_at: (!is_last && rng.random_bool(0.15)).then(|| within(rng)),
        gone: (!is_last && rng.random_bool(0.15)).then(|| rng.random_range(0..4)),
        users: rng.random_range(2..=6),
        calls_per_user: rng.random_range(4..=16),
    }
}

/// A time between so many and so many milliseconds.
pub(crate) fn millis(rng: &mut StdRng, min: u64, max: u64) -> Duration {
    Duration::from_millis(rng.random_range(min..=max))
}
