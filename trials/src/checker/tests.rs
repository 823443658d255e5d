//! Each fault is found in a history that is made to have it, and none in one that has none.

use super::*;
use crate::call::{Call, Rule, Want};
use crate::history::{
    Accepted, Answer, CancelWord, Key, Micros, ResultOf, ResultSeen, Row, Sight, Status,
};
use crate::journal::{Entry, Journal, Moment};
use crate::receiver::{End, Telling};

mod several;

const SECOND: Micros = 1_000_000;

/// A history in the making; each question takes a moment, and comes after the one before.
struct Story {
    clock: Micros,
    trial: Trial,
}

impl Story {
    fn new() -> Self {
        let first = Journal {
            began: 0,
            drained: false,
            entries: Vec::new(),
        };
        Self {
            clock: SECOND,
            trial: Trial {
                events: Vec::new(),
                journals: Some(vec![first]),
                tellings: Vec::new(),
                several: None,
            },
        }
    }

    fn tell(&mut self, what: What) -> &mut Self {
        self.clock += 10;
        let asked = self.clock;
        self.clock += 10;
        let event = Event {
            client: 1,
            asked,
            answered: self.clock,
            what,
        };
        self.trial.events.push(event);
        self
    }

    fn submit(&mut self, call: &Call, id: i64, existing: bool) -> &mut Self {
        let answer = Answer::Told(Accepted { id, existing });
        let call = call.clone();
        self.tell(What::Submit { call, answer })
    }

    fn see(&mut self, id: i64, sight: Sight) -> &mut Self {
        let answer = Answer::Told(sight);
        self.tell(What::Get {
            key: Key::Id(id),
            answer,
        })
    }

    fn miss(&mut self, key: Key) -> &mut Self {
        let answer = Answer::NotFound;
        self.tell(What::Get { key, answer })
    }

    fn cancel(&mut self, id: i64, word: CancelWord) -> &mut Self {
        let answer = Answer::Told(word);
        self.tell(What::Cancel { id, answer })
    }

    fn run(&mut self, id: i64, attempt: u32, what: Moment) -> &mut Self {
        self.clock += 10;
        let entry = Entry {
            at: self.clock,
            id,
            attempt,
            tag: "a".to_owned(),
            token: "a".to_owned(),
            what,
        };
        self.last_journal().entries.push(entry);
        self
    }

    fn hear(&mut self, telling: Telling) -> &mut Self {
        self.clock += 10;
        let at = self.clock;
        self.trial.tellings.push(Telling { at, ..telling });
        self
    }

    /// The server ends, and another process of it is started.
    fn restart(&mut self, drained: bool) -> &mut Self {
        self.last_journal().drained = drained;
        self.clock += 10;
        let journal = Journal {
            began: self.clock,
            drained: false,
            entries: Vec::new(),
        };
        self.trial.journals.as_mut().unwrap().push(journal);
        self
    }

    fn pass(&mut self, time: Micros) -> &mut Self {
        self.clock += time;
        self
    }

    fn last_journal(&mut self) -> &mut Journal {
        self.trial.journals.as_mut().unwrap().last_mut().unwrap()
    }

    fn faults(&self) -> Vec<Fault> {
        let found = check(&self.trial).violations;
        found.iter().map(|violation| violation.fault).collect()
    }

    fn assert(&self, expected: &[Fault]) {
        let found = check(&self.trial).violations;
        assert_eq!(self.faults(), expected, "{found:#?}");
    }
}

fn call() -> Call {
    Call {
        tag: "a".to_owned(),
        endpoint: "/x".to_owned(),
        rule: Rule::Once,
        must_succeed: false,
        kept_millis: 2_000,
        retention_millis: 2_000,
        calls_back: false,
        want: Want::Text(String::new()),
    }
}

fn retried() -> Call {
    Call {
        rule: Rule::Retry { max_attempts: 3 },
        ..call()
    }
}

fn running(progress: i32) -> Sight {
    Sight {
        tag: Some("a".to_owned()),
        status: Status::Running,
        progress,
        ended_millis: None,
        error: None,
        result: None,
    }
}

