//! Submits: many jobs by one statement, names and all.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::LazyLock;

use async_trait::async_trait;
use kjob_core::{
    Event, Header, Hint, JobId, NewJob, Phase, State, StoreError, Submitted, Timestamp, Transition,
    apply,
};
use tokio_postgres::types::ToSql;

use super::details;
use super::error::corrupt;
use super::gathering::{Pending, Queues};
use super::lanes::{Lane, Step};
use super::lookup::Found;
use super::session::Session;
use super::shared::Shared;
use super::usage::{Change, counted};
use crate::values::{encoding_to, millis};

/// How often a name is looked up that changes hands each time.
const LOOKS_MAX: u32 = 50;

/// A job that is to be stored.
pub(crate) struct Submit {
    pub(crate) job: NewJob,
    /// As which it is stored.
    state: State,
    turn: i64,
    lane: Vec<u8>,
    /// `None` where its tag carries its own id, and so needs no row.
    name: Option<Vec<u8>>,
    details: Vec<u8>,
}

/// The jobs, as rows.
const ROWS: &str = "unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::smallint[], $8::smallint[], $9::smallint[], $10::boolean[], $11::bytea[],
        $12::bytea[], $13::bytea[], $14::bytea[], $15::bytea[], $16::bytea[], $17::bytea[])
    AS r(id, turn, received_at, not_before, retention_ms, phase, priority, encoding,
        is_called_back, lane, owner, endpoint, tag, name, details, payload)";

const INSERT: &str = "INSERT INTO kjob_live (id, turn, lease, attempt, node, received_at, not_before,
        started_at, retention_ms, phase, progress, priority, encoding, is_delayed, is_called_back, lane,
        owner, endpoint, tag, details, payload)
    SELECT id, turn, phase, phase, CASE WHEN phase = 1 THEN $18::bigint END, received_at, not_before,
        CASE WHEN phase = 1 THEN received_at END, retention_ms, phase, 0, priority, encoding,
        not_before IS NOT NULL, is_called_back, lane, owner, endpoint, tag, details, payload";

/// Stores jobs of which none has a name. Nobody can be in their way: all are stored or none, so what that changes
/// is known beforehand.
static STORE_UNNAMED: LazyLock<String> = LazyLock::new(|| {
    let counted = counted("$1");
    format!(
        "WITH stored AS ({INSERT} FROM {ROWS}),
        changed AS (
            SELECT * FROM unnest($19::bytea[], $20::bigint[], $21::bigint[], $22::bigint[])
            AS c(owner, jobs, bytes, waiting)
        ),
        {counted}
        SELECT 1 WHERE false"
    )
});

/// Stores those whose names are free, or were taken from another just now: `named` is the part that says whose
/// they are.
fn store(named: &str) -> String {
    let counted = counted("$1");
    format!(
        "WITH r AS (SELECT * FROM {ROWS}),
        named AS ({named}),
        stored AS (
            {INSERT} FROM r WHERE name IS NULL OR id IN (SELECT id FROM named)
            RETURNING id, owner, phase, octet_length(payload) AS len
        ),
        changed AS (
            SELECT owner, 1 AS jobs, len AS bytes, 1 - phase AS waiting FROM stored
        ),
        {counted}
        SELECT id FROM stored"
    )
}

/// Names that nobody has.
const FREE: &str = "INSERT INTO kjob_tags (name, id) SELECT name, id FROM r WHERE name IS NOT NULL
    ORDER BY name ON CONFLICT (name) DO NOTHING RETURNING id";

/// The name of one job, from the one that has it still.
const TAKEN: &str = "UPDATE kjob_tags SET id = r.id FROM r
    WHERE kjob_tags.name = r.name AND kjob_tags.id = $19::bigint RETURNING r.id";

/// A name that nobody has, as it is carried by the tag of a job that ended and now loses it.
const CARRIED: &str = "INSERT INTO kjob_tags (name, id) SELECT name, r.id FROM r
    WHERE EXISTS (SELECT 1 FROM lost) ON CONFLICT (name) DO NOTHING RETURNING id";

const LOST: &str = "lost AS (
        UPDATE kjob_ended SET is_tag_given = true WHERE id = $19::bigint AND NOT is_tag_given RETURNING id
    ),
    named AS";

static STORE_FREE: LazyLock<String> = LazyLock::new(|| store(FREE));
static STORE_TAKEN: LazyLock<String> = LazyLock::new(|| store(TAKEN));
static STORE_CARRIED: LazyLock<String> =
    LazyLock::new(|| store(CARRIED).replacen("named AS", LOST, 1));

