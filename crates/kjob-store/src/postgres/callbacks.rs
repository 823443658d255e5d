//! Callbacks of ended jobs: claimed, and tried.

use std::sync::LazyLock;

use kjob_core::{
    CallbackOutcome, CallbackPhase, CallbackState, CallbackTry, ClaimedCallbacks, JobId, Refused,
    StepError, StoreError, Timestamp,
};
use kjob_proto::Text;

use super::row::{ENDED, ENDED_FROM, callback, columns, job};
use super::shared::Shared;

/// Claims callbacks that are due; whoever claims at the same time gets others.
const CLAIM: &str = "WITH due AS (
        SELECT id, due_at FROM kjob_callbacks WHERE due_at <= $1 AND expires_at > $1
        ORDER BY due_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE kjob_callbacks c SET due_at = GREATEST($3::bigint, $1 + 1), claimed_by = $4
    FROM due WHERE c.id = due.id RETURNING c.id, due.due_at";

// Not by min(), for the reason that NEXT_RIPE of claims has.
const NEXT: &str = "SELECT due_at FROM kjob_callbacks WHERE due_at IS NOT NULL AND expires_at > $1
    ORDER BY due_at, id LIMIT 1";

static JOBS: LazyLock<String> = LazyLock::new(|| {
    let columns = columns(ENDED, "NULL::bytea", "NULL::bytea");
    format!("SELECT {columns} FROM {ENDED_FROM} WHERE e.id = ANY ($1) AND e.expires_at > $2")
});

const NOTE: &str =
    "UPDATE kjob_callbacks SET phase = $3, attempts = LEAST(attempts + 1, 4294967295),
        due_at = $4, next_at = $4, tried_at = $2, http_status = $5, error = $6, claimed_by = NULL
    WHERE id = $1 AND due_at IS NOT NULL AND expires_at > $2
    RETURNING phase, attempts, next_at, tried_at, http_status, error";

const RELEASE: &str = "UPDATE kjob_callbacks SET due_at = next_at, claimed_by = NULL
    WHERE claimed_by = $1 AND due_at IS NOT NULL";

impl Shared {
    pub(crate) async fn claim_callbacks(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<ClaimedCallbacks, StoreError> {
        let doing = "claim callbacks";
        let (at, until) = (now.as_millis(), until.as_millis());
        let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let claimed = self
            .write(doing, CLAIM, &[&at, &limit, &until, &self.handle])
            .await?;
        let mut due: Vec<(i64, i64)> = claimed.iter().map(|row| (row.get(1), row.get(0))).collect();
        due.sort_unstable();
        let mut jobs = Vec::new();
        if !due.is_empty() {
            let ids: Vec<i64> = due.iter().map(|(_, id)| *id).collect();
            for row in &self.query(doing, &JOBS, &[&ids, &at]).await? {
                jobs.push(job(row)?);
            }
            let place = |id: JobId| due.iter().position(|(_, due)| *due == id.get());
            jobs.sort_by_key(|job| place(job.header.id));
        }
        let next = self.query(doing, NEXT, &[&at]).await?;
        let next_at = next.first().map(|row| row.get(0));
        Ok(ClaimedCallbacks {
            jobs,
            next_at: next_at.map(Timestamp::from_millis),
        })
    }

    pub(crate) async fn note_callback(
        &self,
        id: JobId,
        tried: CallbackTry,
        at: Timestamp,
    ) -> Result<CallbackState, StepError> {
        let (phase, next_at, error) = match tried.outcome {
            CallbackOutcome::Delivered => (CallbackPhase::Delivered, None, None),
            CallbackOutcome::Retry { error, at } => (CallbackPhase::Pending, Some(at), Some(error)),
            CallbackOutcome::GiveUp { error } => (CallbackPhase::GivenUp, None, Some(error)),
        };
        let phase = i16::from(phase as u8);
        let next_at = next_at.map(Timestamp::as_millis);
        let status = tried.http_status.map(i32::from);
        let error = error.as_ref().map(|error: &Text| &error.as_bytes()[..]);
        let noted = self
            .write(
                "note a callback's try",
                NOTE,
                &[
                    &id.get(),
                    &at.as_millis(),
                    &phase,
                    &next_at,
                    &status,
                    &error,
                ],
            )
            .await?;
        if let Some(row) = noted.first() {
            return Ok(callback(row, 0, row.get(0))?);
        }
        match self.state(id, at).await? {
            Some(_) => Err(Refused::NoCallback.into()),
            None => Err(StepError::Unknown(id)),
        }
    }

    /// Lets others have what this handle has claimed.
    pub(crate) async fn release_callbacks(&self) -> Result<(), StoreError> {
        self.writer
            .query("release callbacks", RELEASE, &[&self.handle])
            .await?;
        Ok(())
    }
}
