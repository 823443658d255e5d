//! The tables: their versions, and how a database gets them.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::OpenError;
use super::error::sql;
use super::fitting::Known;
use super::shard_set::{CHANGES, KNOWN, NEXT_JOB, OWN_ID, ShardSet};

/// The version of the tables that this program works with.
pub const VERSION: i64 = 3;

/// A change of the tables. Once released it is never changed.
struct Migration {
    version: i64,
    /// The oldest version whose programs can work with the tables afterwards. A migration that only adds
    /// leaves it as it was, so that nodes can be brought up to date one after the other.
    works_with: i64,
    /// What every database takes.
    text: &'static str,
}

const MIGRATIONS: [Migration; 3] = [
    Migration {
        version: 1,
        works_with: 1,
        text: include_str!("migrations/0001.sql"),
    },
    Migration {
        version: 2,
        works_with: 1,
        text: include_str!("migrations/0002.sql"),
    },
    Migration {
        version: 3,
        works_with: 1,
        text: include_str!("migrations/0003.sql"),
    },
];

const ENDED: &str = include_str!("migrations/0001_ended.sql");
const ENDED_INDEXES: &str = include_str!("migrations/0001_ended_indexes.sql");
const POSTGRESQL: &str = include_str!("migrations/0001_postgresql.sql");

const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS kjob_schema (
        version bigint NOT NULL PRIMARY KEY,
        works_with bigint NOT NULL,
        is_partitioned boolean NOT NULL,
        migrated_at timestamptz NOT NULL DEFAULT now()
    )";

/// What a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Product {
    PostgreSql,
    /// PostgreSQL's own code on another store, where changes of tables may be in no transaction.
    Yugabyte,
    /// Neither partitions nor storage parameters are as PostgreSQL has them.
    Cockroach,
}

impl Product {
    /// What says this of itself as `version()`.
    fn of(version: &str) -> Self {
        if version.contains("CockroachDB") {
            Self::Cockroach
        } else if version.contains("-YB-") {
            Self::Yugabyte
        } else {
            Self::PostgreSql
        }
    }

    /// Whether a partition and what the tables say of it come and go together.
    fn has_partitions(self) -> bool {
        match self {
            Self::PostgreSql => true,
            Self::Yugabyte | Self::Cockroach => false,
        }
    }
}

/// What is known of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schema {
    /// Their version, which may be newer than this program's.
    pub(crate) version: i64,
    pub(crate) is_partitioned: bool,
    pub(crate) shards: Shards,
}

/// What the tables say of a set of databases, and how often that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shards {
    pub(crate) set: ShardSet,
    pub(crate) changes: i64,
    /// The first id that was not given.
    pub(crate) next_job: i64,
    /// Who the database is.
    own_id: Vec<u8>,
}

impl Shards {
    /// What says whether the database goes together with others.
    pub(super) fn known(&self) -> Known {
        Known {
            own_id: self.own_id.clone(),
            set: self.set.clone(),
            next_job: self.next_job,
        }
    }
}

/// Brings the tables to [`VERSION`]; gives the versions that were made.
pub(crate) async fn migrate(client: &Client, partitioned: bool) -> Result<Vec<i64>, OpenError> {
    let failed = |error: tokio_postgres::Error| {
        let is_forbidden = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
        let source = sql("make the tables")(error);
        match is_forbidden {
            true => OpenError::MayNotMakeTables { source },
            false => OpenError::Store(source),
        }
    };
    let product = product(client).await?;
    let is_partitioned = partitioned && product.has_partitions();
    while let Err(error) = client.batch_execute(VERSIONS).await {
        // PostgreSQL's `IF NOT EXISTS` does not see what others are making at this moment.
        let is_made_by_another = [
            SqlState::DUPLICATE_OBJECT,
            SqlState::DUPLICATE_TABLE,
            SqlState::UNIQUE_VIOLATION,
        ];
        if !error
            .code()
            .is_some_and(|code| is_made_by_another.contains(code))
        {
            return Err(failed(error));
        }
    }
    if let Some(newest) = client.query_opt(NEWEST, &[]).await.map_err(failed)? {
        refuse_newer(&newest)?;
    }
    let mut made = Vec::new();
    for migration in &MIGRATIONS {
        let run = async {
            client.batch_execute("BEGIN").await?;
            let known = "SELECT version, is_partitioned FROM kjob_schema ORDER BY version";
            let known = client.query(known, &[]).await?;
            if known
                .iter()
                .any(|row| row.get::<_, i64>(0) == migration.version)
            {
                client.batch_execute("ROLLBACK").await?;
                return Ok(false);
            }
            // Tables that are there stay what they are, whatever is asked for now.
            let is_partitioned = known.first().map_or(is_partitioned, |row| row.get(1));
            let text = script(migration, product, is_partitioned);
            client.batch_execute(&text).await?;
            client.batch_execute("COMMIT").await?;
            Ok(true)
        };
        match run.await as Result<bool, tokio_postgres::Error> {
            Ok(true) => made.push(migration.version),
            Ok(false) => {}
            Err(error) => {
                client.batch_execute("ROLLBACK").await.map_err(failed)?;
                // Somebody else has made them meanwhile; that was committed before we were told.
                if error.code() != Some(&SqlState::UNIQUE_VIOLATION) {
                    return Err(failed(error));
                }
            }
        }
    }
    Ok(made)
}

