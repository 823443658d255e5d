//! What the statements allow is what `apply` allows: any event, on a job in any state.

use kjob_core::{
    End, Event, Finish, JobId, Lease, OnInterrupt, Output, Phase, Refused, State, StepError, Store,
    Timestamp, Transition, apply,
};
use kjob_proto::Text;
use kjob_store::postgres::{PostgresOptions, PostgresStore};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::jobs::at;
use crate::support::{Schema, block_on};

const CASES: usize = 1_500;

fn state() -> impl Strategy<Value = State> {
    let waiting = (0..4_u32, proptest::option::of(0..20_i64));
    let any = (0..3_u8, 0..100_u8, 1..4_u32, 0..4_u32);
    (waiting, any).prop_map(|((starts, delay), (phase, progress, lease, uncharged))| {
        let phase = Phase::from_u8(phase).unwrap();
        let is_queued = phase == Phase::Queued;
        let lease = if is_queued { starts } else { lease };
        State {
            phase,
            progress,
            attempt: lease.saturating_sub(uncharged),
            lease: Lease(lease),
            not_before: delay.filter(|_| is_queued).map(at),
            started_at: (!is_queued).then(|| at(-5)),
            ended_at: None,
        }
    })
}

fn event() -> impl Strategy<Value = Event> {
    let lease = || (0..5_u32).prop_map(Lease);
    let retry = (0..5_u32, -5..25_i64, any::<bool>()).prop_map(|(max_attempts, until, charged)| {
        OnInterrupt::Retry {
            max_attempts,
            not_before: at(until),
            charged,
        }
    });
    let end = prop_oneof![
        1 => Just(End::Complete),
        1 => Just(End::Fail),
        2 => Just(End::Stop),
        1 => Just(End::Interrupt(OnInterrupt::Fail)),
        4 => retry.prop_map(End::Interrupt),
    ];
    prop_oneof![
        2 => Just(Event::Start),
        2 => (lease(), any::<u8>()).prop_map(|(lease, percent)| Event::Progress { lease, percent }),
        1 => Just(Event::RequestCancel),
        5 => (lease(), end).prop_map(|(lease, end)| Event::End { lease, end }),
    ]
}

#[test]
fn every_statement_allows_what_the_state_machine_allows() {
    let mut runner = TestRunner::default();
    let mut draw = || {
        (state(), event(), 0..20_i64)
            .new_tree(&mut runner)
            .unwrap()
            .current()
    };
    let cases: Vec<_> = std::iter::repeat_with(&mut draw).take(CASES).collect();
    let schema = Schema::new();
    schema.prepare(true);
    block_on(async {
        let store = schema.open(PostgresOptions::default()).await;
        store_all(&schema, &cases).await;
        // All at once, so that each goes with many others.
        let steps = cases.iter().zip(1..).map(|((_, event, now), number)| {
            step(&store, JobId::new(number).unwrap(), *event, at(*now))
        });
        let answers = futures_util::future::join_all(steps).await;
        for ((state, event, now), answer) in cases.iter().zip(answers) {
            let expected = apply(state, *event, at(*now)).map(|done| match done {
                Transition::Unchanged => *state,
                Transition::To(next) => next,
            });
            assert_eq!(answer, expected, "{event:?} at {now} on {state:?}");
        }
        for (((state, event, now), number), _) in cases.iter().zip(1..).zip(0..) {
            let id = JobId::new(number).unwrap();
            let found = store
                .get(id, Default::default(), at(0))
                .await
                .unwrap()
                .unwrap();
            let expected = match apply(state, *event, at(*now)) {
                Ok(Transition::To(next)) => next,
                _ => *state,
            };
            assert_eq!(found.state, expected, "{event:?} at {now} on {state:?}");
        }
    });
}

/// Jobs in these states, with ids from one on.
async fn store_all(schema: &Schema, cases: &[(State, Event, i64)]) {
    let rows: Vec<String> = (1..)
        .zip(cases)
        .map(|(number, (state, _, _))| {
            let time = |at: Option<Timestamp>| {
                at.map_or("NULL".to_owned(), |at| at.as_millis().to_string())
            };
            format!(
                "({number}, 1, {}, {}, {}, {}, {}, {}, 86400000, {}, {}, 5, 0, {}, false, '/a', 'ann', '/a', \
                 't{number}', decode(repeat('07', 16) || repeat('00', 17), 'hex'), 'payload')",
                state.lease.0,
                state.attempt,
                "NULL",
                at(0).as_millis(),
                time(state.not_before),
                time(state.started_at),
                state.phase as u8,
                state.progress,
                state.not_before.is_some(),
            )
        })
        .collect();
    schema
        .execute(&format!("INSERT INTO kjob_live VALUES {}", rows.join(", ")))
        .await;
}

async fn step(
    store: &PostgresStore,
    id: JobId,
    event: Event,
    now: Timestamp,
) -> Result<State, Refused> {
    let done = match event {
        Event::Start => store.start(id, now).await.map(|started| started.state),
        Event::Progress { lease, percent } => store.progress(id, lease, percent, now).await,
        Event::RequestCancel => store.request_cancel(id, now).await,
        Event::End { lease, end } => {
            let reason = Text::from("so it went");
            let finish = match end {
                End::Complete => Finish::Complete(Output::binary(&b"done"[..])),
                End::Fail => Finish::Fail(reason),
                End::Stop => Finish::Stop,
                End::Interrupt(then) => Finish::Interrupt { reason, then },
            };
            store.finish(id, lease, finish, now).await
        }
        Event::TakeOver => unreachable!("it is not drawn"),
    };
    match done {
        Ok(state) => Ok(state),
        Err(StepError::Refused(refused)) => Err(refused),
        Err(error) => panic!("{error}"),
    }
}
