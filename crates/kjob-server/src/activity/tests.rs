use tokio::time::advance;

use super::*;

const PATIENCE: Patience = Patience {
    head: Duration::from_secs(10),
    keep_alive: Duration::from_secs(60),
    write: Duration::from_secs(30),
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Follows the lazy timer until something is due, and says how many seconds that took.
async fn follow(activity: &Activity) -> (Due, u64) {
    let start = Instant::now();
    loop {
        match activity.due(&PATIENCE) {
            Due::Later(at) => tokio::time::sleep_until(at).await,
            due => return (due, start.elapsed().as_secs()),
        }
    }
}

#[tokio::test]
async fn a_request_alone_on_a_connection_with_short_turns_has_its_turns_at_once() {
    let activity = Activity::new();
    let first = activity.begin_request(true);
    assert!(!activity.is_paced());
    let second = activity.begin_request(true);
    assert!(activity.is_paced());
    drop((first, second));
    assert!(!activity.is_paced());
    activity.set_long_turns(true);
    assert!(activity.is_paced());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_asks_is_cut_after_the_time_for_a_head() {
    let activity = Activity::new();
    advance(seconds(9)).await;
    activity.on_read(1);
    assert_eq!(follow(&activity).await, (Due::Stuck, 1));
}

#[tokio::test(start_paused = true)]
async fn between_requests_the_longer_time_counts_until_a_head_begins() {
    let activity = Activity::new();
    drop(activity.begin_request(false));
    assert_eq!(follow(&activity).await, (Due::Idle, 60));

    drop(activity.begin_request(false));
    advance(seconds(55)).await;
    activity.on_read(1);
    assert_eq!(follow(&activity).await, (Due::Stuck, 10));
}

#[tokio::test(start_paused = true)]
async fn a_long_request_is_never_due() {
    let activity = Activity::new();
    let request = activity.begin_request(false);
    for _ in 0..100 {
        let Due::Later(at) = activity.due(&PATIENCE) else {
            panic!("a request is in flight");
        };
        tokio::time::sleep_until(at).await;
    }
    assert!(!activity.is_quiet());
    drop(request);
    assert!(activity.is_quiet());
    assert_eq!(follow(&activity).await, (Due::Idle, 60));
}

#[tokio::test(start_paused = true)]
async fn other_frames_of_http2_are_no_head() {
    let activity = Activity::new();
    drop(activity.begin_request(true));
    advance(seconds(1)).await;
    activity.on_read(1);
    assert_eq!(follow(&activity).await, (Due::Idle, 59));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_bytes_is_cut() {
    let activity = Activity::new();
    let _request = activity.begin_request(false);
    advance(seconds(1)).await;
    activity.on_write(true);
    assert_eq!(follow(&activity).await, (Due::Stuck, 30));
    // Any progress starts the time anew.
    activity.on_write(false);
    activity.on_write(true);
    assert_eq!(follow(&activity).await, (Due::Stuck, 30));
}

/// The bug: with a poll always in progress beside them, answers that nobody took were kept for ever.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_held_back_is_given_up_whatever_else_goes_on() {
    let activity = Activity::new();
    let mut held_back = activity.begin_request(true);
    held_back.begin_working();
    held_back.begin_sending();
    let start = Instant::now();
    let mut poll = activity.begin_request(true);
    poll.begin_working();
    while let Due::Later(_) = activity.due(&PATIENCE) {
        // The next one is there before the last one is answered, and each answer is taken at once.
        let mut next = activity.begin_request(true);
        next.begin_working();
        poll.begin_sending();
        poll.on_sent();
        poll = next;
        activity.on_read(1 << 20);
        activity.on_write(false);
        advance(seconds(1)).await;
    }
    assert_eq!(activity.due(&PATIENCE), Due::Stuck);
    assert_eq!(start.elapsed(), PATIENCE.write);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_taken_slowly_goes_on_beside_a_poll() {
    let activity = Activity::new();
    let mut slow = activity.begin_request(true);
    let mut poll = activity.begin_request(true);
    poll.begin_working();
    slow.begin_sending();
    for _ in 0..100 {
        advance(seconds(29)).await;
        assert!(matches!(activity.due(&PATIENCE), Due::Later(_)));
        slow.on_sent();
    }
    // Handed over whole; the last piece is not taken yet.
    let last = slow.answer().unwrap().clone();
    drop(slow);
    advance(seconds(29)).await;
    last.on_taken();
    advance(seconds(29)).await;
    assert!(matches!(activity.due(&PATIENCE), Due::Later(_)));
    advance(seconds(1)).await;
    assert_eq!(activity.due(&PATIENCE), Due::Stuck);
    drop(last);
    assert!(matches!(activity.due(&PATIENCE), Due::Later(_)));
}

/// As events do, and what another server makes slowly.
#[tokio::test(start_paused = true)]
async fn an_answer_of_which_there_is_no_more_yet_is_not_held_back() {
    let activity = Activity::new();
    let mut events = activity.begin_request(true);
    let mut poll = activity.begin_request(true);
    poll.begin_working();
    events.begin_sending();
    events.on_wanted();
    advance(10 * PATIENCE.write).await;
    assert!(matches!(activity.due(&PATIENCE), Due::Later(_)));
    events.on_sent();
    advance(PATIENCE.write).await;
    assert_eq!(activity.due(&PATIENCE), Due::Stuck);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_held_back_is_given_up() {
    let activity = Activity::new();
    let mut first = activity.begin_request(false);
    let mut second = activity.begin_request(false);
    advance(seconds(100)).await;
    first.begin_sending();
    // While another request is being worked on the connection is of use.
    advance(seconds(100)).await;
    assert!(matches!(activity.due(&PATIENCE), Due::Later(_)));
    second.begin_sending();
    advance(seconds(29)).await;
    first.on_sent();
    assert_eq!(follow(&activity).await, (Due::Stuck, 30));
    drop((first, second));
    assert!(activity.is_quiet());
    assert_eq!(follow(&activity).await, (Due::Idle, 60));
}

#[tokio::test(start_paused = true)]
async fn of_several_answers_the_one_that_is_held_back_for_longest_counts() {
    let activity = Activity::new();
    let mut first = activity.begin_request(true);
    let mut second = activity.begin_request(true);
    first.begin_sending();
    advance(seconds(5)).await;
    second.begin_sending();
    advance(seconds(20)).await;
    first.on_sent();
    assert_eq!(follow(&activity).await, (Due::Stuck, 10));
    drop(second);
    assert_eq!(follow(&activity).await, (Due::Stuck, 20));
    drop(first);
    assert_eq!(follow(&activity).await, (Due::Idle, 60));
}

#[tokio::test(start_paused = true)]
async fn what_is_noted_in_a_turn_counts_from_its_begin_and_the_rest_from_now() {
    let activity = Activity::new();
    advance(seconds(5)).await;
    let began = Instant::now();
    activity.begin_turn(began.into_std());
    advance(seconds(3)).await;
    let request = activity.begin_request(false);
    assert_eq!(activity.leisure(), Leisure::Slow(began));
    activity.end_turn(Duration::ZERO);
    drop(request);
    assert_eq!(activity.leisure(), Leisure::Quiet(began + seconds(3)));
}
