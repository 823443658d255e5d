//! Who is told of the ends of jobs: takes callbacks, now and then at the second try only, and writes
//! down what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ring::hmac;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::history::{Micros, Status};
use crate::lines::{self, Lines, now};

/// What callbacks are signed with, as a server's file has it.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How old a message may be: the server and this are one machine.
const AGE_MAX: Duration = Duration::from_secs(60);

/// What a callback said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telling {
    /// When it had come in whole.
    pub at: Micros,
    /// The name of the message, which is to be the same at each try.
    pub name: String,
    /// Whether it was signed as it has to be.
    pub is_signed: bool,
    /// Whether it was taken: answered as a delivery.
    pub is_taken: bool,
    /// The end; `None` if the body tells of none.
    pub end: Option<End>,
}

/// The end of a job, as a callback tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The job.
    pub id: i64,
    /// Its tag.
    pub tag: String,
    /// How it ended.
    pub status: Status,
    /// Why it failed.
    pub error: Option<String>,
}

/// A receiver at work; gone when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    key: hmac::Key,
    lines: Lines,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    /// How often each message came.
    tries: BTreeMap<String, u32>,
    taken: BTreeSet<i64>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reception {
    Taken,
    TakenLate,
    Refused,
    /// The connection is cut.
    Cut,
}

impl Receiver {
    /// Begins to receive on a free port, and writes to this file.
    ///
    /// # Errors
    /// There is no port, or no file.
    pub async fn start(path: &Path, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let secret = SECRET.strip_prefix("whsec_").unwrap_or_default();
        let secret = BASE64_STANDARD.decode(secret)?;
        let shared = Arc::new(Shared {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            lines: Lines::append_to(path)?,
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                tries: BTreeMap::new(),
                taken: BTreeSet::new(),
            }),
        });
        let task = tokio::spawn(receive(listener, shared.clone()));
        Ok(Self {
            address,
            shared,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// The host and the port, as a server's list of hosts has them.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Where callbacks go.
    pub fn url(&self) -> String {
        format!("http://{}/ended", self.address)
    }

    /// Whether every one of these jobs was told of, and taken.
    pub fn has_taken(&self, ids: &BTreeSet<i64>) -> bool {
        ids.is_subset(&self.shared.state().taken)
    }
}

/// Reads what a [`Receiver`] wrote.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Vec<Telling>> {
    lines::read(path)
}

async fn receive(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // Out of files, at worst: whoever calls tries again.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| take(shared.clone(), request));
            // Servers are killed in the middle of what they say.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn take(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?;
    let reception = shared.note(&head.headers, &body.to_bytes())?;
    let status = match reception {
        Reception::Cut => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Reception::Refused => StatusCode::INTERNAL_SERVER_ERROR,
        Reception::Taken => StatusCode::NO_CONTENT,
        Reception::TakenLate => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            StatusCode::NO_CONTENT
        }
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down a message, and says what becomes of it.
    fn note(&self, headers: &HeaderMap, body: &[u8]) -> std::io::Result<Reception> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let name = text("webhook-id").unwrap_or_default().to_owned();
        let is_signed = self.is_signed(headers, &name, body).is_ok();
        let reception = self.state().receive(&name);
        let mut telling = Telling {
            at: now(),
            name,
            is_signed,
            is_taken: matches!(reception, Reception::Taken | Reception::TakenLate),
            end: end_of(body),
        };
        self.lines.write(&telling)?;
        if let Some(end) = telling.end.take().filter(|_| telling.is_taken) {
            self.state().taken.insert(end.id);
        }
        Ok(reception)
    }

    fn is_signed(&self, headers: &HeaderMap, name: &str, body: &[u8]) -> Result<()> {
        let text = |name| {
            headers
                .get(name)
                .context("a header is missing")?
                .to_str()
                .context("text")
        };
        let seconds: i64 = text("webhook-timestamp")?.parse()?;
        let age = now() / 1_000_000 - seconds;
        ensure!(age.unsigned_abs() <= AGE_MAX.as_secs(), "its time is off");
        let signature = text("webhook-signature")?.strip_prefix("v1,");
        let signature = BASE64_STANDARD.decode(signature.context("version 1")?)?;
        let message = [format!("{name}.{seconds}.").as_bytes(), body].concat();
        let verified = hmac::verify(&self.key, &message, &signature);
        verified.ok().context("another signature")
    }
}

