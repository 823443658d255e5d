//! Requests of ordinary HTTP, good ones and what mutations make of them, by a seed.

mod looks;

use kjob_proto::{Encoding, snappy};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::mutation::mutate;

/// The longest target or header that comes of a mutation: longer ones are another attack's.
const TEXT_LEN_MAX: usize = 9_000;

/// Tags and keys there are: few, so that they meet.
const TAGS: u32 = 200;

/// Jobs that an attacker remembers.
const KNOWN_MAX: usize = 40;

/// Draws the value of a member.
type Draw = fn(&mut StdRng) -> Value;

/// What a request is for, before it was mutated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Submit,
    List,
    Look,
    Cancel,
    Result,
    Events,
    Changes,
    Payload,
    Log,
    /// An upstream's, of how far a job is.
    Report,
    /// What is there beside jobs.
    Page,
    Call,
    /// Anything at any path.
    Any,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) kind: Kind,
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) is_mutated: bool,
    /// Whether its head may be none by HTTP's grammar.
    pub(crate) may_be_no_http: bool,
}

/// What an attacker was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    ids: Vec<i64>,
    etags: Vec<String>,
}

impl Kind {
    /// Statuses of a good request that is done.
    pub(crate) fn successes(self) -> &'static [u16] {
        match self {
            Self::Submit | Self::Cancel | Self::Call => &[200, 202],
            Self::List | Self::Look | Self::Changes | Self::Log => &[200],
            Self::Result => &[200, 206, 304],
            Self::Events => &[200, 204],
            Self::Payload => &[200, 206],
            Self::Page => &[200, 304],
            // No upstream was told a token, so none may be right.
            Self::Report | Self::Any => &[],
        }
    }

    /// Statuses of a good request that is not done, for what it meets.
    pub(crate) fn refusals(self) -> &'static [u16] {
        match self {
            // A tag that names another call; a callback that nobody allowed.
            Self::Submit => &[409, 422, 429],
            Self::List | Self::Changes | Self::Page => &[429],
            Self::Look | Self::Events | Self::Log | Self::Report => &[404, 429],
            Self::Payload => &[404, 416, 429],
            Self::Cancel => &[404, 409, 429],
            Self::Result => &[404, 409, 416, 422, 429],
            Self::Call => &[409, 429, 502],
            Self::Any => &[],
        }
    }
}

impl Known {
    /// There is such a job.
    pub(crate) fn job(&mut self, id: i64) {
        if self.ids.len() >= KNOWN_MAX {
            self.ids.remove(0);
        }
        self.ids.push(id);
    }

    /// There is such a result.
    pub(crate) fn etag(&mut self, etag: &str) {
        if self.etags.len() >= KNOWN_MAX {
            self.etags.remove(0);
        }
        self.etags.push(etag.to_owned());
    }

    /// How a path names a job: mostly one that is there, and mostly one of the newest.
    fn key(&self, random: &mut StdRng) -> String {
        let newest = random
            .random_range(0..KNOWN_MAX)
            .min(random.random_range(0..KNOWN_MAX));
        let known = self.ids.iter().rev().nth(newest.min(self.ids.len() / 2));
        match (known, random.random_range(0..10)) {
            (_, 0) => format!("tag:m-{}", random.random_range(0..TAGS)),
            (_, 1) | (None, _) => random.random_range(1..1_000_000).to_string(),
            (Some(id), _) => id.to_string(),
        }
    }

    fn any_etag(&self, random: &mut StdRng) -> String {
        let at = random.random_range(0..self.etags.len().max(1));
        let etag = self.etags.get(at);
        etag.cloned().unwrap_or_else(|| "\"none\"".to_owned())
    }
}

impl Asked {
    /// The next request: half of them good, half of them mutated.
    pub(crate) fn draw(known: &Known, random: &mut StdRng) -> Self {
        let mut asked = match random.random_range(0..100) {
            0..20 => submit(random),
            20..30 => looks::list(random),
            30..41 => looks::look(known, random),
            41..48 => cancel(known, random),
            48..62 => looks::result(known, random),
            62..69 => looks::events(known, random),
            69..71 => looks::changes(),
            71..75 => looks::payload(known, random),
            75..78 => looks::log(known, random),
            78..81 => report(known, random),
            81..86 => looks::page(known, random),
            86..98 => call(random),
            _ => any(random),
        };
        if random.random_bool(0.5) && asked.kind != Kind::Any {
            for _ in 0..random.random_range(1..=2) {
                asked.mutate(random);
            }
        }
        asked
    }

    /// One as it is without a mutation.
    pub(crate) fn plain(kind: Kind, method: &str) -> Self {
        Self {
            kind,
            method: method.into(),
            target: Vec::new(),
            headers: Vec::new(),
            body: Vec::new(),
            is_mutated: false,
            may_be_no_http: false,
        }
    }

