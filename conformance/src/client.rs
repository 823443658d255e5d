//! The official client, made and driven the way the tests need it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gpudb_api::{
    AdminAlterJobsRequest, AdminAlterJobsResponse, AdminShowJobsRequest, AdminShowJobsResponse,
    CreateJobRequest, CreateJobResponse, GetJobRequest, GetJobResponse, Kinetica, KineticaError,
    KineticaOptions, KineticaRecord, parse_fast_schema,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two polls. Only a pause: each wait ends on what the server answers, or at its deadline.
const POLL: Duration = Duration::from_millis(20);

/// What makes some client leave a cluster when it stands in an error message
/// (docs/protocol.md section 7).
pub const FAILOVER_PHRASES: [&str; 10] = [
    "Kinetica is exiting",
    "Kinetica is offline",
    "system-limited-fatal",
    "Connection refused",
    "Connection reset",
    "Query planner is not running",
    "System shutting down",
    "Unavailable: Draining HA queue",
    "System is offline",
    "Unexpected end of file from server",
];

/// The connections this client can make. It has no JSON encoding.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Whether it asks the server for the other addresses of its cluster.
    pub discovery: bool,
    /// Whether requests are snappy-compressed. The client never does that by itself for the
    /// endpoints here, but a request type may ask it to (`KineticaRecord::use_compression`).
    pub snappy: bool,
}

impl Connection {
    /// Binary, with discovery: the client's defaults.
    pub const DEFAULT: Self = Self {
        discovery: true,
        snappy: false,
    };
    /// To the given address and no other.
    pub const DIRECT: Self = Self {
        discovery: false,
        snappy: false,
    };
}

/// How a client shows who it is.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Not at all.
    None,
    /// By a user's name and password.
    Password(&'static str, &'static str),
    /// By a token.
    Token(String),
}

/// A connected client.
pub struct TestClient {
    /// The client itself.
    pub db: Kinetica,
    snappy: bool,
}

impl TestClient {
    /// Connects, or panics.
    pub async fn connect(urls: &[&str], connection: Connection) -> Self {
        let connected = Self::try_connect(urls, connection, &Credentials::None).await;
        connected.expect("the client connects")
    }

    /// Connects as somebody.
    pub async fn try_connect(
        urls: &[&str],
        connection: Connection,
        credentials: &Credentials,
    ) -> Result<Self, KineticaError> {
        let mut options = KineticaOptions::new();
        options.set_disable_auto_discovery(!connection.discovery);
        match credentials {
            Credentials::None => {}
            Credentials::Password(name, password) => {
                options.set_username(*name).set_password(*password);
            }
            Credentials::Token(token) => {
                options.set_oauth_token(token);
            }
        }
        let urls = urls.iter().map(|&url| url.to_owned()).collect();
        Ok(Self {
            db: Kinetica::new(urls, options).await?,
            snappy: connection.snappy,
        })
    }

    /// `/create/job`.
    pub async fn create(&self, job: CreateJobRequest) -> Result<CreateJobResponse, KineticaError> {
        if self.snappy {
            let response = include_str!("../../crates/kjob-proto/schemas/create_job_response.avsc");
            return self.submit_compressed("/create/job", response, job).await;
        }
        self.db.create_job_raw(&job).await
    }

    /// `/get/job`, with any options.
    pub async fn get_raw(
        &self,
        job_id: i64,
        options: &[(&str, &str)],
    ) -> Result<GetJobResponse, KineticaError> {
        let request = GetJobRequest {
            job_id,
            options: map(options),
        };
        if self.snappy {
            let response = include_str!("../../crates/kjob-proto/schemas/get_job_response.avsc");
            return self.submit_compressed("/get/job", response, request).await;
        }
        self.db.get_job_raw(&request).await
    }

    /// `/admin/show/jobs`.
    pub async fn list(
        &self,
        options: &[(&str, &str)],
    ) -> Result<AdminShowJobsResponse, KineticaError> {
        let request = AdminShowJobsRequest {
            options: map(options),
        };
        if self.snappy {
            let response =
                include_str!("../../crates/kjob-proto/schemas/admin_show_jobs_response.avsc");
            return self
                .submit_compressed("/admin/show/jobs", response, request)
                .await;
        }
        self.db.admin_show_jobs_raw(&request).await
    }

