//! Several databases that hold one set of jobs: how a set is made, grows, and is told from others.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use kjob_core::conformance::Harness;
use kjob_core::{
    Filter, JobId, JobTag, Owner, ShardedStore, SharedStore, Store, Submitted, Timestamp,
};
use kjob_store::postgres::{Description, OpenError, PostgresOptions, PostgresStore, ShardsError};

use crate::jobs::job;
use crate::sharing::join;
use crate::support::{Schema, block_on};

/// Databases, which are schemas of one server here.
pub(crate) struct Databases(pub(crate) Vec<Schema>);

impl Databases {
    pub(crate) async fn new(count: usize) -> Self {
        let schemas: Vec<_> = (0..count).map(|_| Schema::new()).collect();
        for schema in &schemas {
            schema.make().await;
        }
        Self(schemas)
    }

    pub(crate) fn urls(&self, count: usize) -> Vec<String> {
        self.0[..count].iter().map(Schema::url).collect()
    }

    pub(crate) async fn migrate(&self, count: usize) -> Result<(usize, usize), ShardsError> {
        migrate(&self.urls(count)).await
    }

    pub(crate) async fn open(&self, count: usize) -> Result<ShardedStore, ShardsError> {
        open(&self.urls(count)).await
    }
}

async fn migrate(urls: &[String]) -> Result<(usize, usize), ShardsError> {
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let made = PostgresStore::migrate_shards(&urls, &PostgresOptions::default()).await?;
    Ok((made.before, made.size))
}

pub(crate) async fn open(urls: &[String]) -> Result<ShardedStore, ShardsError> {
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    PostgresStore::open_shards(&urls, &PostgresOptions::default()).await
}

struct InTwo(Databases);

impl InTwo {
    fn new() -> Self {
        block_on(async {
            let databases = Databases::new(2).await;
            assert_eq!(databases.migrate(2).await.unwrap(), (0, 2));
            Self(databases)
        })
    }
}

#[async_trait]
impl Harness for InTwo {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.open(2).await.unwrap())
    }

    fn survives_reopen(&self) -> bool {
        true
    }
}

mod by_two_databases {
    kjob_core::store_conformance!(super::InTwo::new());
}