fn ended(status: Status, millis: i64) -> Sight {
    Sight {
        status,
        ended_millis: Some(millis),
        ..running(0)
    }
}

fn done(id: i64, attempt: u32) -> Sight {
    let by = ResultOf {
        id,
        attempt,
        token: "a".to_owned(),
    };
    Sight {
        progress: 100,
        result: Some(ResultSeen {
            crc: 7,
            is_right: true,
            by: Some(by),
        }),
        ..ended(Status::Done, 1_001)
    }
}

fn id(id: i64) -> Key {
    Key::Id(id)
}

fn by_tag() -> Key {
    Key::Tag("a".to_owned())
}

#[test]
fn a_life_as_it_should_be_has_no_fault() {
    let mut story = Story::new();
    story
        .miss(by_tag())
        .submit(&call(), 1, false)
        .run(1, 1, Moment::Start)
        .see(1, running(0))
        .see(1, running(40))
        .submit(&call(), 1, true)
        .run(1, 1, Moment::Done)
        .see(1, done(1, 1))
        .cancel(1, CancelWord::Already(Status::Done))
        .pass(3 * SECOND)
        .miss(by_tag())
        .miss(id(1))
        // Its tag is free again.
        .submit(&call(), 2, false)
        .tell(What::FinalList {
            rows: vec![row(2, Status::Error)],
        });
    story.assert(&[]);
    let counts = check(&story.trial).counts;
    assert_eq!((counts.acknowledged, counts.starts), (2, 1));
    assert_eq!((counts.ended, counts.expired), (2, 1));
}

fn row(id: i64, status: Status) -> Row {
    Row {
        id,
        tag: Some("a".to_owned()),
        status,
    }
}

#[test]
fn a_job_that_is_gone_before_its_time_is_lost() {
    for key in [id(1), by_tag()] {
        let mut story = Story::new();
        story.submit(&call(), 1, false).miss(key);
        story.assert(&[Fault::Lost]);
    }
}

#[test]
fn a_job_that_a_handler_was_started_for_is_lost_even_if_its_submit_was_not_answered() {
    let mut story = Story::new();
    let answer = Answer::Unknown("broken".to_owned());
    story
        .tell(What::Submit {
            call: call(),
            answer,
        })
        .run(1, 1, Moment::Start);
    story.assert(&[]);
    story.miss(by_tag()).assert(&[Fault::Lost]);
}

#[test]
fn a_job_is_kept_from_when_its_handler_last_wrote() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .pass(3 * SECOND)
        .run(1, 1, Moment::Start)
        .pass(SECOND)
        .miss(id(1));
    story.assert(&[Fault::Lost]);
}

/// An end is dated before it is durable, so a look in between sees the job alive after its end.
#[test]
fn a_job_that_was_seen_alive_may_have_ended_before() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .see(1, running(0))
        .pass(2 * SECOND - 55)
        .miss(id(1));
    story.assert(&[]);
}

#[test]
fn a_job_that_is_not_in_the_list_of_all_is_lost() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .tell(What::FinalList { rows: Vec::new() });
    story.assert(&[Fault::Lost]);
}

#[test]
fn what_was_gone_does_not_come_back() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .pass(3 * SECOND)
        .miss(id(1))
        .see(1, ended(Status::Error, 3_900));
    // By its end, it should not have been gone either.
    story.assert(&[Fault::Lost, Fault::CameBack]);
}

#[test]
fn nobody_sees_a_job_after_its_time() {
    let mut story = Story::new();
    let sight = ended(Status::Error, 1_000);
    story.submit(&call(), 1, false).see(1, sight.clone());
    story.pass(SECOND).see(1, sight.clone()).assert(&[]);
    // Times are told in whole milliseconds.
    story
        .pass(SECOND + 2_000)
        .see(1, sight)
        .assert(&[Fault::CameBack]);
}

#[test]
fn a_tag_has_one_job_at_a_time() {
    let mut story = Story::new();
    story.submit(&call(), 1, false).submit(&call(), 2, false);
    story.assert(&[Fault::TagOfTwo]);
}

