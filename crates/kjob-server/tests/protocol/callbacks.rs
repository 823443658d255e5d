//! Callbacks, to receivers over real sockets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use kjob_proto::GetJobResponse;
use kjob_server::Callbacks;
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::ordinary::{Ask, ask, problem, submitted};
use crate::raw::{Raw, in_time};
use crate::server::TestServer;

const SECRET: &[u8] = b"24 bytes, or more of it.";

/// What a receiver was sent.
#[derive(Debug)]
struct Told {
    head: String,
    body: Vec<u8>,
}

/// A receiver that answers with these statuses, and with the last one for ever.
struct Receiver {
    address: SocketAddr,
    told: mpsc::UnboundedReceiver<Told>,
    task: JoinHandle<()>,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, statuses)
    }

    fn on(listener: TcpListener, statuses: &[u16]) -> Self {
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let left = Arc::new(Mutex::new(VecDeque::from(statuses.to_vec())));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, left.clone(), tell.clone()));
            }
        });
        Self {
            address,
            told,
            task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?key=hidden", self.address)
    }

    async fn next(&mut self) -> Told {
        in_time("a callback", self.told.recv()).await.unwrap()
    }
}

async fn answer(
    mut stream: TcpStream,
    statuses: Arc<Mutex<VecDeque<u16>>>,
    tell: mpsc::UnboundedSender<Told>,
) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            return;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let len: usize = header(&head, "content-length").parse().unwrap();
    while bytes.len() < end + len {
        stream.read_buf(&mut bytes).await.unwrap();
    }
    let status = {
        let mut statuses = statuses.lock().unwrap();
        if statuses.len() > 1 {
            statuses.pop_front().unwrap()
        } else {
            statuses[0]
        }
    };
    let body = bytes[end..].to_vec();
    tell.send(Told { head, body }).ok();
    let reply = format!(
        "HTTP/1.1 {status} so\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(reply.as_bytes()).await.ok();
}

fn header(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    });
    line.unwrap_or_else(|| panic!("no {name} in {head}"))
}

