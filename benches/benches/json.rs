//! Encoding and decoding of a `create_job_request` as JSON, beside serde_json and sonic-rs.
//!
//! All of it: `cargo bench -p kjob-benches --bench json`; in a minute, with wider error bars: the same with
//! `-- --quick`. Three payloads:
//!
//! - `bytes`: 1 MiB of random bytes in `data`, which travel as a string with a character U+0000 to U+00FF for each.
//! - `json`: 64 KiB of JSON text in `data_str`, whose quotes have to be escaped.
//! - `text`: 64 KiB of text in `data_str` that needs no escapes.
//!
//! The peers encode and decode a struct of owned fields by serde (`samples::JsonOwned`), into a fresh vector and from a
//! slice. For them `data` is a `Vec<u8>` that goes through a `String`: its bytes are mapped to characters, which are
//! serialized, and the characters of what was deserialized are mapped to bytes. They write UTF-8 where kjob escapes to
//! ASCII, so their texts are shorter. All of them decode the same text, the one that kjob writes and that the Python
//! client writes too; in `decode/json/bytes as UTF-8` it is the one that serde_json writes, as JavaScript does.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use kjob_benches::samples::{self, JsonOwned};
use kjob_proto::{CreateJobRequest, Limits, Record};

criterion_group! {
    name = json;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = payloads
}
criterion_main!(json);

fn payloads(c: &mut Criterion) {
    for name in samples::JSON_REQUESTS {
        let request = samples::json_request(name);
        encode(c, name, &request);
        decode(c, name, request.encode_json());
        if name == "bytes" {
            let text = serde_json::to_vec(&JsonOwned::from(&request)).expect("it has a JSON form");
            decode(c, "bytes as UTF-8", text);
        }
    }
}

fn encode(c: &mut Criterion, name: &str, request: &CreateJobRequest) {
    let mut group = c.benchmark_group(format!("encode/json/{name}"));
    let owned = JsonOwned::from(request);
    group.bench_function("kjob", |bencher| {
        bencher.iter(|| black_box(request).encode_json())
    });
    group.bench_function("sonic-rs", |bencher| {
        bencher.iter(|| sonic_rs::to_vec(black_box(&owned)))
    });
    group.bench_function("serde_json", |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(&owned)))
    });
}

fn decode(c: &mut Criterion, name: &str, text: Vec<u8>) {
    let mut group = c.benchmark_group(format!("decode/json/{name}"));
    let (text, limits) = (Bytes::from(text), Limits::default());
    group.bench_function("kjob", |bencher| {
        bencher.iter(|| CreateJobRequest::decode_json(black_box(&text).clone(), &limits))
    });
    group.bench_function("sonic-rs", |bencher| {
        bencher.iter(|| sonic_rs::from_slice::<JsonOwned>(black_box(&text)))
    });
    group.bench_function("serde_json", |bencher| {
        bencher.iter(|| serde_json::from_slice::<JsonOwned>(black_box(&text)))
    });
}