/// The first submit was not answered, and its job expired before the tag got the job that is known.
#[test]
fn a_tag_may_have_named_a_job_that_nobody_was_told_of() {
    let mut story = Story::new();
    let (call, answer) = (call(), Answer::Unknown("broken".to_owned()));
    story.tell(What::Submit { call, answer });
    let sight = ended(Status::Error, 1_000);
    let (key, answer) = (by_tag(), Answer::Told(sight));
    story.tell(What::Get { key, answer }).pass(3 * SECOND);
    story.submit(&self::call(), 2, false);
    story.see(2, ended(Status::Done, 4_001)).assert(&[]);
    assert_eq!(check(&story.trial).counts.ambiguous, 1);
}

#[test]
fn an_id_is_one_calls() {
    let other = Call {
        tag: "b".to_owned(),
        ..call()
    };
    let mut story = Story::new();
    story.submit(&call(), 1, false).submit(&other, 1, true);
    story.assert(&[Fault::IdOfTwo]);
}

#[test]
fn a_job_is_new_once() {
    let mut story = Story::new();
    story.submit(&call(), 1, false).submit(&call(), 1, false);
    story.assert(&[Fault::NewTwice]);
}

#[test]
fn a_job_that_nobody_submitted_is_a_stranger() {
    let mut story = Story::new();
    story.tell(What::FinalList {
        rows: vec![row(1, Status::Error)],
    });
    story.assert(&[Fault::Stranger]);
}

#[test]
fn an_end_never_changes() {
    let first = ended(Status::Error, 1_001);
    let others = [
        running(0),
        ended(Status::Done, 1_001),
        ended(Status::Error, 1_002),
        Sight {
            error: Some("two".to_owned()),
            ..first.clone()
        },
    ];
    for other in others {
        let mut story = Story::new();
        let mut first = first.clone();
        first.error = Some("one".to_owned());
        story
            .submit(&call(), 1, false)
            .see(1, first)
            .see(1, other.clone());
        let found = story.faults();
        assert!(!found.is_empty(), "{other:?}");
        assert!(
            found.iter().all(|fault| *fault == Fault::Changed),
            "{found:?}"
        );
    }
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .see(1, first)
        .cancel(1, CancelWord::Cancelling);
    let found = story.faults();
    assert!(found.contains(&Fault::Changed), "{found:?}");
}

#[test]
fn a_result_never_changes() {
    let mut other = done(1, 1);
    other.result.as_mut().unwrap().crc = 8;
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .run(1, 1, Moment::Start)
        .run(1, 1, Moment::Done)
        .see(1, done(1, 1))
        .see(1, other);
    story.assert(&[Fault::Changed]);
}

#[test]
fn a_result_is_that_of_the_call() {
    let change: [fn(&mut ResultSeen); 3] = [
        |result| result.is_right = false,
        |result| result.by.as_mut().unwrap().id = 2,
        |result| result.by.as_mut().unwrap().token = "b".to_owned(),
    ];
    for change in change {
        let mut sight = done(1, 1);
        change(sight.result.as_mut().unwrap());
        let mut story = Story::new();
        story
            .submit(&call(), 1, false)
            .run(1, 1, Moment::Start)
            .run(1, 1, Moment::Done)
            .see(1, sight);
        story.assert(&[Fault::WrongResult]);
    }
}

#[test]
fn a_handler_gets_what_was_submitted() {
    let mut story = Story::new();
    story.submit(&call(), 1, false).run(1, 1, Moment::Start);
    story.last_journal().entries[0].token = "b".to_owned();
    story.assert(&[Fault::WrongPayload]);
}

#[test]
fn progress_never_falls_but_between_looks_that_overlap() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .see(1, running(30))
        .see(1, running(20));
    story.assert(&[Fault::ProgressFell]);
    // The second was asked before the first was answered.
    let first_answered = story.trial.events[1].answered;
    story.trial.events[2].asked = first_answered;
    story.assert(&[]);
}