    /// `/admin/alter/jobs`.
    pub async fn alter(
        &self,
        job_ids: &[i64],
        action: &str,
        options: &[(&str, &str)],
    ) -> Result<AdminAlterJobsResponse, KineticaError> {
        let request = AdminAlterJobsRequest {
            job_ids: job_ids.to_vec(),
            action: action.to_owned(),
            options: map(options),
        };
        if self.snappy {
            let response =
                include_str!("../../crates/kjob-proto/schemas/admin_alter_jobs_response.avsc");
            return self
                .submit_compressed("/admin/alter/jobs", response, request)
                .await;
        }
        self.db.admin_alter_jobs_raw(&request).await
    }

    /// A submit that must succeed.
    pub async fn submit(&self, job: CreateJobRequest) -> CreateJobResponse {
        let reply = self.create(job).await.expect("the job is accepted");
        assert!(
            (1..1 << 53).contains(&reply.job_id),
            "job id {}",
            reply.job_id
        );
        reply
    }

    /// A `/get/job` by id that must succeed.
    pub async fn get(&self, job_id: i64) -> GetJobResponse {
        self.get_raw(job_id, &[]).await.expect("the job is there")
    }

    /// A `/get/job` by tag alone that must succeed.
    pub async fn get_by_tag(&self, tag: &str) -> GetJobResponse {
        self.get_raw(0, &[("job_tag", tag)])
            .await
            .expect("the tag is there")
    }

    /// Polls until the job has ended, whichever way.
    pub async fn wait_end(&self, job_id: i64) -> GetJobResponse {
        until("the end of the job", async || {
            Some(self.get(job_id).await).filter(|reply| !reply.running)
        })
        .await
    }

    /// Polls until the job reports progress: a waiting job reads RUNNING too, but at 0.
    pub async fn wait_started(&self, job_id: i64) {
        until("the start of the job", async || {
            let reply = self.get(job_id).await;
            assert!(reply.running, "the job ended early: {}", reply.job_status);
            (reply.progress > 0).then_some(())
        })
        .await;
    }

    /// A cancel that must succeed: pairs of id and word, in the order of the reply.
    pub async fn cancel(&self, job_ids: &[i64]) -> Vec<(i64, String)> {
        let reply = self
            .alter(job_ids, "cancel", &[])
            .await
            .expect("the cancel is accepted");
        assert_eq!(reply.action, "cancel");
        assert_eq!(reply.job_ids.len(), reply.status.len());
        reply.job_ids.into_iter().zip(reply.status).collect()
    }

    /// Whether the server says that it drains.
    pub async fn is_draining(&self) -> bool {
        let reply = self
            .db
            .show_system_status()
            .await
            .expect("a draining server still answers");
        reply
            .status_map
            .get("ha_status")
            .is_some_and(|status| status.contains("\"draining\""))
    }

    /// The connection still works, and has not changed clusters on the way.
    pub async fn assert_usable(&self) {
        assert_eq!(self.db.num_cluster_switches(), 0);
        self.db
            .show_system_status()
            .await
            .expect("the connection is usable");
    }

    async fn submit_compressed<Req, Resp>(
        &self,
        endpoint: &str,
        response_schema: &str,
        request: Req,
    ) -> Result<Resp, KineticaError>
    where
        Req: KineticaRecord,
        Resp: DeserializeOwned,
    {
        let request_schema = parse_fast_schema(request.avro_schema())?;
        let response_schema = parse_fast_schema(response_schema)?;
        self.db
            .submit_request(
                endpoint,
                &request_schema,
                &response_schema,
                &Compressed(request),
            )
            .await
    }
}

/// A plain error: the client gives it to its caller and stays where it is. Returns the message.
pub fn assert_plain_error<T>(outcome: Result<T, KineticaError>) -> String {
    match outcome {
        Ok(_) => panic!("an error was expected"),
        Err(KineticaError::Api(message)) => {
            assert!(!message.is_empty());
            for phrase in FAILOVER_PHRASES {
                assert!(!message.contains(phrase), "{message}");
            }
            message
        }
        Err(other) => panic!("not a plain error: {other:?}"),
    }
}

/// Polls until `probe` gives something.
pub async fn until<T, F>(what: &str, probe: impl Fn() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {WAIT_MAX:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// A tag that no other test of this run has.
pub fn new_tag() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "conformance-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

fn map(options: &[(&str, &str)]) -> HashMap<String, String> {
    options
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A request that asks the client to compress it.
#[derive(Serialize)]
#[serde(transparent)]
struct Compressed<R>(R);

impl<R: KineticaRecord> KineticaRecord for Compressed<R> {
    fn avro_schema(&self) -> &'static str {
        self.0.avro_schema()
    }

    fn type_properties() -> HashMap<String, Vec<String>> {
        R::type_properties()
    }

    fn use_compression() -> bool {
        true
    }
}