fn script(migration: &Migration, product: Product, is_partitioned: bool) -> String {
    let Migration {
        version,
        works_with,
        text,
    } = migration;
    // First: others who do the same wait for this row, and then fail by it.
    let mut script = format!(
        "INSERT INTO kjob_schema (version, works_with, is_partitioned)
        VALUES ({version}, {works_with}, {is_partitioned});\n{text}"
    );
    if *version == 1 {
        let by = if is_partitioned {
            " PARTITION BY LIST (bucket)"
        } else {
            ""
        };
        script += &format!("{}{by};\n{ENDED_INDEXES}", ENDED.trim_end());
        if product == Product::PostgreSql {
            script += POSTGRESQL;
        }
    }
    script
}

/// The newest of the versions that the tables went through.
const NEWEST: &str = "SELECT version, works_with, is_partitioned FROM kjob_schema
    ORDER BY version DESC LIMIT 1";

/// Refuses tables of a version that this program would misread.
fn refuse_newer(newest: &Row) -> Result<(), OpenError> {
    let (found, needed): (i64, i64) = (newest.get(0), newest.get(1));
    if needed > VERSION {
        return Err(OpenError::NewerSchema {
            found,
            needed,
            supported: VERSION,
        });
    }
    Ok(())
}

/// Looks whether this program can work with the tables.
pub(crate) async fn check(client: &Client) -> Result<Schema, OpenError> {
    let row = match client.query_opt(NEWEST, &[]).await {
        Ok(Some(row)) => row,
        Ok(None) => return Err(OpenError::NoSchema),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            return Err(OpenError::NoSchema);
        }
        Err(error) => return Err(sql("look at the tables")(error).into()),
    };
    let found: i64 = row.get(0);
    if found < VERSION {
        return Err(OpenError::OlderSchema {
            found,
            supported: VERSION,
        });
    }
    refuse_newer(&row)?;
    let failed = |error| OpenError::Store(sql("look at the set of databases")(error));
    // This first: if the other changes in between, what was known before counts, and that is refused.
    let changes = client.query_one(CHANGES, &[]).await.map_err(failed)?;
    let known = client.query(KNOWN, &[]).await.map_err(failed)?;
    let next_job = client.query_one(NEXT_JOB, &[]).await.map_err(failed)?;
    let own_id = client.query_one(OWN_ID, &[]).await.map_err(failed)?;
    Ok(Schema {
        version: found,
        is_partitioned: row.get(2),
        shards: Shards {
            set: ShardSet::read(&known),
            changes: changes.get(0),
            next_job: next_job.get(0),
            own_id: own_id.get(0),
        },
    })
}

async fn product(client: &Client) -> Result<Product, OpenError> {
    let failed = |error| OpenError::Store(sql("ask what database this is")(error));
    let row = client
        .query_one("SELECT version()", &[])
        .await
        .map_err(failed)?;
    Ok(Product::of(row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_only_where_they_are_made_in_transactions() {
        for (version, product, has_partitions) in [
            (
                "PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc",
                Product::PostgreSql,
                true,
            ),
            (
                "PostgreSQL 11.2-YB-2.20.1.0-b0 on x86_64-pc-linux-gnu, compiled by clang",
                Product::Yugabyte,
                false,
            ),
            (
                "PostgreSQL 15.12-YB-2025.1.0.1-b0 on x86_64-pc-linux-gnu, compiled by clang",
                Product::Yugabyte,
                false,
            ),
            (
                "CockroachDB CCL v23.2.0 (x86_64-pc-linux-gnu, built 2024/01/16, go1.21.5 X:nocoverageredesign)",
                Product::Cockroach,
                false,
            ),
        ] {
            assert_eq!(Product::of(version), product, "{version}");
            assert_eq!(product.has_partitions(), has_partitions, "{version}");
        }
    }
}
