//! An HTTP/1 client that sends what it is told and hides nothing.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use kjob_proto::failover::{PHRASES, contains_phrase};
use kjob_proto::{
    CreateJobRequest, CreateJobResponse, Encoding, Envelope, GetJobRequest, GetJobResponse, Limits,
    Record, StringMap,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A bound for tests that would hang; no test waits for it to pass.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TEST_TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {TEST_TIMEOUT:?}: {what}"),
    }
}

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) line: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Raw {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time("send", self.stream.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// Sends a POST with a `Content-Length`.
    pub(crate) async fn post(&mut self, path: &str, content_type: &str, body: &[u8]) {
        let head = post_head(
            path,
            content_type,
            &format!("Content-Length: {}", body.len()),
        );
        self.send([head.as_bytes(), body].concat()).await;
    }

    /// Receives a reply made by the service, which has all that each reply has to have.
    pub(crate) async fn reply(&mut self) -> Reply {
        let reply = self.bare_reply(true).await;
        let took = reply.header("x-request-time-secs").expect("request time");
        assert!(took.parse::<f64>().is_ok(), "{took:?} is no float");
        reply
    }

    /// Receives a reply; `has_body` is false for the answer to a HEAD.
    pub(crate) async fn bare_reply(&mut self, has_body: bool) -> Reply {
        let head = in_time("the head of a reply", self.head()).await;
        let mut lines = head.lines();
        let line = lines.next().unwrap().to_owned();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut reply = Reply {
            line,
            status,
            headers,
            body: Bytes::new(),
        };
        assert_eq!(reply.header("transfer-encoding"), None, "never chunked");
        if has_body && status != 100 {
            let len = reply.header("content-length").expect("a length");
            let len = len.parse().unwrap();
            in_time("the body of a reply", self.fill(len)).await;
            reply.body = self.received.drain(..len).collect::<Vec<_>>().into();
        }
        reply
    }

    async fn head(&mut self) -> String {
        loop {
            let end = self.received.windows(4).position(|w| w == b"\r\n\r\n");
            if let Some(end) = end {
                let head: Vec<u8> = self.received.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap().trim_end().to_owned();
            }
            let before = self.received.len();
            self.fill(before + 1).await;
        }
    }

    async fn fill(&mut self, len: usize) {
        while self.received.len() < len {
            let read = self.stream.read_buf(&mut self.received).await.unwrap();
            assert_ne!(read, 0, "closed after {:?}", self.received);
        }
    }

    /// Waits until the server closes, and asserts that it sends nothing before.
    pub(crate) async fn assert_closed(&mut self) {
        let read = in_time("the close", self.stream.read_buf(&mut self.received)).await;
        // A reset is a close as well.
        assert_eq!(read.unwrap_or(0), 0, "{:?}", self.received);
        assert!(self.received.is_empty());
    }

    /// Calls an endpoint in binary; gives the record or the error's text.
    pub(crate) async fn call<Q: Record, R: Record>(
        &mut self,
        path: &str,
        request: &Q,
    ) -> Result<R, String> {
        self.call_in(Encoding::Binary, path, request).await
    }

    pub(crate) async fn call_in<Q: Record, R: Record>(
        &mut self,
        encoding: Encoding,
        path: &str,
        request: &Q,
    ) -> Result<R, String> {
        let body = encode(encoding, request);
        self.post(path, encoding.content_type(), &body).await;
        self.reply().await.open(encoding)
    }

    /// Submits a binary payload.
    pub(crate) async fn submit(
        &mut self,
        endpoint: &'static str,
        data: &'static [u8],
        options: &[(&'static str, &str)],
    ) -> Result<CreateJobResponse, String> {
        let request = CreateJobRequest {
            endpoint: endpoint.into(),
            request_encoding: "binary".into(),
            data: data.into(),
            options: map(options),
            ..Default::default()
        };
        self.call("/create/job", &request).await
    }

    pub(crate) async fn get(
        &mut self,
        job_id: i64,
        options: &[(&'static str, &str)],
    ) -> Result<GetJobResponse, String> {
        let options = map(options);
        self.call("/get/job", &GetJobRequest { job_id, options })
            .await
    }

    /// Waits for the end of a job.
    pub(crate) async fn end_of(&mut self, job_id: i64) -> GetJobResponse {
        let job = self.get(job_id, &[("wait_ms", "30000")]).await.unwrap();
        assert!(!job.running, "{job:?}");
        job
    }

    /// Asserts that the connection still takes requests.
    pub(crate) async fn assert_usable(&mut self) {
        self.post("/show/system/status", "application/json", b"{}")
            .await;
        let reply = self.reply().await;
        assert_eq!(reply.status, 200);
    }
}

pub(crate) fn map(entries: &[(&'static str, &str)]) -> StringMap {
    let owned = entries
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()));
    owned.collect()
}

pub(crate) fn encode<R: Record>(encoding: Encoding, record: &R) -> Vec<u8> {
    match encoding {
        Encoding::Binary => record.encode_to_bytes().to_vec(),
        Encoding::Json => record.encode_json(),
        Encoding::Snappy => kjob_proto::snappy::compress(&record.encode_to_bytes()),
    }
}

pub(crate) fn post_head(path: &str, content_type: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {content_type}\r\n{more}\r\n\r\n")
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Opens a reply to a request in `encoding`: the record, or the text of a proper error.
    pub(crate) fn open<R: Record>(&self, encoding: Encoding) -> Result<R, String> {
        let limits = Limits::default();
        let expected = encoding.reply_content_type();
        assert_eq!(self.header("content-type"), Some(expected));
        let envelope = Envelope::decode(encoding.reply(), self.body.clone(), &limits).unwrap();
        if envelope.status == "OK" {
            assert_eq!((self.status, envelope.message.as_str()), (200, ""));
            assert_eq!(envelope.data_type, R::NAME);
            let (record, other) = match encoding.reply() {
                Encoding::Json => (envelope.data_str.into_bytes(), envelope.data),
                _ => (envelope.data, envelope.data_str.into_bytes()),
            };
            assert!(other.is_empty());
            return Ok(R::decode(encoding.reply(), record, &limits).unwrap());
        }
        assert_ne!(self.status, 200);
        assert_eq!((&*envelope.status, &*envelope.data_type), ("ERROR", "none"));
        assert!(envelope.data.is_empty() && envelope.data_str.is_empty());
        assert!(!envelope.message.is_empty());
        Err(envelope.message.to_string())
    }

    /// The text of an error that no client takes for a reason to leave.
    pub(crate) fn plain_error(&self, encoding: Encoding) -> String {
        let message = self.open::<GetJobResponse>(encoding).unwrap_err();
        assert_plain(&message);
        message
    }
}

pub(crate) fn assert_plain(message: &str) {
    assert!(
        !contains_phrase(message),
        "{message} has one of {PHRASES:?}"
    );
}

impl Raw {
    /// Asserts that the server has taken what was sent and has not closed: it answers others.
    pub(crate) async fn assert_open(&mut self) {
        let peer = self.stream.peer_addr().unwrap();
        Raw::connect(peer).await.assert_usable().await;
        let read = self.stream.try_read(&mut [0]);
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    /// Asks for a job's end, and does not read the answer.
    pub(crate) async fn end_of_unread(&mut self, job_id: i64) {
        let options = map(&[("wait_ms", "30000")]);
        let request = GetJobRequest { job_id, options };
        let body = encode(Encoding::Binary, &request);
        self.post("/get/job", Encoding::Binary.content_type(), &body)
            .await;
    }
}
