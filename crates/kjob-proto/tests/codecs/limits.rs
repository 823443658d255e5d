//! Each limit, at the limit and one past it, and what is refused before anything is allocated.

use crate::support::unhex;
use bytes::Bytes;
use kjob_proto::DecodeErrorKind::*;
use kjob_proto::*;

fn refused<R: Record>(
    encoding: Encoding,
    body: impl Into<Bytes>,
    limits: &Limits,
) -> (DecodeErrorKind, &'static str) {
    let error = R::decode(encoding, body.into(), limits).unwrap_err();
    (error.kind, error.field)
}

fn request() -> CreateJobRequest {
    CreateJobRequest {
        endpoint: "/a/bb".into(),
        data: Bytes::from(vec![b'x'; 300]),
        data_str: "y".repeat(300).into(),
        options: StringMap::from_iter([("k1", "v"), ("k2", "v"), ("k3", "vvvvv")]),
        ..Default::default()
    }
}

fn bodies(request: &CreateJobRequest) -> [(Encoding, Bytes); 3] {
    let binary = request.encode_to_bytes();
    let snappy = snappy::compress(&binary);
    let json = request.encode_json();
    [
        (Encoding::Binary, binary),
        (Encoding::Snappy, snappy.into()),
        (Encoding::Json, json.into()),
    ]
}

#[test]
fn max_body() {
    for (encoding, body) in bodies(&request()) {
        let (at, past) = (body.len(), body.len() - 1);
        let limits = Limits::default().with_max_body(at);
        assert_eq!(
            CreateJobRequest::decode(encoding, body.clone(), &limits),
            Ok(request())
        );
        let limits = Limits::default().with_max_body(past);
        let expected = (
            TooLong {
                found: at as u64,
                limit: past,
            },
            DecodeError::BODY,
        );
        assert_eq!(
            refused::<CreateJobRequest>(encoding, body, &limits),
            expected
        );
    }
}

#[test]
fn max_decompressed() {
    let plain = request().encode_to_bytes();
    let body = Bytes::from(snappy::compress(&plain));
    let limits = Limits::default().with_max_decompressed(plain.len());
    assert_eq!(
        CreateJobRequest::decode(Encoding::Snappy, body.clone(), &limits),
        Ok(request())
    );
    let limits = Limits::default().with_max_decompressed(plain.len() - 1);
    let expected = TooLong {
        found: plain.len() as u64,
        limit: plain.len() - 1,
    };
    assert_eq!(
        refused::<CreateJobRequest>(Encoding::Snappy, body, &limits).0,
        expected
    );

    // The body's own limit is for the block as received, so it may be the smaller one.
    let body = Bytes::from(snappy::compress(&plain));
    let limits = Limits::default().with_max_body(body.len());
    assert!(body.len() < plain.len());
    assert_eq!(
        CreateJobRequest::decode(Encoding::Snappy, body, &limits),
        Ok(request())
    );
}

/// The longest string is five bytes, in a map and as a field; payloads are longer and not concerned.
#[test]
fn max_string() {
    for (encoding, body) in bodies(&request()) {
        let limits = Limits::default().with_max_string(5);
        assert_eq!(
            CreateJobRequest::decode(encoding, body.clone(), &limits),
            Ok(request())
        );
        let limits = Limits::default().with_max_string(4);
        let expected = (TooLong { found: 5, limit: 4 }, "endpoint");
        assert_eq!(
            refused::<CreateJobRequest>(encoding, body, &limits),
            expected
        );
    }
    for (encoding, body) in bodies(&CreateJobRequest {
        endpoint: "/a".into(),
        ..request()
    }) {
        let limits = Limits::default().with_max_string(4);
        let expected = (TooLong { found: 5, limit: 4 }, "options");
        assert_eq!(
            refused::<CreateJobRequest>(encoding, body, &limits),
            expected
        );
    }
}

#[test]
fn max_map_entries() {
    for (encoding, body) in bodies(&request()) {
        let limits = Limits::default().with_max_map_entries(3);
        assert_eq!(
            CreateJobRequest::decode(encoding, body.clone(), &limits),
            Ok(request())
        );
        let limits = Limits::default().with_max_map_entries(2);
        let expected = (TooManyEntries { found: 3, limit: 2 }, "options");
        assert_eq!(
            refused::<CreateJobRequest>(encoding, body, &limits),
            expected
        );
    }
    let request = AdminAlterJobsRequest {
        job_ids: vec![1, 2, 3],
        ..Default::default()
    };
    let limits = Limits::default().with_max_map_entries(3);
    let json = Bytes::from(request.encode_json());
    for (encoding, body) in [
        (Encoding::Binary, request.encode_to_bytes()),
        (Encoding::Json, json),
    ] {
        assert_eq!(
            AdminAlterJobsRequest::decode(encoding, body.clone(), &limits),
            Ok(request.clone())
        );
        let expected = (TooManyEntries { found: 3, limit: 2 }, "job_ids");
        let limits = limits.with_max_map_entries(2);
        assert_eq!(
            refused::<AdminAlterJobsRequest>(encoding, body, &limits),
            expected
        );
    }
}

