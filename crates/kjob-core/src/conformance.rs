//! The suite that every [`Store`] must pass: one test for each sentence of the contract.
//!
//! Give the macro [`store_conformance!`](crate::store_conformance) an expression that makes a
//! [`Harness`] over an empty store; it is evaluated once for each test.
//!
//! ```
//! use std::sync::Arc;
//!
//! use kjob_core::conformance::Harness;
//! use kjob_core::{MemoryStore, Store};
//!
//! #[derive(Default)]
//! struct InMemory;
//!
//! #[async_trait::async_trait]
//! impl Harness for InMemory {
//!     async fn open(&self) -> Arc<dyn Store> {
//!         Arc::new(MemoryStore::new())
//!     }
//!     fn survives_reopen(&self) -> bool {
//!         false
//!     }
//! }
//!
//! // In a file under tests/: expands to one #[test] for each behaviour.
//! kjob_core::store_conformance!(InMemory);
//! # kjob_core::conformance::check(
//! #     || InMemory,
//! #     kjob_core::conformance::cases::a_reserved_id_is_never_given_again,
//! # );
//! ```
//!
//! Times are made up and handed in, so nothing sleeps.

// A check that fails is meant to panic: this is the body of tests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod callbacks;
mod concurrency;
mod ids;
mod lifecycle;
mod model;
mod reads;
mod retention;
mod tags;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kjob_proto::{Encoding, Text};

use crate::{
    Finish, Header, IdBlock, Job, JobId, JobOptions, JobTag, Lease, NewJob, OnInterrupt, Output,
    Owner, Parts, QueryId, Shard, State, Store, Submitted, TagReuse, Timestamp,
};

/// How the suite gets at a store.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Opens the store: empty the first time, and as it was left when it was opened before.
    async fn open(&self) -> Arc<dyn Store>;

    /// Closes the store and opens it again. The default closes it politely, drops it and calls
    /// [`Harness::open`].
    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store.close().await.expect("the store closes");
        drop(store);
        self.open().await
    }

    /// Whether what was stored is there again after [`Harness::reopen`].
    fn survives_reopen(&self) -> bool;
}

pub use model::check_against_model;

/// A test's store, with what it takes to put jobs into it.
pub struct Trial {
    harness: Box<dyn Harness>,
    /// The store.
    pub store: Arc<dyn Store>,
    ids: HashMap<Option<Shard>, IdBlock>,
    last: Option<JobId>,
}

/// A test of the suite at work.
pub type Checking<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A test of the suite.
type Case = for<'a> fn(&'a mut Trial) -> Checking<'a>;

/// Runs one test on a store of its own.
///
/// # Panics
/// Where the store breaks the contract.
pub fn check<H: Harness + 'static>(make: impl Fn() -> H, case: Case) {
    check_made(&|| Box::new(make()), case);
}

/// Apart, so that not every test of every store compiles a runtime's loop of its own.
fn check_made(make: &dyn Fn() -> Box<dyn Harness>, case: Case) {
    runtime().block_on(async {
        let mut trial = Trial::new(make()).await;
        case(&mut trial).await;
    });
}

/// Expands to one test for each behaviour of a store; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! store_conformance {
    ($harness:expr) => {
        $crate::__store_conformance! { @list tests [$harness] }

        #[test]
        fn any_sequence_of_steps_does_what_the_model_does() {
            $crate::conformance::check_against_model(|| $harness);
        }
    };
}

