//! Places for connections, and who gives one up when all are taken.
//!
//! Strangers that hold a connection and ask for nothing must not keep others out, so when there is
//! no place left, connections that do nothing end. A hundredth of all is chosen at a time, so that a flood
//! costs little, and a few of these end for each that comes. The order is:
//!
//! 1. connections of an address that holds more than half of all places, before those of others;
//! 2. those that never had a request, before those that ask for nothing, before those whose body comes or
//!    whose answer goes slowly;
//! 3. those that have done so for longest, first.
//!
//! One whose request is being worked on, such as a long poll, is never among them. Nor is one that was told
//! already: it counts as gone as soon as it was told, and counts again where it stays as a request of it came
//! meanwhile.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::activity::{Activity, Leisure};

/// How long a connection may say nothing at all, whatever happens: what a client sends first comes
/// right behind the last packet of the handshake, so that it waits for nobody. Where it is lost on the way
/// it comes later, and finds its place while others were silent for longer.
const SILENT_MIN: Duration = Duration::from_millis(20);

/// How long a connection may ask for nothing, whatever happens: a request may be on its way.
const QUIET_MIN: Duration = Duration::from_millis(250);

/// How long a body may come, or an answer go, whatever happens.
const SLOW_MIN: Duration = Duration::from_secs(5);

/// Which part of all connections is chosen to leave when they are looked through.
const CHOSEN_PART: usize = 100;

/// How many are told to leave at a time: each closes its socket, and all others wait meanwhile.
const TOLD_AT_ONCE: usize = 8;

/// How many more than it may an address has at most, while those that were told to leave are still there: as
/// many as are accepted before others have their turns.
const OVER_MAX: usize = 8;

/// How long to wait for a place before connections are looked through again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long those that were chosen are still those that would be: others come to rest.
const CHOSEN_FOR: Duration = Duration::from_millis(100);

/// All places. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    max: usize,
    per_address_max: usize,
    next: AtomicU64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    guests: HashMap<u64, Guest>,
    by_address: HashMap<IpAddr, OfAddress>,
    /// Guests that may leave when there is no place, the next one last.
    chosen: Vec<u64>,
    /// When they were chosen.
    chosen_at: Option<Instant>,
}

/// The guests of one address.
#[derive(Debug, Default)]
struct OfAddress {
    guests: HashSet<u64>,
    /// How many of them were told to leave, and are still there.
    told: usize,
    /// Until when it is not looked through again: nobody of it could leave a moment ago.
    all_at_work_until: Option<Instant>,
}

/// Who has a place.
#[derive(Debug)]
struct Guest {
    address: IpAddr,
    activity: Activity,
    leave: Arc<Notify>,
    /// Whether it was told to leave, and did not say since that it stays.
    is_told: bool,
}

/// What comes of a guest that was told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Leaves,
    /// A request of it came first.
    Stays,
    /// Likewise, but another has come in its place, so that it leaves once it rests and there are still too many.
    Lingers,
}

/// A place of one connection, free again on drop.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    number: u64,
    activity: Activity,
    leave: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} has {limit} connections, all at work, and may have no more")]
pub(crate) struct NoPlace {
    address: IpAddr,
    limit: usize,
}

