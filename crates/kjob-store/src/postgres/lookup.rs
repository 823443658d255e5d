//! Whose a name is, and what a step that was not done ran into.

use std::sync::LazyLock;

use kjob_core::{
    Difference, Header, Job, JobId, JobTag, NewJob, Owner, Phase, State, StoreError, TagReuse,
    Timestamp,
};

use super::row::{COLUMN_COUNT, ENDED, ENDED_FROM, LIVE, columns, job, state};
use super::shared::Shared;
use super::submit::name_of;

/// Whom a name belongs to.
pub(crate) enum Found {
    /// The very call.
    Same(Box<Job>),
    /// Another call.
    Other { id: JobId, difference: Difference },
    /// Nobody.
    Free,
    /// This job, which does not need it any more.
    FreeFrom(i64),
    /// This job, whose id the tag carries, and which does not need it any more.
    FreeFromCarrier(i64),
}

const HAS_JOBS: &str = "SELECT EXISTS (SELECT 1 FROM kjob_live WHERE id <= $1)
    OR EXISTS (SELECT 1 FROM kjob_ended WHERE id <= $1)";

/// The job that has the name `$1`, if it is there at `$2`, and whether its payload is `$3`.
static BY_NAME: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT j.*, t.id FROM kjob_tags t LEFT JOIN LATERAL (
            SELECT {live}, l.payload = $3 AS is_same FROM kjob_live l WHERE l.id = t.id
            UNION ALL
            SELECT {ended}, e.payload = $3 FROM {ENDED_FROM} WHERE e.id = t.id AND e.expires_at > $2
        ) j ON true WHERE t.name = $1",
        live = columns(LIVE, "NULL::bytea", ""),
        ended = columns(ENDED, "NULL::bytea", "NULL::bytea"),
    )
});

/// The job `$1` of the owner `$4` with the tag `$5`, unless that was given to another.
static BY_CARRIED_ID: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {live}, l.payload = $3 AS is_same FROM kjob_live l
        WHERE l.id = $1 AND l.owner = $4 AND l.tag = $5
        UNION ALL
        SELECT {ended}, e.payload = $3 FROM {ENDED_FROM}
        WHERE e.id = $1 AND e.owner = $4 AND e.tag = $5 AND NOT e.is_tag_given AND e.expires_at > $2",
        live = columns(LIVE, "NULL::bytea", ""),
        ended = columns(ENDED, "NULL::bytea", "NULL::bytea"),
    )
});

const FIND_BY_NAME: &str = "SELECT t.id, EXISTS (SELECT 1 FROM kjob_live l WHERE l.id = t.id)
        OR EXISTS (SELECT 1 FROM kjob_ended e WHERE e.id = t.id AND e.expires_at > $2)
    FROM kjob_tags t WHERE t.name = $1";

const FIND_BY_CARRIED_ID: &str = "SELECT l.id FROM kjob_live l
    WHERE l.id = $1 AND l.owner = $3 AND l.tag = $4
    UNION ALL
    SELECT e.id FROM kjob_ended e
    WHERE e.id = $1 AND e.owner = $3 AND e.tag = $4 AND NOT e.is_tag_given AND e.expires_at > $2";

/// The states of the jobs `$1` that are there at `$2`: the columns that a state is read of.
const STATES: &str =
    "SELECT l.id, l.phase, l.progress, l.attempt, l.lease, l.not_before, l.started_at, NULL::bigint
    FROM kjob_live l WHERE l.id = ANY ($1)
    UNION ALL
    SELECT e.id, e.phase, e.progress, e.attempt, e.lease, NULL, e.started_at, e.ended_at
    FROM kjob_ended e WHERE e.id = ANY ($1) AND e.expires_at > $2";

impl Shared {
    /// Whether there may be a job whose id is no larger than that.
    pub(crate) async fn has_jobs_until(&self, id: i64) -> Result<bool, StoreError> {
        let rows = self.query("look for jobs", HAS_JOBS, &[&id]).await?;
        Ok(rows.first().is_none_or(|row| row.get(0)))
    }

    /// Whom the name of a job belongs to that is to be stored.
    pub(crate) async fn look_up(
        &self,
        new: &NewJob,
        name: &[u8],
        carried: Option<JobId>,
    ) -> Result<Found, StoreError> {
        match self.look_up_once(new, name, carried).await? {
            // As in `twice`: whoever has it may only have been overlooked.
            Found::Free | Found::FreeFrom(_) | Found::FreeFromCarrier(_) if self.is_partitioned => {
                self.look_up_once(new, name, carried).await
            }
            found => Ok(found),
        }
    }