#[test]
fn at_most_once_is_once() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .run(1, 1, Moment::Start)
        .restart(false)
        .run(1, 1, Moment::Start);
    story.assert(&[Fault::RanTwice]);
}

#[test]
fn retries_are_counted() {
    let mut story = Story::new();
    story.submit(&retried(), 1, false);
    for attempt in 1..=3 {
        story.run(1, attempt, Moment::Start).restart(false);
    }
    story.assert(&[]);
    assert_eq!(check(&story.trial).counts.retried, 1);
    story
        .run(1, 4, Moment::Start)
        .assert(&[Fault::TooManyAttempts]);
}

#[test]
fn one_process_runs_a_job_once_at_a_time() {
    let mut story = Story::new();
    story
        .submit(&retried(), 1, false)
        .run(1, 1, Moment::Start)
        .run(1, 1, Moment::Failed)
        .run(1, 2, Moment::Start);
    story.assert(&[]);
    story.run(1, 3, Moment::Start).assert(&[Fault::RanAtOnce]);
}

#[test]
fn nothing_runs_after_the_end() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .cancel(1, CancelWord::Cancelled)
        .run(1, 1, Moment::Start);
    story.assert(&[Fault::RanAfterEnd]);
}

#[test]
fn what_is_being_cancelled_is_not_started_again() {
    let mut story = Story::new();
    story
        .submit(&retried(), 1, false)
        .run(1, 1, Moment::Start)
        .cancel(1, CancelWord::Cancelling)
        .restart(false)
        .run(1, 2, Moment::Start);
    story.assert(&[Fault::RanAfterEnd]);
}

#[test]
fn what_is_done_was_done_by_a_handler() {
    let mut story = Story::new();
    story
        .submit(&retried(), 1, false)
        .run(1, 1, Moment::Start)
        .restart(false)
        .run(1, 2, Moment::Start)
        .run(1, 2, Moment::Done);
    let clock = story.clock;
    story.see(1, done(1, 2)).assert(&[]);
    story.trial.events.pop();
    story.clock = clock;
    story.see(1, done(1, 1)).assert(&[Fault::DoneUnrun]);
}

#[test]
fn a_drain_costs_no_attempt_and_a_kill_does() {
    for (drained, next, expected) in [
        (true, 1, &[][..]),
        (true, 2, &[Fault::DrainCost]),
        (false, 2, &[]),
    ] {
        let mut story = Story::new();
        story
            .submit(&retried(), 1, false)
            .run(1, 1, Moment::Start)
            .run(1, 1, Moment::Stopped)
            .restart(drained)
            .run(1, next, Moment::Start);
        story.assert(expected);
    }
}

#[test]
fn what_is_tried_until_it_succeeds_does_not_fail() {
    let call = Call {
        must_succeed: true,
        ..retried()
    };
    let mut story = Story::new();
    story
        .submit(&call, 1, false)
        .see(1, ended(Status::Error, 1_001));
    story.assert(&[Fault::GaveUp]);
}

#[test]
fn only_what_somebody_cancels_is_cancelled() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .see(1, ended(Status::Cancelled, 1_001));
    story.assert(&[Fault::WrongCancel]);
    // A cancel that was not answered may have been done.
    let answer = Answer::Unknown("broken".to_owned());
    story.tell(What::Cancel { id: 1, answer }).assert(&[]);
}

#[test]
fn a_durable_cancel_is_not_forgotten() {
    let mut story = Story::new();
    story
        .submit(&call(), 1, false)
        .cancel(1, CancelWord::Cancelling)
        .see(1, ended(Status::Error, 1_001));
    story.assert(&[Fault::WrongCancel]);
}

#[test]
fn at_the_end_nothing_is_stuck_or_listed_twice() {
    let mut story = Story::new();
    story.submit(&call(), 1, false).tell(What::FinalList {
        rows: vec![row(1, Status::Running), row(1, Status::Running)],
    });
    story.assert(&[Fault::Stuck, Fault::ListedTwice, Fault::Stuck]);
}