impl Places {
    pub(crate) fn new(max: usize, per_address_max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            free: Arc::new(Semaphore::new(max)),
            max,
            per_address_max: per_address_max.max(1),
            next: AtomicU64::new(0),
            taken: Mutex::default(),
        }))
    }

    /// How many there are.
    pub(crate) fn max(&self) -> usize {
        self.0.max
    }

    /// Whether all are taken.
    pub(crate) fn are_taken(&self) -> bool {
        self.0.free.available_permits() == 0
    }

    /// A place for a connection from `address`: waits for one where all are taken by connections
    /// that are at work.
    ///
    /// An address may have [`OVER_MAX`] more than its limit for a moment: where one comes, as many of those that
    /// rest are told to leave as there are too many, and are still there until they had a look at what has come.
    ///
    /// # Errors
    /// This address has all that one may have, and all of them are at work.
    pub(crate) async fn take(&self, address: IpAddr) -> Result<Place, NoPlace> {
        let free = &self.0.free;
        let mut permit = None;
        loop {
            permit = permit.or_else(|| free.clone().try_acquire_owned().ok());
            if let Some(place) = self.try_take(address, &mut permit)? {
                return Ok(place);
            }
            let freed = timeout(LOOK_AGAIN, free.clone().acquire_owned()).await;
            permit = freed.ok().and_then(Result::ok);
        }
    }

    /// A place for which there is this permit; without one, some others are told to leave.
    fn try_take(
        &self,
        address: IpAddr,
        permit: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Option<Place>, NoPlace> {
        let inner = &self.0;
        let mut taken = inner.taken();
        if let Some(limit) = inner.limit()
            && !taken.has_room_of(address, limit)
        {
            return Err(NoPlace { address, limit });
        }
        let Some(permit) = permit.take() else {
            taken.make_room(inner.max);
            return Ok(None);
        };
        let number = inner.next.fetch_add(1, Ordering::Relaxed);
        let (activity, leave) = (Activity::new(), Arc::new(Notify::new()));
        let guest = Guest {
            address,
            activity: activity.clone(),
            leave: leave.clone(),
            is_told: false,
        };
        taken.guests.insert(number, guest);
        let of_address = taken.by_address.entry(address).or_default();
        of_address.guests.insert(number);
        drop(taken);
        Ok(Some(Place {
            places: self.clone(),
            number,
            activity,
            leave,
            _permit: permit,
        }))
    }
}

impl Inner {
    /// How many one address may have, where that is fewer than all.
    fn limit(&self) -> Option<usize> {
        (self.per_address_max < self.max).then_some(self.per_address_max)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn of(&self, address: IpAddr) -> usize {
        let of_address = self.by_address.get(&address);
        of_address.map_or(0, |of_address| of_address.guests.len())
    }

    /// How many guests of this address are to stay.
    fn staying_of(&self, address: IpAddr) -> usize {
        let of_address = self.by_address.get(&address);
        of_address.map_or(0, |of_address| of_address.guests.len() - of_address.told)
    }

    /// Tells some guests that may leave to do so.
    fn make_room(&mut self, places: usize) {
        let now = Instant::now();
        if self.chosen_at.is_none_or(|at| now >= at + CHOSEN_FOR) || self.tell_chosen() == 0 {
            self.chosen = self.choose(places, 1, self.guests.iter(), now);
            self.chosen_at = Some(now);
            self.tell_chosen();
        }
    }

    /// Whether one more of this address may come in. Tells some of its guests to leave where it takes that.
    fn has_room_of(&mut self, address: IpAddr, limit: usize) -> bool {
        let now = Instant::now();
        let staying = self.staying_of(address);
        let Some(of_address) = self.by_address.get(&address) else {
            return true;
        };
        // Of those that were told some may stay after all, so there is a bound to how many come in for them.
        if of_address.guests.len() >= limit.saturating_add(OVER_MAX) {
            return false;
        }
        if staying < limit {
            return true;
        }
        if of_address
            .all_at_work_until
            .is_some_and(|until| now < until)
        {
            return false;
        }
        let needed = staying + 1 - limit;
        let guests = of_address.guests.iter();
        let guests = guests.filter_map(|number| self.guests.get_key_value(number));
        let chosen = self.choose(limit, needed, guests, now);
        let told = chosen.into_iter().filter(|number| self.tell(*number));
        let has_room = told.count() >= needed;
        if !has_room && let Some(of_address) = self.by_address.get_mut(&address) {
            of_address.all_at_work_until = Some(now + LOOK_AGAIN);
        }
        has_room
    }

    fn tell_chosen(&mut self) -> usize {
        let mut told = 0;
        while told < TOLD_AT_ONCE
            && let Some(number) = self.chosen.pop()
        {
            // It may have left, or begun to do something, since it was chosen.
            told += usize::from(self.tell(number));
        }
        told
    }

    /// Tells a guest to leave, if it still may. Whether it was told, for the first time.
    fn tell(&mut self, number: u64) -> bool {
        let Some(guest) = self.guests.get_mut(&number) else {
            return false;
        };
        if guest.is_told || may_leave(guest.activity.leisure(), Instant::now()).is_none() {
            return false;
        }
        guest.leave.notify_one();
        self.set_told(number, true);
        true
    }

    fn set_told(&mut self, number: u64, is_told: bool) {
        if let Some(guest) = self.guests.get_mut(&number)
            && guest.is_told != is_told
            && let Some(of_address) = self.by_address.get_mut(&guest.address)
        {
            guest.is_told = is_told;
            if is_told {
                of_address.told += 1;
            } else {
                of_address.told -= 1;
            }
        }
    }

    /// What a guest does that was told to leave, or lingers since it was.
    fn leave_or_stay(&mut self, number: u64, limit: Option<usize>) -> Told {
        let Some(guest) = self.guests.get(&number) else {
            return Told::Leaves;
        };
        let rests = may_leave(guest.activity.leisure(), Instant::now()).is_some();
        if rests && guest.is_told {
            return Told::Leaves;
        }
        let address = guest.address;
        self.set_told(number, false);
        let are_too_many = limit.is_some_and(|limit| self.staying_of(address) > limit);
        match (are_too_many, rests) {
            (true, true) => {
                self.set_told(number, true);
                Told::Leaves
            }
            (true, false) => Told::Lingers,
            (false, _) => Told::Stays,
        }
    }

    /// A part of those guests that may leave, or so many if that is more, the first to leave last.
    fn choose<'a>(
        &self,
        places: usize,
        needed: usize,
        guests: impl Iterator<Item = (&'a u64, &'a Guest)>,
        now: Instant,
    ) -> Vec<u64> {
        let mut idlers: Vec<_> = guests
            .filter(|(_, guest)| !guest.is_told)
            .filter_map(|(number, guest)| {
                let leisure = guest.activity.leisure();
                let has_most = self.of(guest.address) > places / 2;
                may_leave(leisure, now).map(|rank| ((Reverse(has_most), rank), *number))
            })
            .collect();
        let part = places.div_ceil(CHOSEN_PART).max(needed);
        let count = part.min(idlers.len());
        if count < idlers.len() {
            idlers.select_nth_unstable(count);
            idlers.truncate(count);
        }
        idlers.sort_unstable_by(|one, other| other.cmp(one));
        idlers.into_iter().map(|(_, number)| number).collect()
    }
}