/// The list of cases, and what is made of it.
#[doc(hidden)]
#[macro_export]
macro_rules! __store_conformance {
    (@list $what:ident $arguments:tt) => {
        $crate::__store_conformance! { @$what $arguments
            ids::a_reserved_id_is_never_given_again,
            ids::a_reserved_id_is_never_given_again_after_reopening,
            ids::a_block_has_as_many_ids_as_were_asked_for,
            lifecycle::a_submitted_job_is_queued_and_reads_back_whole,
            lifecycle::a_submit_may_start_the_job_in_one_step,
            lifecycle::a_submit_does_not_start_a_job_before_its_time,
            lifecycle::starting_hands_out_the_payload,
            lifecycle::only_a_queued_job_is_started,
            lifecycle::a_job_is_not_started_before_its_time,
            lifecycle::a_step_on_no_job_says_so,
            lifecycle::progress_never_falls_and_stays_below_a_hundred,
            lifecycle::a_stale_lease_is_refused,
            lifecycle::a_report_on_a_waiting_job_is_refused,
            lifecycle::every_way_to_end_keeps_what_it_must,
            lifecycle::a_handler_cannot_stop_for_a_cancel_that_nobody_asked_for,
            lifecycle::an_interrupted_job_is_queued_again_and_the_run_is_charged,
            lifecycle::an_uncharged_run_costs_no_attempt,
            lifecycle::attempts_run_out,
            lifecycle::progress_does_not_fall_over_attempts,
            lifecycle::the_first_end_wins,
            lifecycle::a_queued_job_is_cancelled_at_once,
            lifecycle::a_running_job_is_asked_to_stop,
            lifecycle::a_result_beats_a_cancel,
            lifecycle::an_ended_job_is_not_cancelled,
            lifecycle::steps_survive_reopening,
            lifecycle::big_payloads_and_results_come_back,
            lifecycle::what_is_said_of_a_result_is_kept_with_it,
            tags::the_same_call_gives_the_same_job,
            tags::the_same_call_gives_the_same_job_in_every_state,
            tags::another_endpoint_is_a_conflict,
            tags::another_encoding_is_a_conflict,
            tags::other_bytes_are_a_conflict,
            tags::options_do_not_make_another_call,
            tags::a_tag_belongs_to_its_owner,
            tags::the_tag_of_an_expired_job_is_free,
            tags::a_failed_jobs_tag_is_given_anew_only_on_request,
            tags::a_cancelled_jobs_tag_is_given_anew_only_on_request,
            tags::the_tag_of_a_job_that_did_not_fail_is_never_given_anew,
            tags::a_generated_tag_finds_its_job,
            tags::a_user_tag_of_the_generated_form_is_a_tag_like_any_other,
            tags::repeating_a_generated_tag_gives_the_same_job,
            tags::a_failed_jobs_generated_tag_can_be_given_anew,
            tags::tags_survive_reopening,
            tags::tags_of_every_form_come_back,
            reads::get_gives_the_parts_that_were_asked_for,
            reads::get_of_no_job_gives_nothing,
            reads::the_bytes_of_a_job_are_those_of_its_payload_and_result,
            reads::get_of_an_owner_gives_theirs_alone,
            reads::find_of_no_tag_gives_nothing,
            reads::list_gives_jobs_by_rising_id,
            reads::live_gives_what_it_takes_to_queue,
            reads::list_keeps_to_each_filter,
            reads::list_comes_in_pages_that_lead_to_the_end,
            reads::list_gives_the_newest_first_if_asked,
            reads::list_keeps_to_the_time_of_the_submit,
            reads::list_gives_no_bytes,
            reads::list_of_live_jobs_survives_reopening,
            retention::a_job_is_gone_at_the_moment_it_expires,
            retention::a_live_job_never_expires,
            retention::an_expiry_only_comes_nearer,
            retention::an_earlier_expiry_survives_reopening,
            retention::usage_counts_jobs_and_bytes_by_owner,
            retention::usage_survives_reopening,
            retention::expiring_gives_back_what_it_says,
            retention::expiring_keeps_what_is_needed,
            retention::a_closed_store_says_so,
            callbacks::every_end_of_a_job_makes_its_callback_pending,
            callbacks::a_job_that_is_queued_again_has_no_callback_yet,
            callbacks::a_claim_holds_until_its_time,
            callbacks::a_claim_that_is_over_at_once_still_moves_on,
            callbacks::every_try_is_told,
            callbacks::a_try_of_no_callback_is_refused,
            callbacks::an_expired_job_takes_its_callback_along,
            callbacks::callbacks_outlive_the_jobs_around_them,
            concurrency::one_delivery_of_many_is_noted,
            concurrency::one_tag_submitted_at_once_gives_one_job,
            concurrency::one_end_of_many_wins,
            concurrency::one_start_of_many_wins,
            concurrency::many_lives_at_once_all_end_as_they_should,
            concurrency::ids_reserved_at_once_are_different,
        }
    };
    (@tests [$harness:expr] $($subject:ident :: $case:ident,)*) => {$(
        #[test]
        fn $case() {
            $crate::conformance::check(|| $harness, $crate::conformance::cases::$case);
        }
    )*};
    (@cases [] $($subject:ident :: $case:ident,)*) => {$(
        pub fn $case(trial: &mut Trial) -> Checking<'_> {
            Box::pin(super::$subject::$case(trial))
        }
    )*};
}

/// The tests by their names alone. What they do is compiled into this crate, once, and not into each program that
/// tests a store.
pub mod cases {
    use super::{Checking, Trial};

    crate::__store_conformance! { @list cases [] }
}

/// The moment `millis` after the suite's beginning of time.
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

impl Trial {
    async fn new(harness: Box<dyn Harness>) -> Self {
        let store = harness.open().await;
        Self {
            harness,
            store,
            ids: HashMap::new(),
            last: None,
        }
    }

    /// One for a job whose tag carries it, or for none.
    async fn id(&mut self) -> JobId {
        self.id_in(None).await
    }