/// The key of a tag: the tag, which has no slash, and its owner.
pub(crate) fn name_of(owner: &str, tag: &str) -> Vec<u8> {
    [tag.as_bytes(), b"/", owner.as_bytes()].concat()
}

impl Submit {
    fn new(job: NewJob, start: bool, shared: &Shared) -> Self {
        let header = &job.header;
        let queued = State::queued(header.options.not_before);
        let state = match start.then(|| apply(&queued, Event::Start, header.received_at)) {
            Some(Ok(Transition::To(started))) => started,
            _ => queued,
        };
        let is_own = header.tag.carried_id() == Some(header.id);
        Self {
            state,
            turn: shared.turns.next(header.options.priority, &header.owner),
            lane: shared.membership.lane_of(&header.endpoint),
            name: (!is_own).then(|| name_of(header.owner.as_str(), header.tag.as_str())),
            details: details::encode(header),
            job,
        }
    }

    fn header(&self) -> &Header {
        &self.job.header
    }

    /// What it adds to the usage.
    fn change(&self) -> Change {
        Change {
            jobs: 1,
            bytes: i64::try_from(self.bytes()).unwrap_or(i64::MAX),
            waiting: i64::from(self.state.phase == Phase::Queued),
        }
    }

    /// Whether its tag may be that of the job whose id it carries, which has no row among the names.
    fn carried(&self) -> Option<JobId> {
        self.header()
            .tag
            .carried_id()
            .filter(|_| self.name.is_some())
    }
}

#[async_trait]
impl Step for Submit {
    type Answer = ();

    const DOING: &'static str = "store a job";

    fn queue(queues: &mut Queues) -> &mut VecDeque<Pending<Self>> {
        &mut queues.submits
    }

    fn bytes(&self) -> usize {
        self.job.payload.len()
    }

    async fn run(
        lane: &Lane,
        session: &Session,
        steps: &[&Self],
    ) -> Result<Vec<(usize, ())>, tokio_postgres::Error> {
        let (tally, shared) = (lane.tally, &lane.shared);
        if steps.iter().all(|step| step.name.is_none()) {
            store_unnamed(session, tally, shared, steps).await?;
            return Ok((0..steps.len()).map(|place| (place, ())).collect());
        }
        let stored = run(session, &STORE_FREE, tally, shared, steps, &[]).await?;
        let places = steps.iter().enumerate();
        Ok(places
            .filter(|(_, step)| stored.contains(&step.header().id.get()))
            .map(|(place, _)| (place, ()))
            .collect())
    }
}

async fn store_unnamed(
    session: &Session,
    tally: i64,
    shared: &Shared,
    steps: &[&Submit],
) -> Result<(), tokio_postgres::Error> {
    let mut changes = BTreeMap::<&[u8], Change>::new();
    for step in steps {
        let owner = step.header().owner.as_str().as_bytes();
        changes.entry(owner).or_default().add(step.change());
    }
    let owners: Vec<&[u8]> = changes.keys().copied().collect();
    let column = |of: fn(&Change) -> i64| changes.values().map(of).collect::<Vec<_>>();
    let jobs = column(|change| change.jobs);
    let bytes = column(|change| change.bytes);
    let waiting = column(|change| change.waiting);
    let more: [&(dyn ToSql + Sync); 4] = [&owners, &jobs, &bytes, &waiting];
    run(session, &STORE_UNNAMED, tally, shared, steps, &more).await?;
    Ok(())
}