/// Many small blocks count together.
#[test]
fn max_map_entries_over_blocks() {
    let body = unhex("0a 02026102 31 02026202 32 00".replace(' ', "").as_str());
    let limits = Limits::default().with_max_map_entries(2);
    assert_eq!(
        GetJobRequest::decode_binary(body.clone().into(), &limits)
            .unwrap()
            .options
            .len(),
        2
    );
    let limits = limits.with_max_map_entries(1);
    let expected = (TooManyEntries { found: 2, limit: 1 }, "options");
    assert_eq!(
        refused::<GetJobRequest>(Encoding::Binary, body, &limits),
        expected
    );
}

/// The record is level 1, its maps are level 2, and what an unknown member holds goes on from there.
#[test]
fn max_depth() {
    let limits = Limits::default();
    let body = |text: &'static str| Bytes::from_static(text.as_bytes());
    let too_deep = |text, levels| {
        refused::<GetJobRequest>(Encoding::Json, body(text), &limits.with_max_depth(levels))
    };
    let map = r#"{"options":{"a":"b"}}"#;
    assert!(GetJobRequest::decode_json(body(map), &limits.with_max_depth(2)).is_ok());
    assert_eq!(too_deep(map, 1), (TooDeep { limit: 1 }, "options"));
    assert_eq!(too_deep(map, 0), (TooDeep { limit: 0 }, DecodeError::BODY));

    let unknown = r#"{"job_id":1,"x":[{"y":[1,2,"z"]}]}"#;
    assert!(GetJobRequest::decode_json(body(unknown), &limits.with_max_depth(4)).is_ok());
    assert_eq!(
        too_deep(unknown, 3),
        (TooDeep { limit: 3 }, DecodeError::BODY)
    );

    // However high the limit, the stack is safe.
    let bomb = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    let error = refused::<GetJobRequest>(Encoding::Json, bomb, &limits.with_max_depth(usize::MAX));
    assert!(matches!(error.0, Json(_)), "{error:?}");
}

/// A few bytes that announce gigabytes. The allocations are counted in `allocations.rs`.
#[test]
fn bombs() {
    let limits = Limits::default();
    let end = |found, needed| UnexpectedEnd { found, needed };
    let many = |found| TooManyEntries {
        found,
        limit: limits.max_map_entries,
    };
    let map_of = |hex: &str| refused::<GetJobRequest>(Encoding::Binary, unhex(hex), &limits).0;
    let array_of =
        |hex: &str| refused::<AdminAlterJobsRequest>(Encoding::Binary, unhex(hex), &limits).0;
    let payload_of =
        |hex: &str| refused::<CreateJobRequest>(Encoding::Binary, unhex(hex), &limits).0;

    assert_eq!(map_of("00feffffff0f"), many(0x7fff_ffff));
    assert_eq!(map_of("00feffffffffffffffff01"), many(i64::MAX as u64));
    assert_eq!(map_of("00ffffffffffffffffff01"), end(0, 1));
    assert_eq!(
        map_of("0080800800"),
        end(1, 2 * 65536),
        "fits the limit and is not there"
    );
    assert_eq!(
        map_of("00fdffffffffffffffff0100"),
        many(i64::MAX as u64),
        "negative count"
    );
    assert_eq!(array_of("feffffff0f"), many(0x7fff_ffff));
    assert_eq!(array_of("80800800"), end(1, 65536));
    assert_eq!(payload_of("0000feffffff0f"), end(0, 0x7fff_ffff));
    assert_eq!(
        payload_of("0000feffffffffffffffff01"),
        end(0, i64::MAX as u64)
    );
    let too_long = TooLong {
        found: i64::MAX as u64,
        limit: limits.max_string,
    };
    assert_eq!(payload_of("feffffffffffffffff01"), too_long);
}

#[test]
fn a_count_that_cannot_be_negated() {
    let body = unhex("00ffffffffffffffffff010200");
    let error = refused::<GetJobRequest>(Encoding::Binary, body, &Limits::default());
    assert_eq!(error, (BadCount { found: i64::MIN }, "options"));
}

#[test]
fn snappy_bombs() {
    let limits = Limits::default();
    let kind = |hex: &str| snappy::decompress(&unhex(hex), &limits).unwrap_err().kind;
    assert_eq!(
        kind("ffffffff0f"),
        TooLong {
            found: 0xffff_ffff,
            limit: limits.max_decompressed
        }
    );
    // 64 MiB from five bytes: within the limit, and past what five bytes can unfold to.
    assert!(matches!(kind("8080802000"), Snappy(_)));
    assert!(matches!(kind("ffffffffff0f"), Snappy(_)));
    assert_eq!(
        kind(""),
        UnexpectedEnd {
            found: 0,
            needed: 1
        }
    );
}

/// The densest block there is still unfolds.
#[test]
fn the_best_compression_is_not_taken_for_a_bomb() {
    for len in [0, 1, 64, 1000, 1 << 20, 8 << 20] {
        let plain = vec![7; len];
        let block = snappy::compress(&plain);
        assert_eq!(
            snappy::decompress(&block, &Limits::default()).unwrap(),
            plain,
            "{len}"
        );
    }
    // By hand: a literal of one byte, then copies of 64 bytes with two-byte offsets.
    let copies = 1000_usize;
    let mut block = vec![0; 0];
    let mut rest = 1 + 64 * copies;
    while rest >= 0x80 {
        block.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
    block.extend([0, b'a']);
    block.extend([0xfe, 1, 0].repeat(copies));
    let plain = snappy::decompress(&block, &Limits::default()).unwrap();
    assert_eq!(plain, vec![b'a'; 1 + 64 * copies]);
}