impl Told {
    /// As a receiver checks it: `{id}.{timestamp}.{body}` under the secret.
    fn is_signed(&self) -> bool {
        let header = |name| header(&self.head, name);
        let signed = [
            header("webhook-id").as_bytes(),
            b".",
            header("webhook-timestamp").as_bytes(),
            b".",
            &self.body,
        ]
        .concat();
        let signature = header("webhook-signature");
        let signature = Base64::decode_vec(signature.strip_prefix("v1,").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        hmac::verify(&key, &signed, &signature).is_ok()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn callbacks(hosts: &str) -> Callbacks {
    let secret = format!("whsec_{}", Base64::encode_string(SECRET));
    Callbacks::new(hosts.parse().unwrap(), &secret.into())
        .unwrap()
        .backoff(Duration::from_millis(20))
}

async fn start(dir: &Path, hosts: &str) -> TestServer {
    TestServer::with_callbacks(dir, callbacks(hosts)).await
}

/// Asks for the job until its callback is so.
async fn until(raw: &mut Raw, id: i64, is_so: impl Fn(&GetJobResponse) -> bool) -> GetJobResponse {
    let look = async {
        loop {
            let job = raw.get(id, &[]).await.unwrap();
            if is_so(&job) {
                return job;
            }
            tokio::task::yield_now().await;
        }
    };
    in_time("the callback's state", look).await
}

fn is(job: &GetJobResponse, name: &str, value: &str) -> bool {
    job.info.get(name).is_some_and(|found| found == value)
}

#[tokio::test]
async fn a_receiver_is_told_signed_and_again_until_it_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(&[500, 302, 204]).await;
    let server = start(dir.path(), &receiver.address.to_string()).await;
    let mut raw = server.connect().await;
    let url = receiver.url();
    let options = [("callback_url", &*url), ("user_data", "mine")];
    let job = raw.submit("/raw", b"x", &options).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let told = receiver.next().await;
        assert!(
            told.head.starts_with("POST /hook?key=hidden HTTP/1.1\r\n"),
            "{told:?}"
        );
        assert_eq!(header(&told.head, "host"), receiver.address.to_string());
        assert_eq!(header(&told.head, "content-type"), "application/json");
        assert!(told.is_signed(), "{told:?}");
        let message = told.json();
        assert_eq!(message["type"], "job.ended");
        let data = &message["data"];
        assert_eq!(data["job_id"], job.job_id);
        assert_eq!(data["job_tag"], job.info.get("job_tag").unwrap().as_str());
        assert_eq!(data["query_id"], job.info.get("query_id").unwrap().as_str());
        assert_eq!(data["status"], "DONE");
        assert_eq!(data["endpoint"], "/raw");
        assert_eq!(data["user_data"], "mine");
        assert_eq!(data["result"], format!("/jobs/{}/result", job.job_id));
        assert_eq!(data["error"], Value::Null);
        ids.push(header(&told.head, "webhook-id"));
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let done = until(&mut raw, job.job_id, |job| is(job, "callback", "delivered")).await;
    assert!(is(&done, "callback_attempts", "3"), "{:?}", done.info);
    assert!(is(&done, "callback_http_status", "204"), "{:?}", done.info);
    assert_eq!(done.info.get("callback_error"), None);
    assert!(receiver.told.try_recv().is_err(), "it is not told again");
}

#[tokio::test]
async fn failed_and_cancelled_jobs_are_told_of_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(&[200]).await;
    let server = start(dir.path(), &receiver.address.to_string()).await;
    let mut raw = server.connect().await;
    let url = receiver.url();
    let failed = json!({"endpoint": "/fail", "payload": "it broke", "callback_url": url});
    let failed = submitted(&mut raw, &failed).await;
    let data = receiver.next().await.json()["data"].clone();
    assert_eq!(
        (&data["job_id"], &data["status"]),
        (&json!(failed), &json!("ERROR"))
    );
    assert!(
        data["error"].as_str().unwrap().contains("it broke"),
        "{data}"
    );
    assert_eq!(data["result"], Value::Null);
    let waiting = [("callback_url", &*url), ("delay_ms", "3600000")];
    let waiting = raw.submit("/raw", b"x", &waiting).await.unwrap().job_id;
    ask(
        &mut raw,
        Ask::new("DELETE", &format!("/jobs/{waiting}"), "", b""),
    )
    .await;
    let data = receiver.next().await.json()["data"].clone();
    assert_eq!(
        (&data["job_id"], &data["status"]),
        (&json!(waiting), &json!("CANCELLED"))
    );
}

#[tokio::test]
async fn a_receiver_that_is_gone_for_good_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(&[410, 200]).await;
    let server = start(dir.path(), &receiver.address.to_string()).await;
    let mut raw = server.connect().await;
    let url = receiver.url();
    let job = raw
        .submit("/raw", b"x", &[("callback_url", &url)])
        .await
        .unwrap();
    receiver.next().await;
    let over = until(&mut raw, job.job_id, |job| is(job, "callback", "given_up")).await;
    assert!(is(&over, "callback_http_status", "410"), "{:?}", over.info);
    assert!(is(&over, "callback_attempts", "1"), "{:?}", over.info);
    assert!(receiver.told.try_recv().is_err());
}

#[tokio::test]
async fn too_old_a_callback_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[503]).await;
    let patient = callbacks(&receiver.address.to_string()).retry_for(Duration::from_millis(200));
    let server = TestServer::with_callbacks(dir.path(), patient).await;
    let mut raw = server.connect().await;
    let url = receiver.url();
    let job = raw
        .submit("/raw", b"x", &[("callback_url", &url)])
        .await
        .unwrap();
    let over = until(&mut raw, job.job_id, |job| is(job, "callback", "given_up")).await;
    assert!(
        is(&over, "callback_error", "answered 503"),
        "{:?}",
        over.info
    );
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_at_submit_and_its_secrets_are_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "hooks.example.com, 127.0.0.1:9").await;
    let mut raw = server.connect().await;
    for url in [
        "http://127.0.0.1:10/?hidden",
        "https://evil.org/hidden",
        "gopher://hidden/",
    ] {
        let refused = raw
            .submit("/raw", b"x", &[("callback_url", url)])
            .await
            .unwrap_err();
        assert!(refused.contains("callback_url"), "{refused}");
        if !url.starts_with("gopher") {
            assert!(
                refused.contains("not allowed") && !refused.contains("hidden"),
                "{refused}"
            );
        }
        let body = json!({"endpoint": "/raw", "payload": 1, "callback_url": url});
        let refused = ask(&mut raw, Ask::post("/jobs", &body)).await;
        assert_eq!(refused.status, 422, "{refused:?}");
        assert!(
            refused.json()["detail"]
                .as_str()
                .unwrap()
                .contains("callback_url")
        );
    }
    let plain = TestServer::start().await;
    let mut raw = plain.connect().await;
    let url = "https://hooks.example.com/";
    let refused = raw
        .submit("/raw", b"x", &[("callback_url", url)])
        .await
        .unwrap_err();
    assert!(refused.contains("makes no callbacks"), "{refused}");
}