/// Submits a job with a tag of its own, and gives its id.
pub(crate) async fn submit(store: &dyn Store, tag: &str) -> JobId {
    let (owner, now) = (Owner::new("ann"), Timestamp::default());
    let parsed: JobTag = tag.parse().unwrap();
    let shard = store.shard_for(&owner, &parsed, now).await.unwrap();
    let mut block = store.reserve_ids_in(shard, 1).await.unwrap();
    let id = block.take().unwrap();
    match store.submit(job(id, tag, "ann"), false).await.unwrap() {
        Submitted::Created(_) => id,
        Submitted::Existing(job) => job.header.id,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn listed(store: &dyn Store) -> BTreeSet<JobId> {
    let page = store.list(&Filter::ALL, Timestamp::default()).await;
    page.unwrap().jobs.iter().map(|it| it.header.id).collect()
}

#[tokio::test]
async fn a_set_is_made_of_databases_of_which_the_first_has_jobs_and_grows() {
    let databases = Databases::new(4).await;
    let tags: Vec<String> = (0..20).map(|it| format!("tag-{it}")).collect();
    let alone = &databases.0[0];
    let options = PostgresOptions::default();
    PostgresStore::migrate(&alone.url(), &options)
        .await
        .unwrap();
    let mut ids = BTreeSet::new();
    let first = alone.open(options.clone()).await;
    for tag in &tags {
        ids.insert(submit(&first, tag).await);
    }
    let last = ids.last().unwrap().get();
    first.close().await.unwrap();

    for (before, size) in [(0, 2), (2, 2), (2, 4), (4, 4)] {
        assert_eq!(databases.migrate(size).await.unwrap(), (before, size));
        let store = databases.open(size).await.unwrap();
        assert_eq!(store.placement().size(), size);
        let mut shards = BTreeSet::new();
        for tag in &tags {
            let again = submit(&store, tag).await;
            assert!(ids.contains(&again), "{tag} is where it was");
            let new = submit(&store, &format!("{tag}-{before}-{size}")).await;
            assert!(new.get() > last, "no id is given twice");
            assert!(ids.insert(new));
            shards.insert(store.placement().shard_of_id(new));
        }
        assert_eq!(shards.len(), size, "all of them have new jobs");
        assert_eq!(listed(&store).await, ids);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_set_is_opened_whole_and_in_order_or_not_at_all() {
    let databases = Databases::new(3).await;
    let alone = &databases.0[2];
    let options = PostgresOptions::default();
    PostgresStore::migrate(&alone.url(), &options)
        .await
        .unwrap();
    let urls = databases.urls(3);
    // One that is alone is all there is, and no set.
    assert_eq!(migrate(&urls[2..]).await.unwrap(), (0, 1));
    let store = open(&urls[2..]).await.unwrap();
    let ids = [submit(&store, "a").await, submit(&store, "b").await];
    assert_eq!(ids[1].get(), ids[0].get() + 1);
    assert_eq!(listed(&store).await, ids.into());
    store.close().await.unwrap();
    let twice = [urls[2].clone(), urls[2].clone()];
    let error = open(&twice).await.unwrap_err();
    assert!(is_second_of_the_same(&error), "{error}");

    databases.migrate(2).await.unwrap();
    let opened = PostgresStore::open(&urls[1], options.clone()).await;
    let error = opened.unwrap_err();
    assert!(
        matches!(error, OpenError::OneOfSeveral { shard: 1, size: 2 }),
        "{error}"
    );
    let error = open(&urls[..1]).await.unwrap_err();
    assert!(
        matches!(
            error,
            ShardsError::Missing {
                found: 1,
                wanted: 2
            }
        ),
        "{error}"
    );
    let turned = [urls[1].clone(), urls[0].clone()];
    for error in [
        open(&turned).await.unwrap_err(),
        migrate(&turned).await.unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                ShardsError::Order {
                    number: 0,
                    found: 1
                }
            ),
            "{error}"
        );
    }
    // To migrate would not help: the third has had jobs.
    let error = open(&urls).await.unwrap_err();
    assert!(
        matches!(error, ShardsError::HasJobs { number: 2 }),
        "{error}"
    );
    let error = migrate(&urls[..1]).await.unwrap_err();
    assert!(matches!(error, ShardsError::Size(_)), "{error}");
    let twice = [urls[0].clone(), urls[0].clone()];
    for error in [
        open(&twice).await.unwrap_err(),
        migrate(&twice).await.unwrap_err(),
    ] {
        assert!(is_second_of_the_same(&error), "{error}");
    }

    let others = Databases::new(2).await;
    others.migrate(2).await.unwrap();
    // Also where it is another shard than its place says.
    for other in others.urls(2) {
        let mixed = [urls[0].clone(), other];
        for error in [
            open(&mixed).await.unwrap_err(),
            migrate(&mixed).await.unwrap_err(),
            described(&mixed).await.unwrap_err(),
        ] {
            assert!(
                matches!(error, ShardsError::OtherSet { number: 1 }),
                "{error}"
            );
        }
    }
    described(&urls[..2]).await.unwrap();
}

/// What is said of a set by a look at each of its databases.
async fn described(urls: &[String]) -> Result<(), ShardsError> {
    let mut found = Vec::new();
    for url in urls {
        let described = PostgresStore::describe(url, &PostgresOptions::default()).await;
        found.push(described.unwrap());
    }
    let found: Vec<Option<&Description>> = found.iter().map(Some).collect();
    Description::are_a_set(&found)
}

fn is_second_of_the_same(error: &ShardsError) -> bool {
    let twice = matches!(
        error,
        ShardsError::GivenTwice {
            number: 1,
            first: 0
        }
    );
    twice && error.number() == Some(1)
}

#[tokio::test]
async fn a_migration_is_advised_only_where_it_would_not_be_refused() {
    let (ours, theirs) = (Databases::new(3).await, Databases::new(2).await);
    theirs.migrate(2).await.unwrap();
    let urls = ours.urls(3);
    let options = PostgresOptions::default();
    for url in &urls[..2] {
        PostgresStore::migrate(url, &options).await.unwrap();
    }
    let error = open(&urls[..2]).await.unwrap_err();
    assert!(
        matches!(error, ShardsError::NotYet { number: 0 }),
        "{error}"
    );
    // The first has no tables yet.
    let new = [urls[2].clone(), urls[1].clone()];
    let error = open(&new).await.unwrap_err();
    assert!(error.to_string().contains("migrate"), "{error}");
    for first in [&urls[0], &urls[2]] {
        let mixed = [first.clone(), theirs.urls(2)[1].clone()];
        for error in [
            open(&mixed).await.unwrap_err(),
            described(&mixed).await.unwrap_err(),
        ] {
            assert!(
                matches!(error, ShardsError::OtherSet { number: 1 }),
                "{error}"
            );
        }
    }
    let store = ours.0[1].open(options.clone()).await;
    submit(&store, "a").await;
    for error in [
        open(&urls[..2]).await.unwrap_err(),
        described(&urls[..2]).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, ShardsError::HasJobs { number: 1 }),
            "{error}"
        );
    }
    // Nothing is made where it is refused.
    let error = migrate(&new).await.unwrap_err();
    assert!(
        matches!(error, ShardsError::HasJobs { number: 1 }),
        "{error}"
    );
    let error = open(&urls[2..]).await.unwrap_err();
    assert!(
        matches!(
            error,
            ShardsError::Open {
                source: OpenError::NoSchema,
                ..
            }
        ),
        "{error}"
    );
    store.close().await.unwrap();
}

