use std::pin::Pin;
use std::task::{Context, Waker};

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::activity::InFlight;

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

/// A connection as its task serves it: what has come is looked at before whether it was told to leave.
struct Served {
    activity: Activity,
    request: Option<InFlight>,
    was_told: bool,
    number: u64,
    told: Pin<Box<dyn Future<Output = ()>>>,
}

impl Served {
    fn new(place: Place) -> Self {
        Self {
            activity: place.activity().clone(),
            request: None,
            was_told: false,
            number: place.number,
            told: Box::pin(async move { place.told_to_leave().await }),
        }
    }

    fn begin_request(&mut self) {
        let mut request = self.activity.begin_request(true);
        request.begin_working();
        self.request = Some(request);
    }

    /// Whether it has left when its task was polled.
    fn has_left(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.told.as_mut().poll(&mut context).is_ready()
    }
}

/// So many that rest, of one address that may have no more, and that may come all at once.
async fn resting(places: &Places, count: usize) -> Vec<Served> {
    let mut served = Vec::new();
    for _ in 0..count {
        served.push(Served::new(places.take(HOME).await.unwrap()));
    }
    for one in &mut served {
        assert!(!one.has_left());
        drop(one.activity.begin_request(false));
    }
    advance(QUIET_MIN).await;
    served
}

/// The bug: the first of those that rest was told to leave for each of them, and left for one.
#[tokio::test(start_paused = true)]
async fn of_an_address_as_many_leave_as_come_at_once() {
    let places = Places::new(100, 10);
    let mut served = resting(&places, 10).await;
    for _ in 0..8 {
        served.push(Served::new(places.take(HOME).await.unwrap()));
    }
    assert!(places.take(HOME).await.is_err(), "no more than eight over");
    served.retain_mut(|one| !one.has_left());
    assert_eq!(served.len(), 10);
    for _ in 0..2 {
        served.push(Served::new(places.take(HOME).await.unwrap()));
    }
    advance(SILENT_MIN).await;
    served.push(Served::new(places.take(HOME).await.unwrap()));
    served.retain_mut(|one| !one.has_left());
    assert_eq!(served.len(), 10);
}

/// The bug: it was taken for one that leaves, and the address had one more from then on.
#[tokio::test(start_paused = true)]
async fn one_that_stays_as_its_request_came_counts_again_and_leaves_when_it_rests() {
    let places = Places::new(100, 1);
    let mut served = resting(&places, 1).await;
    let mut second = Served::new(places.take(HOME).await.unwrap());
    second.begin_request();
    served[0].begin_request();
    assert!(!served[0].has_left());
    assert!(places.take(HOME).await.is_err(), "two are at work");
    served[0].request = None;
    assert!(!served[0].has_left(), "another request may be on its way");
    advance(QUIET_MIN).await;
    assert!(served[0].has_left());
    served.clear();
    assert!(places.take(HOME).await.is_err());
    drop(second);
    assert!(places.take(HOME).await.is_ok());
}

/// Once there are no more than may be, one that was told and stays is as any other.
#[tokio::test(start_paused = true)]
async fn one_that_stays_need_not_leave_where_another_has_left() {
    let places = Places::new(100, 1);
    let mut served = resting(&places, 1).await;
    let second = Served::new(places.take(HOME).await.unwrap());
    served[0].begin_request();
    assert!(!served[0].has_left());
    drop(second);
    served[0].request = None;
    advance(60 * QUIET_MIN).await;
    assert!(!served[0].has_left());
}

/// The bug: a connection whose request had come ended while it stood in line for the turn to look at it.
#[tokio::test(start_paused = true)]
async fn one_that_stands_in_line_has_its_turn_first() {
    let places = Places::new(2, 2);
    let mut served = resting(&places, 2).await;
    served.iter().for_each(|one| one.activity.set_in_line(true));
    advance(60 * QUIET_MIN).await;
    for _ in 0..3 {
        ask(&places, address(1)).await;
        assert!(served.iter_mut().all(|one| !one.has_left()));
    }
    served[0].activity.set_in_line(false);
    served[0].begin_request();
    assert!(!served[0].has_left());
    served[1].activity.set_in_line(false);
    assert!(served[1].has_left(), "nothing had come");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Comes,
    IsServed(usize),
    Asks(usize),
    IsAnswered(usize),
    StandsInLine(usize),
    Goes(usize),
    TimePasses(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Comes),
        4 => any::<usize>().prop_map(Step::IsServed),
        3 => any::<usize>().prop_map(Step::Asks),
        3 => any::<usize>().prop_map(Step::IsAnswered),
        1 => any::<usize>().prop_map(Step::StandsInLine),
        1 => any::<usize>().prop_map(Step::Goes),
        3 => (1..400_u64).prop_map(Step::TimePasses),
    ]
}

async fn take_steps(limit: usize, steps: Vec<Step>) {
    let places = Places::new(1000, limit);
    let mut served: Vec<Served> = Vec::new();
    for step in steps {
        let count = served.len();
        match step {
            Step::Comes => {
                if let Ok(place) = places.take(HOME).await {
                    served.push(Served::new(place));
                }
            }
            Step::TimePasses(millis) => advance(Duration::from_millis(millis)).await,
            _ if count == 0 => {}
            Step::IsServed(number) => {
                served[number % count].activity.set_in_line(false);
                if served[number % count].has_left() {
                    served.swap_remove(number % count);
                }
            }
            Step::Asks(number) => served[number % count].begin_request(),
            Step::IsAnswered(number) => served[number % count].request = None,
            Step::StandsInLine(number) => served[number % count].activity.set_in_line(true),
            Step::Goes(number) => drop(served.swap_remove(number % count)),
        }
        let taken = places.0.taken();
        let told = taken.guests.values().filter(|guest| guest.is_told).count();
        let of_address = taken.by_address.get(&HOME);
        assert_eq!(told, of_address.map_or(0, |of_address| of_address.told));
        assert_eq!(taken.guests.len(), served.len());
        for one in &mut served {
            one.was_told |= taken.guests[&one.number].is_told;
        }
        let ever_told = served.iter().filter(|one| one.was_told).count();
        assert!(served.len() <= limit + ever_told.min(OVER_MAX));
    }
    // All come to rest.
    for _ in 0..2 {
        for one in &mut served {
            one.request = None;
            one.activity.set_in_line(false);
        }
        served.retain_mut(|one| !one.has_left());
        advance(QUIET_MIN).await;
    }
    served.retain_mut(|one| !one.has_left());
    assert!(served.len() <= limit, "{} of {limit}", served.len());
}

proptest! {
    #[test]
    fn an_address_has_no_more_than_its_limit_but_for_those_that_were_told(
        limit in 1..12_usize,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(take_steps(limit, steps));
    }
}