    /// Its bytes over HTTP/1.
    pub(crate) fn to_http1(&self) -> Vec<u8> {
        let mut bytes = [&self.method[..], b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        let has_host = self.headers.iter().any(|(name, _)| *name == "host");
        if !has_host {
            bytes.extend(b"host: 127.0.0.1\r\n");
        }
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if !self.body.is_empty() {
            bytes.extend(format!("content-length: {}\r\n", self.body.len()).into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }

    /// Whether it may have got to a routed endpoint.
    pub(crate) fn may_call(&self) -> bool {
        self.kind == Kind::Call || self.is_mutated
    }

    /// The encoding of the envelope that it is answered in, if it is a call as wire clients make it.
    pub(crate) fn envelope(&self) -> Option<Encoding> {
        let value = |name: &str| self.headers.iter().find(|(known, _)| *known == name);
        let (_, content_type) = value("content-type").filter(|_| self.kind == Kind::Call)?;
        match (&content_type[..], value("prefer")) {
            (b"application/octet-stream", None) => Some(Encoding::Binary),
            (b"application/x-snappy", None) => Some(Encoding::Snappy),
            _ => None,
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Makes one of its parts another.
    fn mutate(&mut self, random: &mut StdRng) {
        self.is_mutated = true;
        match random.random_range(0..10) {
            0 => self.method = method(random),
            1..4 => self.target = text(&self.target, b"/jobs/1/result?wait=1&limit=", random),
            4..7 if !self.headers.is_empty() => {
                let at = random.random_range(0..self.headers.len());
                let value = &mut self.headers[at].1;
                *value = text(value, b"bytes=0-1, wait=1, W/\"*\"", random);
            }
            7 => self.headers.push(stray(random)),
            _ if !self.body.is_empty() => {
                let other = br#"{"endpoint":"/demo/echo","payload":{"message":"m"}}"#;
                self.body = mutate(&self.body, other, Encoding::Binary, random);
            }
            _ => self.target = text(&self.target, b"?status=DONE&after=1", random),
        }
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let is_target =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"/?:@!$&'()*+,;=-._~%".contains(byte);
        let is_value = |byte: &u8| (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t';
        let is_http = !self.method.is_empty()
            && self.method.iter().all(is_token)
            && self.target.starts_with(b"/")
            && self.target.iter().all(is_target)
            && self
                .headers
                .iter()
                .all(|(_, value)| value.iter().all(is_value));
        self.may_be_no_http = !is_http;
    }
}

fn submit(random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Submit, "POST").with("content-type", "application/json");
    let mut body = json!({ "endpoint": endpoint(random) });
    let mut set = |name: &str, value: Value| body[name] = value;
    if random.random_ratio(1, 8) {
        set("payload_base64", json!("eyJtZXNzYWdlIjoibSJ9"));
        set("payload_encoding", json!("binary"));
    } else {
        set("payload", json!({ "message": message(random) }));
    }
    let options: [(&str, Draw); 9] = [
        ("job_tag", |random| {
            json!(format!("m-{}", random.random_range(0..TAGS)))
        }),
        ("tag_reuse", |random| {
            json!(["never", "if_failed"][random.random_range(0..2)])
        }),
        ("priority", |random| json!(random.random_range(0..10))),
        // No longer: somebody waits for it.
        ("delay_ms", |random| json!(random.random_range(0..300))),
        ("timeout_ms", |random| json!(random.random_range(1..10_000))),
        ("retention_seconds", |random| {
            json!(random.random_range(0..100))
        }),
        ("remove_job_on_complete", |random| {
            json!(random.random_bool(0.5))
        }),
        ("user_data", |random| json!(message(random))),
        ("callback_url", |_| json!("http://127.0.0.1:9/")),
    ];
    for (name, value) in options {
        let odds = if name == "callback_url" { 50 } else { 6 };
        if random.random_ratio(1, odds) {
            set(name, value(random));
        }
    }
    asked.target = b"/jobs".to_vec();
    asked.body = body.to_string().into_bytes();
    asked
}

fn cancel(known: &Known, random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Cancel, "DELETE");
    asked.target = query(&format!("/jobs/{}", known.key(random)), &[]);
    asked
}

/// What upstreams send of the jobs that they run, by somebody who runs none.
fn report(known: &Known, random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Report, "POST").with("content-type", "application/json");
    let token = format!("token={:032x}", random.random::<u128>());
    asked.target = query(&format!("/jobs/{}/progress", known.key(random)), &[token]);
    let percent = random.random_range(0..=100);
    let body = if random.random_bool(0.5) {
        json!({ "progress": percent })
    } else {
        json!(percent)
    };
    asked.body = body.to_string().into_bytes();
    asked
}

fn call(random: &mut StdRng) -> Asked {
    const PREFERENCES: [&str; 5] = [
        "respond-async",
        "respond-async, wait=1",
        "wait=1",
        "handling=lenient; x",
        "respond-async;q=0",
    ];
    let mut asked = Asked::plain(Kind::Call, "POST");
    asked.target = endpoint(random).into();
    let message = message(random);
    let avro = || {
        let len = u8::try_from(message.len()).unwrap_or(0);
        let mut body = vec![len << 1];
        body.extend(message.as_bytes());
        body.push(0);
        body
    };
    let (content_type, body) = match random.random_range(0..6) {
        0 => ("application/octet-stream", avro()),
        1 => ("application/x-snappy", snappy::compress(&avro())),
        2 => (
            "application/vnd.x+json",
            json!({ "message": message }).to_string().into(),
        ),
        _ => (
            "application/json",
            json!({ "message": message }).to_string().into(),
        ),
    };
    asked = asked.with("content-type", content_type);
    asked.body = body;
    if random.random_ratio(1, 2) {
        asked = asked.with(
            "prefer",
            PREFERENCES[random.random_range(0..PREFERENCES.len())],
        );
    }
    if random.random_ratio(1, 3) {
        let key = format!("k-{}", random.random_range(0..TAGS));
        let key = if random.random_bool(0.5) {
            format!("\"{key}\"")
        } else {
            key
        };
        asked = asked.with("idempotency-key", key);
    }
    asked
}

/// Something at random, at some path.
fn any(random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Any, "GET");
    asked.method = method(random);
    asked.target = text(b"/", b"/jobs/tag:/result", random);
    asked.headers.push(stray(random));
    if random.random_bool(0.5) {
        asked.body = mutate(b"", b"{}", Encoding::Binary, random);
    }
    asked.mutate(random);
    asked
}

/// One that always fails, or one that gives back what it was given; both at once.
fn endpoint(random: &mut StdRng) -> &'static str {
    if random.random_ratio(1, 8) {
        "/demo/fail"
    } else {
        "/demo/echo"
    }
}

/// Short enough that its length is one byte in Avro.
fn message(random: &mut StdRng) -> String {
    "m".repeat(random.random_range(0..60))
}

fn query(path: &str, parameters: &[String]) -> Vec<u8> {
    let separator = if parameters.is_empty() { "" } else { "?" };
    format!("{path}{separator}{}", parameters.join("&")).into_bytes()
}

fn method(random: &mut StdRng) -> Vec<u8> {
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get",
    ];
    let known = METHODS[random.random_range(0..METHODS.len())].as_bytes();
    match random.random_range(0..4) {
        0 => text(known, b"GET", random),
        _ => known.to_vec(),
    }
}

