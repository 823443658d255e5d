//! What decoding and encoding allocate, counted by the global allocator.

#![cfg(all(feature = "json", feature = "snappy"))]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "codecs/support/mod.rs"]
mod support;

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use kjob_proto::*;
use proptest::collection::vec;
use proptest::prelude::*;
use support::*;

/// Measures `call` with its result kept until after.
fn counted<T>(call: impl FnOnce() -> T) -> (T, AllocationInfo) {
    let mut result = None;
    let info = measure(|| result = Some(call()));
    (result.unwrap(), info)
}

/// A body as a server has it: read into one buffer.
fn body(bytes: &[u8]) -> Bytes {
    Bytes::from(bytes.to_vec())
}

fn request(payload_len: usize) -> CreateJobRequest {
    CreateJobRequest {
        endpoint: "/insert/records".into(),
        request_encoding: "binary".into(),
        data: vec![7; payload_len].into(),
        options: StringMap::from_iter([("job_tag", "nightly-2024-06-01")]),
        ..Default::default()
    }
}

fn response(payload_len: usize) -> GetJobResponse {
    GetJobResponse {
        endpoint: "/insert/records".into(),
        job_status: "DONE".into(),
        progress: 100,
        successful: true,
        response_encoding: "binary".into(),
        job_response: vec![7; payload_len].into(),
        info: StringMap::from_iter([("job_tag", "nightly-2024-06-01")]),
        ..Default::default()
    }
}

/// One makes the body shareable, one is the vector of the map: never more, however large the payload.
#[test]
fn a_decode_allocates_twice() {
    fn check<R: Record>(record: R) {
        let bytes = body(&record.encode_to_bytes());
        let (decoded, info) = counted(|| R::decode_binary(bytes, &Limits::default()));
        assert_eq!(decoded, Ok(record));
        assert!(info.count_total <= 2, "{}: {info:?}", R::NAME);
        assert!(info.bytes_total < 200, "{}: {info:?}", R::NAME);
    }
    for len in [0, 256, 1 << 20] {
        check(request(len));
        check(response(len));
        check(Envelope::ok(&response(len), Encoding::Binary));
    }
    check(CreateJobResponse {
        job_id: 7,
        info: request(0).options,
    });
    check(GetJobRequest {
        job_id: 7,
        options: request(0).options,
    });
    check(AdminShowJobsRequest {
        options: request(0).options,
    });
    check(AdminAlterJobsRequest {
        job_ids: vec![1, 2, 3],
        ..Default::default()
    });
    check(ShowSystemStatusRequest::default());
    check(ShowSystemPropertiesRequest {
        options: request(0).options,
    });
}

#[test]
fn encoding_into_a_reused_buffer_allocates_nothing() {
    let mut buffer = Vec::with_capacity(1 << 21);
    for len in [0, 256, 1 << 20] {
        let (request, response) = (request(len), response(len));
        let envelope = Envelope::ok(&response, Encoding::Binary);
        let info = measure(|| {
            for _ in 0..3 {
                buffer.clear();
                request.encode_into(&mut buffer);
                buffer.clear();
                response.encode_into(&mut buffer);
                buffer.clear();
                envelope.encode_into(&mut buffer);
            }
        });
        assert_eq!(info.count_total, 0, "{info:?}");
        assert_eq!(buffer, envelope.encode_to_bytes());
    }
}

/// The head and what makes it shareable; the payload is neither copied nor counted.
#[test]
fn an_envelope_around_a_megabyte_allocates_its_head_alone() {
    let response = response(1 << 20);
    // The first clone of a payload makes it shareable.
    let _shared = response.job_response.clone();
    let (segments, info) = counted(|| reply_ok(&response, Encoding::Binary));
    assert!(segments.total_len() > 1 << 20);
    assert!(info.count_total <= 2 && info.bytes_total < 300, "{info:?}");
}

