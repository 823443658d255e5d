//! Bodies that cost more than they are.

use kjob_proto::{CreateJobRequest, Encoding, Record, snappy as codec};

use super::Field;
use crate::siege::http1::Connection;
use crate::siege::owed;

/// How many attack at once.
const ATTACKERS: usize = 60;

/// Bytes that a body, and snappy data, may have at most.
const LARGEST: usize = 64 << 20;

/// Bytes of record bombs.
const RECORD: usize = 4 << 20;

/// Snappy blocks: honest ones at and past the limit, and ones that lie.
pub(super) async fn snappy(field: Field) {
    let record = CreateJobRequest {
        endpoint: "/demo/nothing".into(),
        request_encoding: "binary".into(),
        data: vec![0; LARGEST - 1024].into(),
        ..Default::default()
    };
    let payload_bomb = CreateJobRequest {
        endpoint: "/demo/echo".into(),
        request_encoding: "snappy".into(),
        data: codec::compress(&vec![0; LARGEST]).into(),
        ..Default::default()
    };
    let at_limit = codec::compress(&record.encode_to_bytes());
    let past_limit = codec::compress(&vec![0; LARGEST + 1]);
    let mut lying = at_limit.clone();
    lying.truncate(100);
    let bombs = vec![
        ("at the limit", at_limit.clone()),
        ("at the limit", at_limit),
        ("past the limit", past_limit),
        ("cut off", lying),
        ("announces 4 GiB", b"\xff\xff\xff\xff\x0f\0\0".to_vec()),
        ("announces 1 GiB", b"\x80\x80\x80\x80\x04\0\0".to_vec()),
        (
            "announces too much",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(),
        ),
        (
            "a payload",
            codec::compress(&payload_bomb.encode_to_bytes()),
        ),
    ];
    let bombs = bombs.into_iter();
    let all: Vec<Bomb> = bombs
        .map(|(what, body)| Bomb {
            what,
            path: "/create/job",
            encoding: Encoding::Snappy,
            body,
        })
        .collect();
    throw(field, all).await;
}

/// Records whose parts are more than their bytes.
pub(super) async fn records(field: Field) {
    let json = |what, path, text: String| Bomb {
        what,
        path,
        encoding: Encoding::Json,
        body: text.into_bytes(),
    };
    let binary = |what, path, body: Vec<u8>| Bomb {
        what,
        path,
        encoding: Encoding::Binary,
        body,
    };
    let (get, show, alter) = ("/get/job", "/admin/show/jobs", "/admin/alter/jobs");
    let entries = |count: usize| {
        let entries: Vec<String> = (0..count).map(|n| format!("\"{n}\":\"\"")).collect();
        format!("{{\"options\":{{{}}}}}", entries.join(","))
    };
    let deep = |depth: usize| format!("{{\"options\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let long = |byte: &str| byte.repeat(RECORD / byte.len());
    let all = vec![
        json("deep arrays", show, deep(RECORD / 2)),
        json("deep objects", show, "{\"a\":".repeat(RECORD / 5)),
        json("a map of 65,536", show, entries(1 << 16)),
        json("a map of 65,537", show, entries((1 << 16) + 1)),
        json(
            "a long number",
            get,
            format!("{{\"job_id\":{}}}", long("9")),
        ),
        json("an exponent", get, "{\"job_id\":1e999999999}".to_owned()),
        json(
            "escapes",
            show,
            format!("{{\"options\":{{\"a\":\"{}\"}}}}", long("\\u0041")),
        ),
        json(
            "lone surrogates",
            show,
            format!("{{\"options\":{{\"a\":\"{}\"}}}}", long("\\ud800")),
        ),
        json(
            "ids",
            alter,
            format!("{{\"job_ids\":[{}1],\"action\":\"cancel\"}}", long("-1,")),
        ),
        json("blanks", show, long(" ")),
        json(
            "one key",
            show,
            format!("{{{}\"options\":{{}}}}", long("\"options\":{},")),
        ),
        binary("a map of 2^62", show, varint(1 << 62)),
        binary(
            "a map of -2^62 in 0 bytes",
            show,
            [varint(-(1 << 62)), vec![0]].concat(),
        ),
        binary("blocks of one", show, {
            let mut body = [2, 0, 0].repeat(RECORD / 3);
            body.push(0);
            body
        }),
        binary(
            "a negative block that lies",
            show,
            [varint(-5), varint(i64::MAX), vec![0; 64]].concat(),
        ),
        binary(
            "ids of nothing",
            alter,
            [varint(1 << 40), vec![0; RECORD]].concat(),
        ),
        binary("a text of 2^62", "/create/job", varint(1 << 62)),
        binary("a negative text", "/create/job", varint(-1)),
        binary("an overlong number", get, [0xff].repeat(RECORD)),
    ];
    throw(field, all).await;
}

/// A body and where it goes.
#[derive(Clone, Debug)]
struct Bomb {
    what: &'static str,
    path: &'static str,
    encoding: Encoding,
    body: Vec<u8>,
}

async fn throw(field: Field, bombs: Vec<Bomb>) {
    let bombs = std::sync::Arc::new(bombs);
    let attacker = move |field: Field, number: usize| {
        let bombs = bombs.clone();
        async move {
            let Ok(mut connection) = Connection::open(field.server).await else {
                return field.tally.answered("not connected");
            };
            field.tally.connected();
            for bomb in bombs.iter().cycle().skip(number).take(bombs.len()) {
                if field.is_over() {
                    return;
                }
                let Bomb {
                    what,
                    path,
                    encoding,
                    body,
                } = bomb;
                field.tally.sent(1, body.len());
                match connection.post(path, encoding.content_type(), body).await {
                    Ok(reply) => match owed::check(&reply, *encoding) {
                        Ok(()) => field.tally.answered(reply.status.to_string()),
                        Err(why) => field.tally.violation(format!("{what}: {why}")),
                    },
                    Err(error) => {
                        return field.tally.violation(format!("{what}: {error}"));
                    }
                }
            }
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
}

/// A number as Avro writes it.
fn varint(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 128 {
        bytes.push(u8::try_from(rest & 127).unwrap_or(0) | 128);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap_or(0));
    bytes
}