/// A header that nobody asked for.
fn stray(random: &mut StdRng) -> (&'static str, Vec<u8>) {
    const STRAYS: [(&str, &str); 12] = [
        ("origin", "http://evil.example"),
        ("content-encoding", "gzip"),
        ("expect", "100-continue"),
        ("accept", "text/html;q=x"),
        ("accept-encoding", "br"),
        ("authorization", "Basic Og=="),
        ("host", "evil.example"),
        ("content-type", "text/plain"),
        ("range", "bytes=1-"),
        ("prefer", "respond-async"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("user-agent", "kinetica-api-python"),
    ];
    let (name, value) = STRAYS[random.random_range(0..STRAYS.len())];
    (name, value.into())
}

/// A mutated part of a head, without ends of lines: where a head ends is another attack's matter.
fn text(from: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut text = mutate(from, other, Encoding::Binary, random);
    text.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    // Most are to get past the parser of heads.
    if random.random_ratio(4, 5) {
        text.retain(u8::is_ascii_graphic);
    }
    text.truncate(TEXT_LEN_MAX);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;

    use super::*;

    fn run(seed: u64) -> Vec<Asked> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut known = Known::default();
        known.job(7);
        known.etag("\"e\"");
        let asked = (0..4_000).map(|_| Asked::draw(&known, &mut random));
        asked.collect()
    }

    #[test]
    fn a_seed_gives_the_same_requests_of_all_kinds_good_and_bad() {
        let all = run(1);
        assert_eq!(all, run(1));
        assert_ne!(all, run(2));
        let mut kinds: BTreeMap<(Kind, bool), u32> = BTreeMap::new();
        for asked in &all {
            *kinds.entry((asked.kind, asked.is_mutated)).or_default() += 1;
        }
        assert_eq!(kinds.len(), 25, "all but anything that is good: {kinds:?}");
        let share = |is: fn(&Asked) -> bool| all.iter().filter(|asked| is(asked)).count();
        assert!((1_700..2_200).contains(&share(|asked| !asked.is_mutated)));
        assert!(
            share(|asked| asked.may_be_no_http) < 1_000,
            "most get past the parser"
        );
    }

    #[test]
    fn no_head_ends_before_its_end() {
        for asked in run(3) {
            let bytes = asked.to_http1();
            let head = &bytes[..bytes.len() - asked.body.len()];
            let ends = head.windows(2).filter(|pair| pair == b"\r\n").count();
            let lines = 1 + asked.headers.len() + usize::from(!asked.body.is_empty());
            let host = asked.headers.iter().all(|(name, _)| *name != "host");
            assert_eq!(ends, lines + usize::from(host) + 1, "{asked:?}");
        }
    }
}
