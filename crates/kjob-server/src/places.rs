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
//! One whose request is being worked on, such as a long poll, is never among them.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Until when it is not looked through again: nobody of it could leave a moment ago.
    all_at_work_until: Option<Instant>,
}

/// Who has a place.
#[derive(Debug)]
struct Guest {
    address: IpAddr,
    activity: Activity,
    leave: Arc<Notify>,
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
    /// # Errors
    /// This address has all that one may have, and all of them are at work.
    pub(crate) async fn take(&self, address: IpAddr) -> Result<Place, NoPlace> {
        let inner = &self.0;
        let limit = inner.per_address_max;
        if limit < inner.max {
            let mut taken = inner.taken();
            if taken.of(address) >= limit && !taken.make_room_of(address, limit) {
                return Err(NoPlace { address, limit });
            }
        }
        loop {
            let free = inner.free.clone();
            if let Ok(permit) = free.clone().try_acquire_owned() {
                return Ok(self.place(address, permit));
            }
            inner.taken().make_room(inner.max);
            if let Ok(Ok(permit)) = timeout(LOOK_AGAIN, free.acquire_owned()).await {
                return Ok(self.place(address, permit));
            }
        }
    }

    fn place(&self, address: IpAddr, permit: OwnedSemaphorePermit) -> Place {
        let inner = &self.0;
        let number = inner.next.fetch_add(1, Ordering::Relaxed);
        let (activity, leave) = (Activity::new(), Arc::new(Notify::new()));
        let guest = Guest {
            address,
            activity: activity.clone(),
            leave: leave.clone(),
        };
        let mut taken = inner.taken();
        taken.guests.insert(number, guest);
        let of_address = taken.by_address.entry(address).or_default();
        of_address.guests.insert(number);
        drop(taken);
        Place {
            places: self.clone(),
            number,
            activity,
            leave,
            _permit: permit,
        }
    }
}

impl Inner {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn of(&self, address: IpAddr) -> usize {
        let of_address = self.by_address.get(&address);
        of_address.map_or(0, |of_address| of_address.guests.len())
    }

    /// Tells some guests that may leave to do so.
    fn make_room(&mut self, places: usize) {
        let now = Instant::now();
        if self.chosen_at.is_none_or(|at| now >= at + CHOSEN_FOR) || self.tell_chosen() == 0 {
            self.chosen = self.choose(places, self.guests.iter(), now);
            self.chosen_at = Some(now);
            self.tell_chosen();
        }
    }

