//! All states of the lease protocol, and what becomes of them without one of its rules.

use kjob_models::{Nodes, Rule};
use stateright::{Checker, HasDiscoveries, Model};

fn nodes(retry: Option<u32>) -> Nodes {
    Nodes {
        retry,
        leases_max: 4,
        joins_max: 3,
        without: None,
    }
}

#[test]
fn every_state_of_a_job_that_runs_at_most_once_is_sound() {
    let checker = nodes(None).checker().threads(2).spawn_bfs().join();
    println!("{} states, at most once", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000);
}

#[test]
fn every_state_of_a_job_that_is_tried_again_is_sound() {
    let checker = nodes(Some(3)).checker().threads(2).spawn_bfs().join();
    println!("{} states, tried again", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000);
}

/// What breaks without a rule is what the rule is for.
fn broken_without(rule: Rule, retry: Option<u32>) -> Vec<&'static str> {
    let model = Nodes {
        without: Some(rule),
        ..nodes(retry)
    };
    let checker = model.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let broken = checker.discoveries();
    let mut broken: Vec<_> = broken.into_keys().collect();
    broken.sort_unstable();
    broken
}

#[test]
fn without_fences_a_late_word_counts() {
    let broken = broken_without(Rule::Fence, Some(3));
    assert!(
        broken.contains(&"an end is said under the newest lease"),
        "{broken:?}"
    );
}

#[test]
fn without_looking_what_runs_a_handler_begins_twice() {
    let broken = broken_without(Rule::LookWhatRuns, None);
    assert!(
        broken.contains(&"a handler begins at most once"),
        "{broken:?}"
    );
}

#[test]
fn without_waiting_for_the_lease_two_run_it() {
    let broken = broken_without(Rule::WaitForTheLease, Some(3));
    assert!(
        broken.contains(&"of nodes with a lease one runs it"),
        "{broken:?}"
    );
}
