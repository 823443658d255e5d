//! Versions of the tables.

use kjob_core::Store;
use kjob_store::postgres::{OpenError, PostgresOptions, PostgresStore, TABLES_VERSION};

use crate::jobs::id;
use crate::support::Schema;

async fn open(schema: &Schema) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(&schema.url(), PostgresOptions::default()).await
}

#[tokio::test]
async fn a_database_without_tables_is_told_from_one_of_another_version() {
    let schema = Schema::new();
    let none = open(&schema).await.unwrap_err();
    assert!(matches!(none, OpenError::NoSchema), "{none}");
    assert!(none.to_string().contains("kjob-server migrate"));
    schema.prepare(true);
    let store = open(&schema).await.unwrap();
    let first = id(&store).await;

    // A later version to which only something was added, and one that this program would misread.
    schema
        .execute("INSERT INTO kjob_schema VALUES (900, 1, true)")
        .await;
    assert!(id(&open(&schema).await.unwrap()).await > first);
    schema
        .execute("INSERT INTO kjob_schema VALUES (901, 900, true)")
        .await;
    let newer = open(&schema).await.unwrap_err();
    assert_eq!(
        newer.to_string(),
        "the database's tables are of version 901, which needs programs that know version 900; this one \
         knows 3: use a newer kjob"
    );

    schema
        .execute("DELETE FROM kjob_schema; INSERT INTO kjob_schema VALUES (0, 0, true)")
        .await;
    let older = open(&schema).await.unwrap_err();
    assert_eq!(
        older.to_string(),
        "the database's tables are of version 0, this program needs 3: run kjob-server migrate"
    );
}

#[tokio::test]
async fn newer_tables_are_migrated_by_nobody_who_would_misread_them() {
    let schema = Schema::new();
    schema.prepare(true);
    let options = PostgresOptions::default();
    let url = schema.url();
    schema
        .execute("INSERT INTO kjob_schema VALUES (900, 1, true)")
        .await;
    let made = PostgresStore::migrate(&url, &options).await.unwrap();
    assert_eq!(made, [] as [i64; 0]);
    let found = PostgresStore::describe(&url, &options).await.unwrap();
    assert_eq!((found.tables.unwrap(), TABLES_VERSION), (900, 3));

    // Also where there is something that it would make.
    schema
        .execute(
            "INSERT INTO kjob_schema VALUES (901, 900, true);
            DELETE FROM kjob_schema WHERE version = 3",
        )
        .await;
    let newer = PostgresStore::migrate(&url, &options).await.unwrap_err();
    assert!(
        matches!(
            newer,
            OpenError::NewerSchema {
                found: 901,
                needed: 900,
                supported: 3
            }
        ),
        "{newer}"
    );
    let opened = open(&schema).await.unwrap_err();
    assert_eq!(newer.to_string(), opened.to_string());
    let rows = "SELECT count(*) FROM kjob_schema WHERE version = 3";
    assert_eq!(schema.number(rows).await, 0);
}

#[tokio::test]
async fn a_database_of_an_older_version_is_brought_up_to_date_with_all_that_is_in_it() {
    for is_partitioned in [true, false] {
        let schema = Schema::new();
        schema.prepare(is_partitioned);
        let first = id(&open(&schema).await.unwrap()).await;
        schema
            .execute(
                "DROP TABLE kjob_agreed, kjob_shards; DELETE FROM kjob_counters WHERE name = 'shards';
                DELETE FROM kjob_schema WHERE version > 1",
            )
            .await;
        let older = open(&schema).await.unwrap_err();
        assert!(matches!(older, OpenError::OlderSchema { found: 1, .. }));
        let options = PostgresOptions::default();
        let made = PostgresStore::migrate(&schema.url(), &options).await;
        assert_eq!(made.unwrap(), [2, 3]);
        assert!(id(&open(&schema).await.unwrap()).await > first);
        let row = "SELECT count(*) FROM kjob_schema WHERE version = 3 AND works_with = 1";
        assert_eq!(schema.number(row).await, 1);
        // What the tables are is not what a migration would make of new ones.
        let same = format!("{row} AND is_partitioned = {is_partitioned}");
        assert_eq!(schema.number(&same).await, 1, "{is_partitioned}");
    }
}

#[tokio::test]
async fn migrating_again_or_at_once_does_nothing_twice() {
    let schema = Schema::new();
    schema.prepare(true);
    let options = PostgresOptions::default();
    let again = PostgresStore::migrate(&schema.url(), &options)
        .await
        .unwrap();
    assert_eq!(again, [] as [i64; 0]);

    for _ in 0..10 {
        let schema = Schema::new();
        schema.make().await;
        let url = schema.url();
        let migrate = || PostgresStore::migrate(&url, &options);
        let made = tokio::join!(migrate(), migrate(), migrate());
        let made = [made.0, made.1, made.2].map(|made| made.unwrap().len());
        assert_eq!(made.iter().sum::<usize>(), 3);
        open(&schema).await.unwrap().close().await.unwrap();
    }
}
