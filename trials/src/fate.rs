//! How a process of a server ends.

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::marks::Step;

/// What becomes of a process, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Killed so long after it was started, ready or not.
    Started(Duration),
    /// Killed so long after it was ready.
    Ready(Duration),
    /// Killed as soon as its store is seen in such a step, so long after it was ready.
    InStep(Duration, Step),
    /// Told to drain so long after it was ready, and killed so long after that.
    Draining(Duration, Duration),
    /// Told to drain so long after it was ready.
    Drained(Duration),
}

/// The kinds of fates, as the report names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Killed within milliseconds.
    KilledAtBirth,
    /// Killed around the time at which it gets ready.
    KilledInRecovery,
    /// Killed while it worked.
    KilledAtWork,
    /// Killed in a step that it was watched for.
    KilledInStep,
    /// Killed while it drained.
    KilledInDrain,
    /// It drained to its end.
    Drained,
}

impl Fate {
    /// Chooses one. `getting_ready` is how long that took the last time. Without marks there is no
    /// watching for steps.
    pub fn draw(rng: &mut StdRng, getting_ready: Duration, has_marks: bool) -> Self {
        let at_work = Duration::from_millis(rng.random_range(20..=2_000));
        match rng.random_range(0..20) {
            0 => Fate::Started(Duration::from_micros(rng.random_range(0..2_000))),
            1..5 => {
                let most = getting_ready.mul_f64(1.2).as_micros();
                let most = u64::try_from(most).unwrap_or(1_000_000);
                Fate::Started(Duration::from_micros(
                    rng.random_range(2_000..most.max(5_000)),
                ))
            }
            5..11 if has_marks => {
                let step = rng.random_range(0..Step::REQUIRED.len());
                Fate::InStep(at_work / 2, Step::REQUIRED[step])
            }
            11 => {
                let millis = rng.random_range(0..250);
                Fate::Draining(at_work, Duration::from_millis(millis))
            }
            12 => Fate::Drained(at_work),
            _ => Fate::Ready(at_work),
        }
    }

    /// Its kind.
    pub fn fault(self) -> Fault {
        match self {
            Fate::Started(after) if after < Duration::from_millis(2) => Fault::KilledAtBirth,
            Fate::Started(_) => Fault::KilledInRecovery,
            Fate::Ready(_) => Fault::KilledAtWork,
            Fate::InStep(..) => Fault::KilledInStep,
            Fate::Draining(..) => Fault::KilledInDrain,
            Fate::Drained(_) => Fault::Drained,
        }
    }
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 6] = [
        Fault::KilledAtBirth,
        Fault::KilledInRecovery,
        Fault::KilledAtWork,
        Fault::KilledInStep,
        Fault::KilledInDrain,
        Fault::Drained,
    ];

    /// Whether it is a SIGKILL.
    pub fn is_kill(self) -> bool {
        self != Fault::Drained
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Fault::KilledAtBirth => "killed when just started",
            Fault::KilledInRecovery => "killed while getting ready",
            Fault::KilledAtWork => "killed at work",
            Fault::KilledInStep => "killed in a step of its store",
            Fault::KilledInDrain => "killed while draining",
            Fault::Drained => "drained",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_kind_comes_and_none_that_cannot_be() {
        for has_marks in [true, false] {
            let mut rng = StdRng::seed_from_u64(1);
            let ready = Duration::from_millis(100);
            let draw = |_| Fate::draw(&mut rng, ready, has_marks).fault();
            let faults: BTreeSet<_> = (0..1_000).map(draw).collect();
            let all = Fault::ALL.into_iter();
            let can_be = all.filter(|fault| has_marks || *fault != Fault::KilledInStep);
            assert!(faults.into_iter().eq(can_be), "{has_marks}");
        }
    }
}