/// Where a connection stands among those that may be told to leave, if it is one.
fn may_leave(leisure: Leisure, now: Instant) -> Option<(u8, Instant)> {
    let (last, since, min) = match leisure {
        Leisure::Silent(since) => (0, since, SILENT_MIN),
        Leisure::Unasked(since) => (0, since, QUIET_MIN),
        Leisure::Quiet(since) => (1, since, QUIET_MIN),
        Leisure::Slow(since) => (2, since, SLOW_MIN),
        Leisure::None => return None,
    };
    (now >= since + min).then_some((last, since))
}

impl Place {
    /// What the connection is doing, to be noted by it.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Ends when the connection is to leave: it was told so, and is still at nothing. To be awaited in the task
    /// that serves the connection, and after that.
    pub(crate) async fn told_to_leave(&self) {
        let inner = &self.places.0;
        let mut told = Told::Stays;
        while told != Told::Leaves {
            let is_told = self.leave.notified();
            if told == Told::Lingers {
                // Nobody tells when it comes to rest.
                let _ = timeout(QUIET_MIN, is_told).await;
            } else {
                is_told.await;
            }
            // What has come is looked at first, also where that takes a turn for which others stand in line. The
            // task is woken for that turn, and comes by here after it.
            poll_fn(|_| match self.activity.is_in_line() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            })
            .await;
            told = inner.taken().leave_or_stay(self.number, inner.limit());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.taken();
        taken.set_told(self.number, false);
        if let Some(guest) = taken.guests.remove(&self.number)
            && let Some(of_address) = taken.by_address.get_mut(&guest.address)
        {
            of_address.guests.remove(&self.number);
            if of_address.guests.is_empty() {
                taken.by_address.remove(&guest.address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