#[test]
fn bombs_are_refused_before_anything_is_allocated() {
    fn check<R: Record>(encoding: Encoding, hex: &str, bytes_max: u64) {
        let bytes = body(&unhex(hex));
        let (decoded, info) = counted(|| R::decode(encoding, bytes, &Limits::default()));
        assert!(decoded.is_err(), "{hex}");
        assert!(info.bytes_total <= bytes_max, "{hex}: {info:?}");
    }
    check::<GetJobRequest>(Encoding::Binary, "00feffffff0f", 0);
    check::<GetJobRequest>(Encoding::Binary, "0080800800", 0);
    check::<GetJobRequest>(Encoding::Binary, "00ffffffffffffffffff0100", 0);
    check::<AdminAlterJobsRequest>(Encoding::Binary, "feffffff0f", 0);
    check::<CreateJobRequest>(Encoding::Binary, "0000feffffff0f", 0);
    check::<CreateJobRequest>(Encoding::Binary, "feffffffffffffffff01", 0);
    // The message of the error.
    check::<GetJobRequest>(Encoding::Snappy, "ffffffff0f", 200);
    check::<GetJobRequest>(Encoding::Snappy, "8080802000", 200);
    check::<GetJobRequest>(Encoding::Snappy, "ffffffffff0f", 200);
}

/// What a decode of `len` bytes may hold at most: an entry of two bytes takes 64, an error has a message,
/// and text that has escapes is put together once.
fn bytes_max(len: usize) -> u64 {
    40 * len as u64 + 1024
}

fn check_all(bytes: &[u8]) {
    fn check<R: Record>(bytes: &[u8]) {
        for encoding in Encoding::ALL {
            // A block of 5 bytes may unfold to 100: that is what max_decompressed is for.
            let limits = Limits::default().with_max_decompressed(4 * bytes.len() + 64);
            let bytes = body(bytes);
            let len = if encoding == Encoding::Snappy {
                limits.max_decompressed
            } else {
                bytes.len()
            };
            let (_, info) = counted(|| R::decode(encoding, bytes, &limits));
            assert!(
                info.bytes_max <= bytes_max(len),
                "{} {encoding} {len}: {info:?}",
                R::NAME
            );
        }
    }
    for name in [
        "create_job_request",
        "create_job_response",
        "get_job_request",
        "get_job_response",
        "admin_show_jobs_request",
        "admin_show_jobs_response",
        "admin_alter_jobs_request",
        "admin_alter_jobs_response",
        "show_system_status_request",
        "show_system_status_response",
        "show_system_properties_request",
        "show_system_properties_response",
        "gpudb_response",
    ] {
        with_record!(name, check(bytes));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_stay_within_bounds(bytes in vec(any::<u8>(), 0..300)) {
        check_all(&bytes);
    }

    /// Small numbers make lengths and counts that fit, so that decoding gets far.
    #[test]
    fn likely_bytes_stay_within_bounds(bytes in vec(prop_oneof![0..16_u8, any::<u8>()], 0..300)) {
        check_all(&bytes);
    }

    /// A body with a few bytes changed, cut or added.
    #[test]
    fn damaged_bodies_stay_within_bounds(
        which in any::<prop::sample::Index>(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        tail in vec(any::<u8>(), 0..3),
    ) {
        let bodies: Vec<Vec<u8>> = requests().iter().chain(&responses()).filter_map(|vector| {
            let hex = vector.get("hex")?;
            Some(unhex(hex.as_str()?))
        }).collect();
        let mut bytes = which.get(&bodies).clone();
        for (at, byte) in edits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.extend(tail);
        check_all(&bytes);
    }
}

/// The worst that a map can be: two bytes an entry, as many as are allowed, and all the same key.
#[test]
fn the_costliest_map_is_bounded_by_the_limit() {
    let entries = Limits::default().max_map_entries;
    let mut bytes = unhex("00808008");
    bytes.extend(vec![0; 2 * entries + 1]);
    let bytes = body(&bytes);
    let (decoded, info) = counted(|| GetJobRequest::decode_binary(bytes, &Limits::default()));
    assert_eq!(decoded.unwrap().options, StringMap::from_iter([("", "")]));
    // The entries, their places when sorted, and room to sort in.
    assert!(info.bytes_max <= 128 * entries as u64, "{info:?}");
}