#[tokio::test]
async fn only_the_first_may_have_had_jobs_and_no_node_may_be_at_work() {
    let databases = Databases::new(2).await;
    let urls = databases.urls(2);
    let error = migrate(&[urls[0].clone(), urls[0].clone()])
        .await
        .unwrap_err();
    assert!(is_second_of_the_same(&error), "{error}");

    let second = databases.0[1].open(PostgresOptions::default());
    PostgresStore::migrate(&urls[1], &PostgresOptions::default())
        .await
        .unwrap();
    let second = second.await;
    join(&second, 7).await;
    let error = migrate(&urls).await.unwrap_err();
    assert!(
        matches!(&error, ShardsError::InUse { number: 1, url } if **url == *"http://7"),
        "{error}"
    );
    second.leave().await.unwrap();
    submit(&second, "a").await;
    let error = migrate(&urls).await.unwrap_err();
    assert!(
        matches!(error, ShardsError::HasJobs { number: 1 }),
        "{error}"
    );
    // It may be the first.
    let turned = [urls[1].clone(), urls[0].clone()];
    assert_eq!(migrate(&turned).await.unwrap(), (0, 2));
    let store = open(&turned).await.unwrap();
    assert_eq!(listed(&store).await.len(), 1);
}

#[tokio::test]
async fn who_opened_a_database_before_it_came_to_a_set_gives_no_ids_and_is_no_node() {
    let databases = Databases::new(2).await;
    let options = PostgresOptions::default();
    PostgresStore::migrate(&databases.0[0].url(), &options)
        .await
        .unwrap();
    let before = databases.0[0].open(options).await;
    join(&before, 1).await;
    before.leave().await.unwrap();
    databases.migrate(2).await.unwrap();
    for error in [
        before.reserve_ids(1).await.map(drop).unwrap_err(),
        before
            .join(&"http://1".into(), crate::sharing::MINUTE)
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(error.to_string().contains("was changed"), "{error}");
    }
    assert_eq!(before.nodes().await.unwrap(), []);
    let store = databases.open(2).await.unwrap();
    submit(&store, "a").await;
}

#[tokio::test]
async fn a_set_that_was_made_in_part_is_made_to_its_end() {
    let databases = Databases::new(3).await;
    databases.migrate(2).await.unwrap();
    let store = databases.open(2).await.unwrap();
    let mut ids = BTreeSet::new();
    for number in 0..10 {
        ids.insert(submit(&store, &format!("tag-{number}")).await);
    }
    store.close().await.unwrap();
    databases.migrate(3).await.unwrap();
    // As if what was committed last had not been.
    let undo = "DELETE FROM kjob_shards WHERE generation = 2";
    databases.0[0].execute(undo).await;
    for count in [2, 3] {
        let error = databases.open(count).await.unwrap_err();
        let is_told = matches!(
            error,
            ShardsError::Missing { .. } | ShardsError::NotYet { .. }
        );
        assert!(is_told, "{count}: {error}");
    }
    assert_eq!(databases.migrate(3).await.unwrap(), (2, 3));
    let store = databases.open(3).await.unwrap();
    assert_eq!(listed(&store).await, ids);

    // The same before there is a set at all.
    let databases = Databases::new(2).await;
    databases.migrate(2).await.unwrap();
    databases.0[0].execute("DELETE FROM kjob_shards").await;
    let alone = databases.0[0].open(PostgresOptions::default()).await;
    submit(&alone, "a").await;
    alone.close().await.unwrap();
    assert_eq!(databases.migrate(2).await.unwrap(), (0, 2));
    let store = databases.open(2).await.unwrap();
    assert_eq!(listed(&store).await.len(), 1);
}