/// Runs one of the statements; gives the ids of what was stored, where it says so.
async fn run(
    session: &Session,
    statement: &'static str,
    tally: i64,
    shared: &Shared,
    steps: &[&Submit],
    more: &[&(dyn ToSql + Sync)],
) -> Result<HashSet<i64>, tokio_postgres::Error> {
    macro_rules! column {
        ($value:expr) => {{
            let value = $value;
            steps.iter().map(|step| value(*step)).collect::<Vec<_>>()
        }};
    }
    fn options(step: &Submit) -> &kjob_core::JobOptions {
        &step.header().options
    }
    let ids = column!(|step: &Submit| step.header().id.get());
    let turns = column!(|step: &Submit| step.turn);
    let received = column!(|step: &Submit| step.header().received_at.as_millis());
    let not_before = column!(|step: &Submit| step.state.not_before.map(Timestamp::as_millis));
    let retention = column!(|step: &Submit| millis(options(step).retention));
    let phases = column!(|step: &Submit| step.state.phase as i16);
    let priorities = column!(|step: &Submit| i16::from(options(step).priority.get()));
    let encodings = column!(|step: &Submit| i16::from(encoding_to(step.header().encoding)));
    let called_back = column!(|step: &Submit| options(step).callback_url.is_some());
    let lanes: Vec<&[u8]> = steps.iter().map(|step| &step.lane[..]).collect();
    let owners: Vec<&[u8]> = steps
        .iter()
        .map(|it| it.header().owner.as_str().as_bytes())
        .collect();
    let endpoints: Vec<&[u8]> = steps
        .iter()
        .map(|it| &it.header().endpoint.as_bytes()[..])
        .collect();
    let tags: Vec<&[u8]> = steps
        .iter()
        .map(|it| it.header().tag.as_str().as_bytes())
        .collect();
    let names: Vec<Option<&[u8]>> = steps.iter().map(|step| step.name.as_deref()).collect();
    let details: Vec<&[u8]> = steps.iter().map(|step| &step.details[..]).collect();
    let payloads: Vec<&[u8]> = steps.iter().map(|step| &step.job.payload[..]).collect();
    let node = shared.membership.node();
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![
        &tally,
        &ids,
        &turns,
        &received,
        &not_before,
        &retention,
        &phases,
        &priorities,
        &encodings,
        &called_back,
        &lanes,
        &owners,
        &endpoints,
        &tags,
        &names,
        &details,
        &payloads,
        &node,
    ];
    params.extend(more);
    let rows = session.query(statement, &params).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

impl Shared {
    pub(crate) async fn submit(&self, job: NewJob, start: bool) -> Result<Submitted, StoreError> {
        let submit = Submit::new(job, start, self);
        let (state, owner) = (submit.state, submit.header().owner.clone());
        let change = submit.change();
        let again = Again::of(&submit, start);
        let not_before = state.not_before;
        let done = match submit.carried() {
            Some(_) => self.submit_by_look(submit).await?,
            None => match self.gathering.ask(submit).await? {
                Some(()) => Submitted::Created(state),
                None => self.submit_by_look(again.submit(self)).await?,
            },
        };
        if let Submitted::Created(state) = &done {
            let waits = state.phase == Phase::Queued;
            self.usage.add(&owner, change);
            match not_before {
                Some(at) => self.ripens_at(at),
                None if waits => self.hints.say(Hint::Work),
                None => {}
            }
        }
        Ok(done)
    }

    /// A submit whose name somebody has or may have: looks whose it is, and takes it if it is free.
    async fn submit_by_look(&self, submit: Submit) -> Result<Submitted, StoreError> {
        let name = submit.name.clone().unwrap_or_default();
        for _ in 0..LOOKS_MAX {
            let found = self.look_up(&submit.job, &name, submit.carried()).await?;
            let (statement, other): (&'static str, Option<i64>) = match found {
                Found::Same(job) => return Ok(Submitted::Existing(job)),
                Found::Other { id, difference } => {
                    return Ok(Submitted::Conflict { id, difference });
                }
                Found::Free => (&STORE_FREE, None),
                Found::FreeFrom(id) => (&STORE_TAKEN, Some(id)),
                Found::FreeFromCarrier(id) => (&STORE_CARRIED, Some(id)),
            };
            let step = &submit;
            let stored = self
                .writer
                .attempt(|session| {
                    Box::pin(async move {
                        let tally = self.own_tally();
                        let more: Vec<&(dyn ToSql + Sync)> =
                            other.iter().map(|other| other as _).collect();
                        run(&session, statement, tally, self, &[step], &more).await
                    })
                })
                .await?
                .map_err(super::error::sql(Submit::DOING))?;
            if !stored.is_empty() {
                return Ok(Submitted::Created(submit.state));
            }
        }
        Err(corrupt(format!("the name {:?}", submit.header().tag)))
    }
}

/// What it takes to ask once more for a submit that went with a batch. Its bytes are shared, not copied.
struct Again {
    job: NewJob,
    start: bool,
}

impl Again {
    fn of(submit: &Submit, start: bool) -> Self {
        Self {
            job: submit.job.clone(),
            start,
        }
    }

    fn submit(self, shared: &Shared) -> Submit {
        Submit::new(self.job, self.start, shared)
    }
}
