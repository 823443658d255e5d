//! Users of a server, and connections of theirs.

use kjob_proto::{
    AdminAlterJobsRequest, AdminAlterJobsResponse, AdminShowJobsRequest, AdminShowJobsResponse,
    Encoding, GetJobRequest, Record,
};
use kjob_server::users::{Password, Role, UserName, Users};
use kjob_server::{Access, Accounts};

use crate::raw::{Raw, Reply, encode, map, post_head};
use crate::server::TestServer;

pub(crate) const ANN: &str = "Basic YW5uOmNvcnJlY3QgaG9yc2U=";
pub(crate) const BOB: &str = "Basic Ym9iOmJhdHRlcnkgc3RhcGxl";
pub(crate) const ROOT: &str = "Basic cm9vdDp0cm91YmFkb3Igb25l";

pub(crate) fn users() -> Users {
    let mut users = Users::default();
    for (name, role, password) in [
        ("ann", Role::User, "correct horse"),
        ("bob", Role::User, "battery staple"),
        ("root", Role::Admin, "troubador one"),
    ] {
        let name: UserName = name.parse().unwrap();
        users.add(name.clone(), role).unwrap();
        let password = Password::new(password.to_owned().into()).unwrap();
        users.set_password(&name, &password).unwrap();
    }
    users
}

pub(crate) async fn start() -> (TestServer, Accounts) {
    let accounts = Accounts::new(users());
    let access = Access::default().accounts(accounts.clone());
    (TestServer::with_access(access).await, accounts)
}

/// A connection of somebody's.
pub(crate) struct As {
    pub(crate) raw: Raw,
    pub(crate) credentials: String,
}

impl As {
    pub(crate) async fn new(server: &TestServer, credentials: &str) -> Self {
        Self {
            raw: server.connect().await,
            credentials: credentials.to_owned(),
        }
    }

    pub(crate) async fn send<Q: Record>(&mut self, path: &str, request: &Q) {
        let written = self.written(path, request);
        self.raw.send(written).await;
    }

    pub(crate) fn written<Q: Record>(&self, path: &str, request: &Q) -> Vec<u8> {
        let body = encode(Encoding::Binary, request);
        let more = format!(
            "Authorization: {}\r\nContent-Length: {}",
            self.credentials,
            body.len()
        );
        let head = post_head(path, Encoding::Binary.content_type(), &more);
        [head.as_bytes(), &body].concat()
    }

    pub(crate) fn written_get(&self, path: &str) -> Vec<u8> {
        let credentials = &self.credentials;
        format!("GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: {credentials}\r\n\r\n").into()
    }

    pub(crate) async fn reply<Q: Record>(&mut self, path: &str, request: &Q) -> Reply {
        self.send(path, request).await;
        self.raw.reply().await
    }

    pub(crate) async fn call<Q: Record, R: Record>(
        &mut self,
        path: &str,
        request: &Q,
    ) -> Result<R, String> {
        self.reply(path, request).await.open(Encoding::Binary)
    }

    pub(crate) async fn submit(&mut self, endpoint: &'static str, tag: &str) -> i64 {
        let request = kjob_proto::CreateJobRequest {
            endpoint: endpoint.into(),
            request_encoding: "binary".into(),
            data: b"x"[..].into(),
            options: map(&[("job_tag", tag)]),
            ..Default::default()
        };
        let created: kjob_proto::CreateJobResponse =
            self.call("/create/job", &request).await.unwrap();
        created.job_id
    }

    pub(crate) async fn listed(&mut self) -> Vec<i64> {
        let options = map(&[("show_async_jobs", "true")]);
        let request = AdminShowJobsRequest { options };
        let list: AdminShowJobsResponse = self.call("/admin/show/jobs", &request).await.unwrap();
        list.job_id
    }

    pub(crate) async fn cancel(&mut self, job_id: i64) -> String {
        let request = AdminAlterJobsRequest {
            job_ids: vec![job_id],
            action: "cancel".into(),
            ..Default::default()
        };
        let done: AdminAlterJobsResponse = self.call("/admin/alter/jobs", &request).await.unwrap();
        done.status[0].to_string()
    }
}

pub(crate) fn get(job_id: i64, options: &[(&'static str, &str)]) -> GetJobRequest {
    GetJobRequest {
        job_id,
        options: map(options),
    }
}
