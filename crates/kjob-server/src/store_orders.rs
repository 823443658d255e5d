//! What an operator may ask of a store, and what it answers: the same whether the store is open in
//! this process or in a server that is asked over its control socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::RouteError;
use kjob_core::purge::{Purge, Purged, purge};
use kjob_core::{Owner, Status, Timestamp, Usage};
use kjob_store::embedded::{CheckReport, DiskUse, EmbeddedStore, StoreStats};
use serde::{Deserialize, Serialize};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub(crate) enum Order {
    /// Count.
    Stats,
    /// Copy it to a new directory, given as an absolute path.
    Backup { dir: PathBuf },
    /// Give back all space that can be given back.
    Compact,
    /// Drop ended jobs.
    Purge(PurgeOrder),
}

/// Which ended jobs are to be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PurgeOrder {
    pub(crate) older_than_ms: Option<u64>,
    /// Words of the wire: `DONE`, `ERROR`, `CANCELLED`; empty for all.
    pub(crate) statuses: Vec<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) dry_run: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub(crate) enum Answer {
    Check(CheckAnswer),
    Stats(StatsAnswer),
    Backup(BackupAnswer),
    Compact(CompactAnswer),
    Purge(PurgeAnswer),
}

/// See [`CheckReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckAnswer {
    pub(crate) segments: u64,
    pub(crate) jobs: u64,
    pub(crate) blob_files: u64,
    pub(crate) in_use: bool,
    pub(crate) findings: Vec<FindingAnswer>,
}

/// One thing that is damaged; see [`Finding`](kjob_store::embedded::Finding).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FindingAnswer {
    pub(crate) file: String,
    pub(crate) table: Option<String>,
    pub(crate) record: Option<String>,
    pub(crate) what: String,
}