    async fn look_up_once(
        &self,
        new: &NewJob,
        name: &[u8],
        carried: Option<JobId>,
    ) -> Result<Found, StoreError> {
        let doing = "look up a tag";
        let now = new.header.received_at.as_millis();
        let payload = &new.payload[..];
        let rows = self
            .query(doing, &BY_NAME, &[&name, &now, &payload])
            .await?;
        if let Some(row) = rows.first() {
            let id: i64 = row.get(COLUMN_COUNT + 1);
            if row.get::<_, Option<i64>>(0).is_none() {
                return Ok(Found::FreeFrom(id));
            }
            let found = compare(job(row)?, row.get(COLUMN_COUNT), new);
            return Ok(found.unwrap_or(Found::FreeFrom(id)));
        }
        let Some(carried) = carried else {
            return Ok(Found::Free);
        };
        let (owner, tag) = keys(&new.header.owner, &new.header.tag);
        let id = carried.get();
        let rows = self
            .query(doing, &BY_CARRIED_ID, &[&id, &now, &payload, &owner, &tag])
            .await?;
        let Some(row) = rows.first() else {
            return Ok(Found::Free);
        };
        let found = compare(job(row)?, row.get(COLUMN_COUNT), new);
        Ok(found.unwrap_or(Found::FreeFromCarrier(id)))
    }

    pub(crate) async fn find(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        self.twice(|| self.find_once(owner, tag, now)).await
    }

    async fn find_once(
        &self,
        owner: &Owner,
        tag: &JobTag,
        now: Timestamp,
    ) -> Result<Option<JobId>, StoreError> {
        let doing = "find a job by its tag";
        let name = name_of(owner.as_str(), tag.as_str());
        let now = now.as_millis();
        let rows = self.query(doing, FIND_BY_NAME, &[&name, &now]).await?;
        if let Some(row) = rows.first() {
            return Ok(JobId::new(row.get(0)).filter(|_| row.get(1)));
        }
        let Some(carried) = tag.carried_id() else {
            return Ok(None);
        };
        let (owner, tag) = keys(owner, tag);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&carried.get(), &now, &owner, &tag];
        let rows = self.query(doing, FIND_BY_CARRIED_ID, &params).await?;
        Ok(rows.first().and_then(|row| JobId::new(row.get(0))))
    }

    /// The states of those of these jobs that are there.
    pub(crate) async fn states(
        &self,
        ids: &[JobId],
        now: Timestamp,
    ) -> Result<Vec<(JobId, State)>, StoreError> {
        let states = self.states_once(ids, now).await?;
        match states.len() < ids.len() && self.is_partitioned {
            // As in `twice`.
            true => self.states_once(ids, now).await,
            false => Ok(states),
        }
    }

    async fn states_once(
        &self,
        ids: &[JobId],
        now: Timestamp,
    ) -> Result<Vec<(JobId, State)>, StoreError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.get()).collect();
        let now = now.as_millis();
        let rows = self.query("look at jobs", STATES, &[&ids, &now]).await?;
        rows.iter()
            .filter_map(|row| {
                let id = JobId::new(row.get(0))?;
                Some(state(row).map(|state| (id, state)))
            })
            .collect()
    }

    /// The state of a job, if it is there.
    pub(crate) async fn state(
        &self,
        id: JobId,
        now: Timestamp,
    ) -> Result<Option<State>, StoreError> {
        let states = self.states(&[id], now).await?;
        Ok(states.first().map(|(_, state)| *state))
    }
}

/// What the job that has a name is to a submit by it; `None` where the name is free for that.
fn compare(old: Job, has_same_payload: bool, new: &NewJob) -> Option<Found> {
    let failed = matches!(old.state.phase, Phase::Failed | Phase::Cancelled);
    if failed && new.tag_reuse == TagReuse::IfFailed {
        return None;
    }
    let id = old.header.id;
    Some(match difference(&old.header, has_same_payload, new) {
        Some(difference) => Found::Other { id, difference },
        None => Found::Same(Box::new(old)),
    })
}

fn difference(old: &Header, has_same_payload: bool, new: &NewJob) -> Option<Difference> {
    // The bytes were compared where they are.
    let (same, other) = (&bytes::Bytes::new(), &bytes::Bytes::from_static(b"other"));
    let old_bytes = if has_same_payload { same } else { other };
    Difference::between((old, old_bytes), (&new.header, same))
}

fn keys<'a>(owner: &'a Owner, tag: &'a JobTag) -> (&'a [u8], &'a [u8]) {
    (owner.as_str().as_bytes(), tag.as_str().as_bytes())
}