#[test]
fn a_refusal_is_told() {
    let mut story = Story::new();
    let answer = Answer::Refused("no".to_owned());
    story.tell(What::Submit {
        call: call(),
        answer,
    });
    story.assert(&[Fault::Refused]);
}

#[test]
fn without_journals_runs_are_not_judged() {
    let mut story = Story::new();
    story.submit(&call(), 1, false).see(1, done(1, 1));
    story.assert(&[Fault::DoneUnrun]);
    story.trial.journals = None;
    story.assert(&[]);
}

fn called_back() -> Call {
    Call {
        calls_back: true,
        kept_millis: 7_200_000,
        retention_millis: 7_200_000,
        ..call()
    }
}

fn telling(id: i64, status: Status) -> Telling {
    Telling {
        at: 0,
        name: format!("job-{id}-q"),
        is_signed: true,
        is_taken: true,
        end: Some(End {
            id,
            tag: "a".to_owned(),
            status,
            error: None,
        }),
    }
}

#[test]
fn an_end_that_a_receiver_wants_to_hear_of_is_told() {
    let failed = Sight {
        error: Some("e".to_owned()),
        ..ended(Status::Error, 1_001)
    };
    let mut told = telling(1, Status::Error);
    told.end.as_mut().unwrap().error = Some("e".to_owned());
    let mut story = Story::new();
    story.submit(&called_back(), 1, false).see(1, running(0));
    story.assert(&[]);
    story.see(1, failed).assert(&[Fault::Untold]);
    assert_eq!(owed_tellings(&story.trial), BTreeSet::from([1]));
    let refused = Telling {
        is_taken: false,
        ..told.clone()
    };
    story.hear(refused).assert(&[Fault::Untold]);
    story.hear(told.clone()).assert(&[]);
    // The answer was lost with the server.
    story.restart(false).hear(told).assert(&[]);
    let counts = check(&story.trial).counts;
    assert_eq!((counts.told, counts.told_again), (1, 1));
}

#[test]
fn the_end_of_a_job_that_expires_may_stay_untold() {
    let call = Call {
        calls_back: true,
        ..call()
    };
    let mut story = Story::new();
    story.submit(&call, 1, false).see(1, done_by_nobody());
    story.assert(&[]);
}

fn done_by_nobody() -> Sight {
    ended(Status::Done, 1_001)
}

#[test]
fn nobody_is_told_before_the_end() {
    let mut story = Story::new();
    story
        .submit(&called_back(), 1, false)
        .hear(telling(1, Status::Done))
        .see(1, running(0))
        .see(1, done_by_nobody());
    story.assert(&[Fault::ToldEarly]);

    let mut story = Story::new();
    let call = Call {
        rule: Rule::Retry { max_attempts: 3 },
        ..called_back()
    };
    story
        .submit(&call, 1, false)
        .run(1, 1, Moment::Start)
        .hear(telling(1, Status::Done))
        .restart(false)
        .run(1, 2, Moment::Start)
        .see(1, done_by_nobody());
    story.assert(&[Fault::ToldEarly]);
}

#[test]
fn what_is_told_is_so_and_is_signed() {
    let good = telling(1, Status::Done);
    let wrong = |change: fn(&mut Telling)| {
        let mut telling = telling(1, Status::Done);
        change(&mut telling);
        telling
    };
    for (call, telling) in [
        (called_back(), telling(1, Status::Cancelled)),
        (called_back(), wrong(|telling| telling.is_signed = false)),
        (
            called_back(),
            wrong(|telling| telling.name = "job-1-other".to_owned()),
        ),
        (called_back(), wrong(|telling| telling.end = None)),
    ] {
        let mut story = Story::new();
        story.submit(&call, 1, false).see(1, done_by_nobody());
        story.hear(good.clone()).assert(&[]);
        story.hear(telling).assert(&[Fault::WrongTelling]);
    }
    let mut story = Story::new();
    story.submit(&call(), 1, false).see(1, done_by_nobody());
    story.hear(good).assert(&[Fault::WrongTelling]);
}