/// A name on the list that leads into the machine would let callers reach what only it can reach.
#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_not_called() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(&[200]).await;
    let port = receiver.address.port();
    let server = start(dir.path(), &format!("localhost:{port}")).await;
    let mut raw = server.connect().await;
    let url = format!("http://localhost:{port}/");
    let job = raw
        .submit("/raw", b"x", &[("callback_url", &url)])
        .await
        .unwrap();
    let failed = until(&mut raw, job.job_id, |job| {
        job.info.contains_key("callback_error")
    })
    .await;
    let error = failed.info.get("callback_error").unwrap();
    assert!(error.contains("no public address"), "{error}");
    assert!(is(&failed, "callback", "pending"), "{:?}", failed.info);
    assert!(receiver.told.try_recv().is_err());
}

#[tokio::test]
async fn a_restart_in_between_loses_no_callback() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens at this port until later.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/hook");
    let server = start(dir.path(), &address.to_string()).await;
    let mut raw = server.connect().await;
    let job = raw
        .submit("/raw", b"x", &[("callback_url", &url)])
        .await
        .unwrap();
    let id = job.job_id;
    let tried = until(&mut raw, id, |job| job.info.contains_key("callback_error")).await;
    let error = tried.info.get("callback_error").unwrap();
    assert!(error.contains("no connection"), "{error}");
    drop(raw);
    server.handle.stop();
    server.serving.await.unwrap();
    server.engine.shut_down(Duration::ZERO).await.unwrap();
    drop(server.engine);

    let mut receiver = Receiver::on(TcpListener::bind(address).await.unwrap(), &[200]);
    let server = start(dir.path(), &address.to_string()).await;
    let told = receiver.next().await;
    assert!(told.is_signed());
    assert_eq!(told.json()["data"]["job_id"], id);
    let mut raw = server.connect().await;
    until(&mut raw, id, |job| is(job, "callback", "delivered")).await;
    receiver.task.abort();
}

/// One that takes connections and never answers has its own tries only.
#[tokio::test]
async fn a_dead_receiver_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_address = dead.local_addr().unwrap();
    let mut alive = Receiver::start(&[200]).await;
    let hosts = format!("{dead_address}, {}", alive.address);
    let server = start(dir.path(), &hosts).await;
    let mut raw = server.connect().await;
    let (to_dead, to_alive) = (format!("http://{dead_address}/"), alive.url());
    for _ in 0..200 {
        raw.submit("/raw", b"x", &[("callback_url", &to_dead)])
            .await
            .unwrap();
    }
    for _ in 0..5 {
        let job = raw
            .submit("/raw", b"x", &[("callback_url", &to_alive)])
            .await
            .unwrap();
        // Sooner than a single try of the dead one is over: the tries have 15 s each, four at a time.
        assert_eq!(alive.next().await.json()["data"]["job_id"], job.job_id);
    }
}

#[tokio::test]
async fn a_problem_names_the_member() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let body = json!({"endpoint": "/raw", "payload": 1, "callback_url": "http://a/"});
    let refused = ask(&mut raw, Ask::post("/jobs", &body)).await;
    assert_eq!(
        problem(refused, 422, "invalid-parameter")["parameter"],
        "callback_url"
    );
}