    /// One for a job of the anonymous owner's with this tag.
    async fn id_for(&mut self, tag: &JobTag) -> JobId {
        self.id_of(&Owner::anonymous(), tag, at(0)).await
    }

    /// One for a job of this owner's with this tag.
    async fn id_of(&mut self, owner: &Owner, tag: &JobTag, now: Timestamp) -> JobId {
        let shard = self.store.shard_for(owner, tag, now).await;
        self.id_in(Some(shard.unwrap())).await
    }

    async fn id_in(&mut self, shard: Option<Shard>) -> JobId {
        // Each is larger than those before, whatever its shard: jobs are then listed as they were made.
        loop {
            let block = self.ids.entry(shard).or_insert_with(IdBlock::empty);
            let mut rest = std::iter::from_fn(|| block.take());
            if let Some(id) = rest.find(|id| Some(*id) > self.last) {
                self.last = Some(id);
                return id;
            }
            let reserved = match shard {
                Some(shard) => self.store.reserve_ids_in(shard, 8).await,
                None => self.store.reserve_ids(8).await,
            };
            *block = reserved.unwrap();
        }
    }

    /// A job of the anonymous owner with this tag, received at the beginning of time.
    async fn job(&mut self, tag: &str) -> NewJob {
        let tag = tag.parse().unwrap();
        new_job(self.id_for(&tag).await, tag)
    }

    /// As [`job`](Self::job), of another owner.
    async fn job_of(&mut self, owner: &Owner, tag: &str) -> NewJob {
        let tag = tag.parse().unwrap();
        let id = self.id_of(owner, &tag, at(0)).await;
        let mut job = new_job(id, tag);
        job.header.owner = owner.clone();
        job
    }

    async fn submit(&self, job: NewJob) -> Submitted {
        self.store.submit(job, false).await.unwrap()
    }

    /// A queued job.
    async fn queued(&mut self, tag: &str) -> JobId {
        let job = self.job(tag).await;
        let id = job.header.id;
        assert_eq!(
            self.submit(job).await,
            Submitted::Created(State::queued(None))
        );
        id
    }

    /// A running job.
    async fn running(&mut self, tag: &str) -> (JobId, Lease) {
        let job = self.job(tag).await;
        let id = job.header.id;
        let Submitted::Created(state) = self.store.submit(job, true).await.unwrap() else {
            panic!("{tag} is taken");
        };
        (id, state.lease)
    }

    /// A job that ended at `at(0)`.
    async fn ended(&mut self, tag: &str, finish: Finish) -> JobId {
        let (id, lease) = self.running(tag).await;
        self.store.finish(id, lease, finish, at(0)).await.unwrap();
        id
    }

    /// A job that was cancelled at `at(0)`.
    async fn cancelled(&mut self, tag: &str) -> JobId {
        let id = self.queued(tag).await;
        self.store.request_cancel(id, at(0)).await.unwrap();
        id
    }

    async fn get(&self, id: JobId) -> Job {
        let all = Parts {
            payload: true,
            result: true,
        };
        self.store
            .get(id, all, at(0))
            .await
            .unwrap()
            .expect("the job is there")
    }

    async fn find(&self, tag: &str) -> Option<JobId> {
        let tag: JobTag = tag.parse().unwrap();
        self.store
            .find(&Owner::anonymous(), &tag, at(0))
            .await
            .unwrap()
    }

    /// Closes and opens the store; false if it does not keep what it held.
    async fn reopen(&mut self) -> bool {
        let survives = self.harness.survives_reopen();
        if survives {
            let nothing: Arc<dyn Store> = Arc::new(crate::MemoryStore::new());
            let store = std::mem::replace(&mut self.store, nothing);
            self.store = self.harness.reopen(store).await;
        }
        survives
    }
}

fn new_job(id: JobId, tag: JobTag) -> NewJob {
    NewJob {
        header: Header {
            id,
            tag,
            owner: Owner::anonymous(),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).unwrap(),
            parent_span: u64::MAX,
            received_at: at(0),
            source_ip: Text::from("127.0.0.1"),
            options: JobOptions::default(),
        },
        payload: Bytes::from_static(b"payload"),
        tag_reuse: TagReuse::Never,
    }
}

fn complete(bytes: &'static [u8]) -> Finish {
    Finish::Complete(Output::binary(bytes))
}

fn fail() -> Finish {
    Finish::Fail(Text::from("it failed"))
}

fn retry(max_attempts: u32, charged: bool, not_before: Timestamp) -> Finish {
    let then = OnInterrupt::Retry {
        max_attempts,
        not_before,
        charged,
    };
    Finish::Interrupt {
        reason: Text::from("cut off"),
        then,
    }
}
