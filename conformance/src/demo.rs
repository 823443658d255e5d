//! Records of the demo endpoints, encoded by the official client's own Avro code.

use std::collections::HashMap;

use gpudb_api::{
    CreateJobRequest, GetJobResponse, decode_single, encode_single, parse_fast_schema,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// How a payload is encoded, independently of the request that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadEncoding {
    /// Bare Avro.
    Binary,
    /// A raw snappy block of it.
    Snappy,
    /// JSON text.
    Json,
}

/// All of them.
pub const PAYLOAD_ENCODINGS: [PayloadEncoding; 3] = [
    PayloadEncoding::Binary,
    PayloadEncoding::Snappy,
    PayloadEncoding::Json,
];

/// A job of `/demo/echo`.
pub fn echo(message: &str, encoding: PayloadEncoding) -> CreateJobRequest {
    let record = EchoRequest {
        message: message.to_owned(),
        options: HashMap::new(),
    };
    job(
        "/demo/echo",
        encoding,
        r#"{"name":"message","type":"string"}"#,
        &record,
    )
}

/// A job of `/demo/fail`.
pub fn fail(message: &str) -> CreateJobRequest {
    let mut request = echo(message, PayloadEncoding::Binary);
    // The same record under another name.
    request.endpoint = "/demo/fail".to_owned();
    request
}

/// A job of `/demo/sleep`.
pub fn sleep(millis: i64) -> CreateJobRequest {
    let record = SleepRequest {
        millis,
        options: HashMap::new(),
    };
    job(
        "/demo/sleep",
        PayloadEncoding::Binary,
        r#"{"name":"millis","type":"long"}"#,
        &record,
    )
}

/// A job of `/demo/primes`.
pub fn primes(limit: i64) -> CreateJobRequest {
    let record = PrimesRequest {
        limit,
        options: HashMap::new(),
    };
    job(
        "/demo/primes",
        PayloadEncoding::Binary,
        r#"{"name":"limit","type":"long"}"#,
        &record,
    )
}

/// The same job with one more option.
pub fn with_option(mut job: CreateJobRequest, key: &str, value: &str) -> CreateJobRequest {
    job.options.insert(key.to_owned(), value.to_owned());
    job
}

/// What a demo endpoint answers.
#[derive(Debug, PartialEq, Eq)]
pub enum DemoResult {
    /// `/demo/echo`: the message.
    Echo(String),
    /// `/demo/sleep`: milliseconds slept.
    Slept(i64),
    /// `/demo/primes`: how many, and the largest.
    Primes(i64, i64),
}

/// The result in a `/get/job` reply: the endpoint's bare response record.
///
/// A binary result must be exactly the record, which is seen by encoding it again.
pub fn result(reply: &GetJobResponse) -> DemoResult {
    match reply.endpoint.as_str() {
        "/demo/echo" => {
            let record: EchoResponse = record(reply, r#"{"name":"message","type":"string"}"#);
            DemoResult::Echo(record.message)
        }
        "/demo/sleep" => {
            let record: SleepResponse = record(reply, r#"{"name":"slept_millis","type":"long"}"#);
            DemoResult::Slept(record.slept_millis)
        }
        "/demo/primes" => {
            let fields = r#"{"name":"count","type":"long"},{"name":"largest","type":"long"}"#;
            let record: PrimesResponse = record(reply, fields);
            DemoResult::Primes(record.count, record.largest)
        }
        other => panic!("no demo endpoint with a result: {other}"),
    }
}

/// `fields` are the record's fields as Avro schema text, but for the map of options at its end.
fn job<R: Serialize>(
    endpoint: &str,
    encoding: PayloadEncoding,
    fields: &str,
    record: &R,
) -> CreateJobRequest {
    let avro = || encode(fields, "options", record);
    let (word, data, data_str) = match encoding {
        PayloadEncoding::Binary => ("binary", avro(), String::new()),
        PayloadEncoding::Snappy => (
            "snappy",
            snap::raw::Encoder::new()
                .compress_vec(&avro())
                .expect("snappy compresses"),
            String::new(),
        ),
        PayloadEncoding::Json => (
            "json",
            Vec::new(),
            serde_json::to_string(record).expect("a good record"),
        ),
    };
    CreateJobRequest {
        endpoint: endpoint.to_owned(),
        request_encoding: word.to_owned(),
        data: ByteBuf::from(data),
        data_str,
        options: HashMap::new(),
    }
}

fn record<R>(reply: &GetJobResponse, fields: &str) -> R
where
    R: Serialize + for<'de> Deserialize<'de>,
{
    if reply.response_encoding == "json" {
        assert!(reply.job_response.is_empty());
        return serde_json::from_str(&reply.job_response_str).expect("a JSON result");
    }
    assert_eq!(reply.response_encoding, "binary");
    assert_eq!(reply.job_response_str, "");
    let record: R = decode(fields, "info", &reply.job_response);
    assert_eq!(
        encode(fields, "info", &record),
        reply.job_response.as_slice()
    );
    record
}

fn encode<R: Serialize>(fields: &str, map: &str, record: &R) -> Vec<u8> {
    let schema = parse_fast_schema(&schema(fields, map)).expect("a good schema");
    encode_single(&schema, record).expect("a good record")
}

fn decode<R: for<'de> Deserialize<'de>>(fields: &str, map: &str, data: &[u8]) -> R {
    let schema = parse_fast_schema(&schema(fields, map)).expect("a good schema");
    decode_single(&schema, data).expect("a bare record")
}

fn schema(fields: &str, map: &str) -> String {
    let map = format!(r#"{{"name":"{map}","type":{{"type":"map","values":"string"}}}}"#);
    format!(r#"{{"type":"record","name":"demo","fields":[{fields},{map}]}}"#)
}

#[derive(Serialize)]
struct EchoRequest {
    message: String,
    options: HashMap<String, String>,
}

#[derive(Serialize)]
struct SleepRequest {
    millis: i64,
    options: HashMap<String, String>,
}

#[derive(Serialize)]
struct PrimesRequest {
    limit: i64,
    options: HashMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct EchoResponse {
    message: String,
    info: HashMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct SleepResponse {
    slept_millis: i64,
    info: HashMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct PrimesResponse {
    count: i64,
    largest: i64,
    info: HashMap<String, String>,
}
