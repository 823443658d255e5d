//! What is different where several servers work at the same time.

use super::*;
use crate::checker::{Several, Standstill};

fn several() -> Story {
    let mut story = Story::new();
    story.trial.several = Some(Several {
        clocks_differ: SECOND,
        standstills: Vec::new(),
    });
    story
}

#[test]
fn a_later_job_may_have_a_lower_id() {
    let mut story = several();
    story.submit(&call(), 7, false);
    story.pass(4 * SECOND).submit(&call(), 3, false).assert(&[]);
    story.submit(&call(), 2, false).assert(&[Fault::TagOfTwo]);
}

#[test]
fn a_job_may_be_there_and_gone_for_as_long_as_clocks_differ() {
    let mut story = several();
    let sight = ended(Status::Error, 1_000);
    story.submit(&call(), 1, false).see(1, sight.clone());
    story.pass(3 * SECOND / 2).miss(Key::Id(1));
    story.see(1, sight.clone()).assert(&[]);
    story
        .pass(2 * SECOND)
        .see(1, sight)
        .assert(&[Fault::CameBack, Fault::CameBack]);
}

#[test]
fn a_run_may_go_on_while_another_server_has_ended_its_job() {
    let run_on = |mut story: Story, fault: &[Fault]| {
        story.submit(&call(), 1, false).run(1, 1, Moment::Start);
        story.pass(10 * SECOND).run(1, 1, Moment::Stopped);
        story.miss(Key::Id(1)).assert(fault);
    };
    run_on(several(), &[]);
    run_on(Story::new(), &[Fault::Lost]);
}

#[test]
fn who_stood_still_may_go_on_with_what_others_have_ended() {
    let mut story = several();
    story.submit(&call(), 1, false);
    story.see(1, ended(Status::Error, 1_000));
    let from = story.clock;
    story.pass(SECOND).run(1, 1, Moment::Start);
    story.assert(&[Fault::RanAfterEnd]);
    let stood_still = |process, until| {
        let mut trial = story.trial.clone();
        trial.several.as_mut().unwrap().standstills = vec![Standstill {
            process,
            from,
            until,
        }];
        check(&trial).violations.is_empty()
    };
    assert!(stood_still(0, from + SECOND / 2));
    assert!(!stood_still(1, from + SECOND / 2), "another process");
    assert!(!stood_still(0, from - 1), "long before");
}

#[test]
fn so_may_who_goes_on_after_the_end_was_told() {
    let mut story = several();
    let call = Call {
        calls_back: true,
        ..call()
    };
    story.submit(&call, 1, false);
    story.see(1, ended(Status::Error, 1_000));
    let from = story.clock;
    story.hear(telling(1, Status::Error));
    story.run(1, 1, Moment::Start);
    story.assert(&[Fault::ToldEarly, Fault::RanAfterEnd]);
    let several = story.trial.several.as_mut().unwrap();
    several.standstills.push(Standstill {
        process: 0,
        from,
        until: from + 10,
    });
    story.assert(&[]);
}

#[test]
fn what_a_drain_cut_off_may_have_run_elsewhere_since() {
    let mut story = several();
    story
        .submit(&retried(), 1, false)
        .run(1, 1, Moment::Start)
        .run(1, 1, Moment::Stopped)
        .restart(true)
        .run(1, 3, Moment::Start)
        .assert(&[]);
}