/// See [`StoreStats`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatsAnswer {
    pub(crate) format: i64,
    pub(crate) next_id: i64,
    pub(crate) jobs: JobsAnswer,
    pub(crate) bytes: u64,
    pub(crate) expired_bytes: u64,
    pub(crate) owners: u64,
    /// Milliseconds since the epoch.
    pub(crate) oldest_received_at: Option<i64>,
    pub(crate) disk: DiskAnswer,
    pub(crate) segments: Vec<SegmentAnswer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobsAnswer {
    pub(crate) queued: u64,
    pub(crate) running: u64,
    pub(crate) cancelling: u64,
    pub(crate) ended: u64,
    pub(crate) expired: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskAnswer {
    pub(crate) total: u64,
    pub(crate) databases: u64,
    pub(crate) logs: u64,
    pub(crate) blobs: u64,
    pub(crate) blob_files: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentAnswer {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) first_id: i64,
    pub(crate) is_sealed: bool,
    pub(crate) jobs: u64,
    pub(crate) live: u64,
    pub(crate) expired: u64,
    pub(crate) bytes: u64,
    pub(crate) expired_bytes: u64,
    pub(crate) disk: DiskAnswer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupAnswer {
    pub(crate) dir: String,
    pub(crate) jobs: u64,
    pub(crate) segments: u64,
    pub(crate) blob_files: u64,
    pub(crate) bytes: u64,
    pub(crate) next_id: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompactAnswer {
    pub(crate) jobs: u64,
    pub(crate) bytes: u64,
    pub(crate) disk_before: u64,
    pub(crate) disk_after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PurgeAnswer {
    pub(crate) dry_run: bool,
    pub(crate) total: UsageAnswer,
    pub(crate) done: UsageAnswer,
    pub(crate) error: UsageAnswer,
    pub(crate) cancelled: UsageAnswer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsageAnswer {
    pub(crate) jobs: u64,
    pub(crate) bytes: u64,
}

impl Order {
    /// Its word, as on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Stats => "stats",
            Self::Backup { .. } => "backup",
            Self::Compact => "compact",
            Self::Purge(_) => "purge",
        }
    }

    /// Does it, in a store that is open here.
    pub(crate) async fn carry_out(
        self,
        store: &Arc<EmbeddedStore>,
        now: Timestamp,
    ) -> Result<Answer, String> {
        fn words(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        match self {
            Self::Stats => {
                let stats = store.stats(now).await.map_err(words)?;
                Ok(Answer::Stats(stats.into()))
            }
            Self::Backup { dir } => {
                let report = store.backup(&dir).await.map_err(words)?;
                Ok(Answer::Backup(BackupAnswer {
                    dir: dir.display().to_string(),
                    jobs: report.jobs,
                    segments: report.segments,
                    blob_files: report.blobs,
                    bytes: report.bytes,
                    next_id: report.next_id,
                }))
            }
            Self::Compact => {
                let done = store.compact(now).await.map_err(words)?;
                Ok(Answer::Compact(CompactAnswer {
                    jobs: done.jobs,
                    bytes: done.bytes,
                    disk_before: done.disk_before,
                    disk_after: done.disk_after,
                }))
            }
            Self::Purge(order) => {
                let wanted = order.purge(now)?;
                let done = purge(store.clone(), &wanted, now).await.map_err(words)?;
                Ok(Answer::Purge(PurgeAnswer::new(order.dry_run, &done)))
            }
        }
    }
}

impl PurgeOrder {
    fn purge(&self, now: Timestamp) -> Result<Purge, String> {
        let mut statuses = Vec::new();
        for word in &self.statuses {
            match word.parse::<Status>() {
                Ok(Status::Running) | Err(_) => {
                    return Err(format!(
                        "status: {word:?} is not one of DONE, ERROR, CANCELLED"
                    ));
                }
                Ok(status) => statuses.push(status),
            }
        }
        let endpoint = self.endpoint.as_deref().map(str::parse).transpose();
        let ended_by = self.older_than_ms.map(|age| {
            let age = i64::try_from(age).unwrap_or(i64::MAX);
            Timestamp::from_millis(now.as_millis().saturating_sub(age))
        });
        Ok(Purge {
            owner: self.owner.as_deref().map(Owner::new),
            statuses,
            endpoint: endpoint.map_err(|error: RouteError| error.to_string())?,
            ended_by,
            dry_run: self.dry_run,
        })
    }

    /// Sets the age from which on ended jobs are dropped.
    pub(crate) fn set_older_than(&mut self, age: Option<Duration>) {
        self.older_than_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    }
}

impl From<CheckReport> for CheckAnswer {
    fn from(report: CheckReport) -> Self {
        let findings = report.findings.into_iter().map(|finding| FindingAnswer {
            file: finding.file.display().to_string(),
            table: finding.table.map(str::to_owned),
            record: finding.record,
            what: finding.what,
        });
        Self {
            segments: report.segments,
            jobs: report.jobs,
            blob_files: report.blobs,
            in_use: report.in_use,
            findings: findings.collect(),
        }
    }
}

impl From<StoreStats> for StatsAnswer {
    fn from(stats: StoreStats) -> Self {
        let segments = stats.segments.iter().map(|segment| SegmentAnswer {
            number: segment.number,
            generation: segment.generation,
            first_id: segment.first_id,
            is_sealed: segment.is_sealed,
            jobs: segment.jobs,
            live: segment.live,
            expired: segment.expired,
            bytes: segment.bytes,
            expired_bytes: segment.expired_bytes,
            disk: segment.disk.into(),
        });
        Self {
            format: stats.format,
            next_id: stats.next_id,
            jobs: JobsAnswer {
                queued: stats.jobs.queued,
                running: stats.jobs.running,
                cancelling: stats.jobs.cancelling,
                ended: stats.jobs.ended,
                expired: stats.jobs.expired,
            },
            bytes: stats.bytes,
            expired_bytes: stats.expired_bytes,
            owners: stats.owners,
            oldest_received_at: stats.oldest_received_at.map(Timestamp::as_millis),
            disk: stats.disk.into(),
            segments: segments.collect(),
        }
    }
}

impl From<DiskUse> for DiskAnswer {
    fn from(disk: DiskUse) -> Self {
        Self {
            total: disk.total(),
            databases: disk.databases,
            logs: disk.logs,
            blobs: disk.blobs,
            blob_files: disk.blob_files,
        }
    }
}

impl PurgeAnswer {
    fn new(dry_run: bool, done: &Purged) -> Self {
        Self {
            dry_run,
            total: done.total().into(),
            done: done.done.into(),
            error: done.error.into(),
            cancelled: done.cancelled.into(),
        }
    }
}

impl From<Usage> for UsageAnswer {
    fn from(usage: Usage) -> Self {
        Self {
            jobs: usage.jobs,
            bytes: usage.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn orders_come_back_from_their_text() {
        let orders = [
            Order::Stats,
            Order::Compact,
            Order::Backup {
                dir: "/some/where".into(),
            },
            Order::Purge(PurgeOrder {
                older_than_ms: Some(5),
                statuses: vec!["DONE".to_owned()],
                ..PurgeOrder::default()
            }),
        ];
        for order in orders {
            let text = serde_json::to_string(&order).unwrap();
            assert!(text.contains(order.name()), "{text}");
            assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        }
    }

    #[test]
    fn what_cannot_be_purged_is_named() {
        let now = Timestamp::from_millis(10);
        for word in ["RUNNING", "done", ""] {
            let order = PurgeOrder {
                statuses: vec![word.to_owned()],
                ..PurgeOrder::default()
            };
            let error = order.purge(now).unwrap_err();
            assert!(error.contains(&format!("{word:?}")), "{error}");
        }
        let order = PurgeOrder {
            endpoint: Some("report".to_owned()),
            ..PurgeOrder::default()
        };
        assert!(order.purge(now).unwrap_err().contains("\"report\""));
        let order = PurgeOrder {
            older_than_ms: Some(u64::MAX),
            ..PurgeOrder::default()
        };
        let by = order.purge(now).unwrap().ended_by.unwrap();
        assert!(by < Timestamp::from_millis(i64::MIN + 100), "{by:?}");
    }

    fn order() -> impl Strategy<Value = Order> {
        let word = || prop::option::of("\\PC{0,12}");
        let statuses = prop::collection::vec("(DONE|ERROR|CANCELLED|RUNNING|\\PC{0,3})", 0..3);
        let age = any::<Option<u64>>();
        let purge = (age, statuses, word(), word(), any::<bool>());
        prop_oneof![
            Just(Order::Stats),
            Just(Order::Compact),
            "\\PC{0,12}".prop_map(|dir| Order::Backup { dir: dir.into() }),
            purge.prop_map(|(older_than_ms, statuses, endpoint, owner, dry_run)| {
                Order::Purge(PurgeOrder {
                    older_than_ms,
                    statuses,
                    endpoint,
                    owner,
                    dry_run,
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_order_comes_back_and_purges_nothing_that_is_not_over(order in order(), now: i64) {
            let text = serde_json::to_string(&order).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Order>(&text).unwrap(), &order);
            let now = Timestamp::from_millis(now);
            if let Order::Purge(order) = order
                && let Ok(purge) = order.purge(now)
            {
                prop_assert!(!purge.statuses.contains(&Status::Running));
                prop_assert!(purge.ended_by.is_none_or(|by| by <= now));
                prop_assert_eq!(purge.dry_run, order.dry_run);
            }
        }

        #[test]
        fn any_bytes_are_an_order_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            text in "\\{\"order\":\"(stats|backup|purge|compact)\"(,\"(dir|statuses|dry_run|older_than_ms)\":(-?[0-9]{1,25}|true|null|\\[\\]|\"x\")){0,3}\\}?",
        ) {
            let _ = serde_json::from_slice::<Order>(&bytes);
            let _ = serde_json::from_str::<Order>(&text);
        }
    }
}