impl State {
    /// Some messages are taken at their second try only.
    fn receive(&mut self, name: &str) -> Reception {
        let tries = self.tries.entry(name.to_owned()).or_default();
        *tries += 1;
        let chance = self.rng.random_range(0..20);
        match (*tries, chance) {
            (1, 0 | 1) => Reception::Refused,
            (1, 2) => Reception::Cut,
            (_, 3) => Reception::TakenLate,
            _ => Reception::Taken,
        }
    }
}

fn end_of(body: &[u8]) -> Option<End> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    if body.get("type")? != "job.ended" {
        return None;
    }
    let data = body.get("data")?;
    let text = |name: &str| data.get(name).and_then(|text| text.as_str());
    let status = match text("status")? {
        "DONE" => Status::Done,
        "ERROR" => Status::Error,
        "CANCELLED" => Status::Cancelled,
        _ => return None,
    };
    Some(End {
        id: data.get("job_id")?.as_i64()?,
        tag: text("job_tag")?.to_owned(),
        status,
        error: text("error").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn send(receiver: &Receiver, signature: &str, seconds: i64, body: &str) -> Option<u16> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(receiver.address)
            .await
            .unwrap();
        let len = body.len();
        let request = format!(
            "POST /ended HTTP/1.1\r\nHost: x\r\nConnection: close\r\nwebhook-id: job-7-q\r\n\
             webhook-timestamp: {seconds}\r\nwebhook-signature: {signature}\r\n\
             Content-Length: {len}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    #[tokio::test]
    async fn what_is_told_is_written_down_and_taken_by_the_second_try() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tellings");
        let receiver = Receiver::start(&path, 1).await.unwrap();
        let body = r#"{"type":"job.ended","data":{"job_id":7,"job_tag":"a","status":"ERROR","error":"e"}}"#;
        let seconds = now() / 1_000_000;
        let message = format!("job-7-q.{seconds}.{body}");
        let signature = hmac::sign(&receiver.shared.key, message.as_bytes());
        let signature = format!("v1,{}", BASE64_STANDARD.encode(signature));
        let all = BTreeSet::from([7]);
        assert!(!receiver.has_taken(&all));
        send(&receiver, &signature, seconds, body).await;
        assert_eq!(send(&receiver, &signature, seconds, body).await, Some(204));
        assert!(receiver.has_taken(&all));
        send(&receiver, &signature, seconds, "{}").await;
        send(&receiver, &signature, seconds - 3_600, body).await;

        let told = read(&path).unwrap();
        let end = End {
            id: 7,
            tag: "a".to_owned(),
            status: Status::Error,
            error: Some("e".to_owned()),
        };
        assert_eq!(told[1].end, Some(end));
        assert!(told[1].is_taken && told[1].name == "job-7-q");
        let signed: Vec<_> = told.iter().map(|telling| telling.is_signed).collect();
        assert_eq!(signed, [true, true, false, false]);
        assert_eq!(told[2].end, None);
    }

    #[test]
    fn first_tries_meet_everything_and_second_ones_are_taken() {
        let mut state = State {
            rng: StdRng::seed_from_u64(1),
            tries: BTreeMap::new(),
            taken: BTreeSet::new(),
        };
        let first: Vec<_> = (0..200).map(|n| state.receive(&n.to_string())).collect();
        for reception in [
            Reception::Taken,
            Reception::TakenLate,
            Reception::Refused,
            Reception::Cut,
        ] {
            assert!(first.contains(&reception), "{reception:?}");
        }
        for n in 0..200 {
            let second = state.receive(&n.to_string());
            assert!(matches!(second, Reception::Taken | Reception::TakenLate));
        }
    }
}