#[tokio::test]
async fn a_set_that_is_whole_is_brought_up_to_date_while_nodes_work() {
    let databases = Databases::new(2).await;
    databases.migrate(2).await.unwrap();
    let store = databases.open(2).await.unwrap();
    let url = "http://1".into();
    store.shards()[1]
        .join(&url, crate::sharing::MINUTE)
        .await
        .unwrap();
    assert_eq!(databases.migrate(2).await.unwrap(), (2, 2));
    let error = databases.migrate(1).await.unwrap_err();
    assert!(matches!(error, ShardsError::Size(_)), "{error}");
}

#[tokio::test]
async fn a_database_of_another_set_is_not_taken_though_it_has_had_no_jobs() {
    let (ours, theirs) = (Databases::new(1).await, Databases::new(2).await);
    theirs.migrate(2).await.unwrap();
    let mixed = [ours.urls(1)[0].clone(), theirs.urls(2)[1].clone()];
    let error = migrate(&mixed).await.unwrap_err();
    assert!(
        matches!(error, ShardsError::OtherSet { number: 1 }),
        "{error}"
    );
    theirs.open(2).await.unwrap();
}

#[tokio::test]
async fn ids_that_are_taken_while_a_set_is_made_are_waited_for_or_refused() {
    let schema = Schema::new();
    schema.prepare(true);
    let store = Arc::new(schema.open(PostgresOptions::default()).await);
    let maker = schema.client().await;
    let change = "BEGIN; UPDATE kjob_counters SET next = next + 1 WHERE name = 'shards'";
    maker.batch_execute(change).await.unwrap();
    let taker = store.clone();
    let taken = tokio::spawn(async move { taker.reserve_ids(1).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!taken.is_finished());
    maker.batch_execute("COMMIT").await.unwrap();
    let error = taken.await.unwrap().map(drop).unwrap_err();
    assert!(error.to_string().contains("was changed"), "{error}");
}

#[tokio::test]
async fn earlier_sizes_are_asked_for_tags_as_long_as_there_are_jobs_of_them() {
    let databases = Databases::new(3).await;
    let first = &databases.0[0];
    let options = PostgresOptions::default();
    PostgresStore::migrate(&first.url(), &options)
        .await
        .unwrap();
    let alone = first.open(options).await;
    let early = submit(&alone, "early").await;
    alone.close().await.unwrap();
    // How many shards a tag may be in at most.
    let asked = |store: &ShardedStore| {
        let tags = (0..50).map(|it| format!("tag-{it}").parse().unwrap());
        let all = tags.map(|tag| store.placement().shards_of(&Owner::new("ann"), &tag).len());
        all.max().unwrap()
    };
    databases.migrate(2).await.unwrap();
    let store = databases.open(2).await.unwrap();
    assert_eq!(asked(&store), 2);
    let later = [submit(&store, "later").await, submit(&store, "late").await];
    store.close().await.unwrap();
    databases.migrate(3).await.unwrap();
    let store = databases.open(3).await.unwrap();
    assert_eq!(asked(&store), 3);
    store.close().await.unwrap();

    first
        .execute(&format!("DELETE FROM kjob_live WHERE id = {early}"))
        .await;
    let store = databases.open(3).await.unwrap();
    assert_eq!(asked(&store), 2);
    assert_eq!(listed(&store).await, later.into());
    store.close().await.unwrap();
    for schema in &databases.0 {
        schema.execute("DELETE FROM kjob_live").await;
    }
    let store = databases.open(3).await.unwrap();
    assert_eq!(asked(&store), 1);
    let new = submit(&store, "new").await;
    assert!(new > later[0] && new > later[1]);
}