    /// Likewise, but those of one address, and says whether there were any.
    fn make_room_of(&mut self, address: IpAddr, places: usize) -> bool {
        let now = Instant::now();
        let Some(of_address) = self.by_address.get(&address) else {
            return false;
        };
        if of_address
            .all_at_work_until
            .is_some_and(|until| now < until)
        {
            return false;
        }
        let guests = of_address.guests.iter();
        let guests = guests.filter_map(|number| self.guests.get_key_value(number));
        let chosen = self.choose(places, guests, now);
        let told = chosen.iter().filter(|number| self.tell(**number)).count();
        if told == 0
            && let Some(of_address) = self.by_address.get_mut(&address)
        {
            of_address.all_at_work_until = Some(now + LOOK_AGAIN);
        }
        told > 0
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

    /// Tells a guest to leave, if it still may. Whether it was told.
    fn tell(&self, number: u64) -> bool {
        let Some(guest) = self.guests.get(&number) else {
            return false;
        };
        let leaves = may_leave(guest.activity.leisure(), Instant::now()).is_some();
        if leaves {
            guest.leave.notify_one();
        }
        leaves
    }

    /// A part of those guests that may leave, the first to leave last.
    fn choose<'a>(
        &self,
        places: usize,
        guests: impl Iterator<Item = (&'a u64, &'a Guest)>,
        now: Instant,
    ) -> Vec<u64> {
        let mut idlers: Vec<_> = guests
            .filter_map(|(number, guest)| {
                let leisure = guest.activity.leisure();
                let has_most = self.of(guest.address) > places / 2;
                may_leave(leisure, now).map(|rank| ((Reverse(has_most), rank), *number))
            })
            .collect();
        let count = places.div_ceil(CHOSEN_PART).min(idlers.len());
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

    /// Ends when the connection is to leave: it was told so, and is still at nothing.
    pub(crate) async fn told_to_leave(&self) {
        loop {
            self.leave.notified().await;
            if may_leave(self.activity.leisure(), Instant::now()).is_some() {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.taken();
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
mod tests {
    use tokio::time::advance;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 1, number])
    }

    async fn is_told(place: &Place) -> bool {
        timeout(Duration::ZERO, place.told_to_leave()).await.is_ok()
    }

    /// Asks for a place that is not there, and gives up at once: whoever is told to leave is told.
    async fn ask(places: &Places, from: IpAddr) {
        let asked = timeout(Duration::from_millis(1), places.take(from)).await;
        assert!(asked.is_err(), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_rested_longest_leaves_first() {
        let places = Places::new(3, 3);
        let mut held = Vec::new();
        for number in 0..3 {
            held.push(places.take(address(number)).await.unwrap());
            advance(Duration::from_secs(1)).await;
        }
        assert!(places.are_taken());
        // The first has asked for something just now.
        drop(held[0].activity().begin_request(false));
        ask(&places, HOME).await;
        assert!(!is_told(&held[0]).await);
        assert!(is_told(&held[1]).await);
        assert!(!is_told(&held[2]).await);
        held.remove(1);
        assert!(places.take(HOME).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_has_most_places_gives_up_its_own() {
        let places = Places::new(3, 3);
        let honest = places.take(HOME).await.unwrap();
        advance(Duration::from_secs(60)).await;
        let greedy = [
            places.take(address(1)).await.unwrap(),
            places.take(address(1)).await.unwrap(),
        ];
        advance(QUIET_MIN).await;
        ask(&places, address(2)).await;
        assert!(!is_told(&honest).await);
        assert!(is_told(&greedy[0]).await ^ is_told(&greedy[1]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn those_at_work_stay_and_slow_ones_leave_last() {
        let places = Places::new(3, 3);
        let mut held = Vec::new();
        for number in 0..3 {
            held.push(places.take(address(number)).await.unwrap());
        }
        let mut at_work = held[0].activity().begin_request(false);
        at_work.begin_working();
        let _slow = held[1].activity().begin_request(false);
        advance(SLOW_MIN).await;
        ask(&places, HOME).await;
        assert!(is_told(&held[2]).await, "it asks for nothing");
        let mut third = held[2].activity().begin_request(false);
        third.begin_working();
        ask(&places, HOME).await;
        assert!(is_told(&held[1]).await, "its body comes slowly");
        assert!(!is_told(&held[0]).await && !is_told(&held[2]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_began_to_work_meanwhile_stays() {
        let places = Places::new(1, 1);
        let place = places.take(HOME).await.unwrap();
        advance(QUIET_MIN).await;
        ask(&places, HOME).await;
        let mut at_work = place.activity().begin_request(false);
        at_work.begin_working();
        assert!(!is_told(&place).await);
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_connections_have_a_moment_to_ask() {
        for (min, has_spoken) in [(SILENT_MIN, false), (QUIET_MIN, true)] {
            let places = Places::new(1, 1);
            let place = places.take(HOME).await.unwrap();
            if has_spoken {
                place.activity().on_spoken();
            }
            advance(min - Duration::from_millis(5)).await;
            ask(&places, HOME).await;
            assert!(!is_told(&place).await);
            advance(Duration::from_millis(5)).await;
            ask(&places, HOME).await;
            assert!(is_told(&place).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_never_asked_leave_before_those_that_rest() {
        let places = Places::new(2, 2);
        let resting = places.take(address(1)).await.unwrap();
        drop(resting.activity().begin_request(false));
        advance(Duration::from_secs(60)).await;
        let speaks = places.take(address(2)).await.unwrap();
        speaks.activity().on_read(1);
        advance(QUIET_MIN).await;
        ask(&places, HOME).await;
        assert!(is_told(&speaks).await && !is_told(&resting).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_request_is_on_its_way_has_a_moment() {
        let places = Places::new(1, 1);
        let place = places.take(HOME).await.unwrap();
        drop(place.activity().begin_request(false));
        advance(Duration::from_secs(60)).await;
        place.activity().on_read(10);
        ask(&places, HOME).await;
        assert!(!is_told(&place).await);
        advance(QUIET_MIN).await;
        ask(&places, HOME).await;
        assert!(is_told(&place).await, "it came no further");
    }

    /// An upload at full speed takes longer than a slow one may.
    #[tokio::test(start_paused = true)]
    async fn one_that_moves_much_or_asks_again_is_not_slow() {
        let places = Places::new(3, 3);
        let mut held = Vec::new();
        for number in 0..3 {
            held.push(places.take(address(number)).await.unwrap());
        }
        let requests: Vec<_> = held
            .iter()
            .map(|place| place.activity().begin_request(true))
            .collect();
        advance(SLOW_MIN).await;
        held[0].activity().on_read(1 << 20);
        drop(held[1].activity().begin_request(true));
        held[2].activity().on_read(1000);
        ask(&places, HOME).await;
        assert!(!is_told(&held[0]).await && !is_told(&held[1]).await);
        assert!(is_told(&held[2]).await);
        drop(requests);
    }

    async fn told_among(held: &mut Vec<Place>) -> usize {
        let mut stay = Vec::new();
        for place in std::mem::take(held) {
            if !is_told(&place).await {
                stay.push(place);
            }
        }
        let told = 1000 - stay.len();
        *held = stay;
        told
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_were_chosen_long_ago_are_not_told() {
        let places = Places::new(1000, 1000);
        let mut resting = Vec::new();
        for _ in 0..1000 {
            let place = places.take(HOME).await.unwrap();
            drop(place.activity().begin_request(false));
            resting.push(place);
        }
        advance(QUIET_MIN).await;
        // Ten are chosen, of whom eight are told.
        ask(&places, HOME).await;
        assert_eq!(told_among(&mut resting).await, TOLD_AT_ONCE);
        let mut silent = Vec::new();
        for _ in 0..TOLD_AT_ONCE {
            silent.push(places.take(HOME).await.unwrap());
        }
        advance(CHOSEN_FOR).await;
        ask(&places, HOME).await;
        assert_eq!(told_among(&mut resting).await, TOLD_AT_ONCE, "no more");
        for place in &silent {
            assert!(is_told(place).await);
        }
    }

    /// Who has all that an address may, all of them at work, is refused without a look at each of them.
    #[tokio::test(start_paused = true)]
    async fn an_address_is_looked_through_now_and_then() {
        let places = Places::new(10, 1);
        let place = places.take(HOME).await.unwrap();
        let mut at_work = place.activity().begin_request(false);
        at_work.begin_working();
        assert!(places.take(HOME).await.is_err());
        drop(at_work);
        advance(LOOK_AGAIN / 2).await;
        assert!(places.take(HOME).await.is_err());
        advance(QUIET_MIN).await;
        assert!(places.take(HOME).await.is_ok(), "the other gives way");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_ones_leave_before_those_that_rest_for_longer() {
        let places = Places::new(2, 2);
        let resting = places.take(address(1)).await.unwrap();
        drop(resting.activity().begin_request(false));
        advance(Duration::from_secs(60)).await;
        let silent = places.take(address(2)).await.unwrap();
        advance(SILENT_MIN).await;
        ask(&places, HOME).await;
        assert!(is_told(&silent).await && !is_told(&resting).await);
    }

    /// Each closes a socket: those that come would wait for all of them otherwise.
    #[tokio::test(start_paused = true)]
    async fn a_few_leave_at_a_time() {
        let places = Places::new(1000, 1000);
        let mut held = Vec::new();
        for _ in 0..1000 {
            held.push(places.take(HOME).await.unwrap());
        }
        advance(SILENT_MIN).await;
        ask(&places, HOME).await;
        let mut told = 0;
        for place in &held {
            told += usize::from(is_told(place).await);
        }
        assert_eq!(told, TOLD_AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_so_many_places_and_no_more() {
        let places = Places::new(10, 2);
        let first = places.take(HOME).await.unwrap();
        let mut at_work = first.activity().begin_request(false);
        at_work.begin_working();
        let second = places.take(HOME).await.unwrap();
        let mut also_at_work = second.activity().begin_request(false);
        also_at_work.begin_working();
        let refused = places.take(HOME).await.map(drop);
        let (address_, limit) = (HOME, 2);
        assert_eq!(
            refused,
            Err(NoPlace {
                address: address_,
                limit
            })
        );
        assert!(places.take(address(1)).await.is_ok(), "others come in");
        drop((at_work, first));
        assert!(places.take(HOME).await.is_ok(), "there is one again");
    }
}
