//! The endpoints that a server has by itself, called as jobs in every encoding.

use std::time::Duration;

use kjob_client::{Cancel, Client, Job, Payload, Status, Submit};
use kjob_proto::{
    Limits, Record, ShowSystemPropertiesRequest, ShowSystemPropertiesResponse,
    ShowSystemStatusResponse, StringMap,
};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::support::Running;

const SOON: Duration = Duration::from_secs(60);

fn start() -> (TempDir, Running, Client) {
    let dir = tempdir().unwrap();
    let server = Running::start(&dir, &["--store", "memory"]);
    let client = server.client();
    (dir, server, client)
}

async fn call(client: &Client, endpoint: &'static str, payload: Payload) -> Job {
    let submitted = client
        .submit(&Submit::new(endpoint, payload))
        .await
        .unwrap();
    client.wait(&submitted, SOON).await.unwrap()
}

async fn call_json(client: &Client, endpoint: &'static str, text: &str) -> Result<Value, String> {
    let job = call(client, endpoint, Payload::json(text.to_owned())).await;
    match job.result {
        Some(result) => Ok(serde_json::from_str(result.as_text().unwrap()).unwrap()),
        None => Err(job.error_message.unwrap().to_string()),
    }
}

/// Avro of a long and an empty map.
fn long_avro(value: i64) -> Vec<u8> {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while zigzag >= 0x80 {
        bytes.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.extend([zigzag as u8, 0]);
    bytes
}

#[tokio::test]
async fn system_endpoints_answer_as_jobs_in_every_encoding() {
    let (_dir, server, client) = start();
    let request = ShowSystemPropertiesRequest {
        options: StringMap::from_iter([(
            "properties",
            "version.gpudb_core_version,conf.use_https",
        )]),
    };
    let avro = request.encode_to_bytes();
    for payload in [
        Payload::binary(avro.clone()),
        Payload::snappy(&avro),
        Payload::json(String::from_utf8(request.encode_json()).unwrap()),
    ] {
        let job = call(&client, "/show/system/properties", payload).await;
        let result = job.result.unwrap();
        let limits = Limits::default();
        let response =
            ShowSystemPropertiesResponse::decode(result.encoding, result.data, &limits).unwrap();
        assert_eq!(response.property_map.len(), 2);
        assert_eq!(
            response.property_map.get("conf.use_https").unwrap(),
            "FALSE"
        );
    }
    let job = call(&client, "/show/system/status", Payload::binary(vec![0])).await;
    let data = job.result.unwrap().data;
    let response = ShowSystemStatusResponse::decode_binary(data, &Limits::default()).unwrap();
    assert_eq!(
        response.status_map.get("system").unwrap(),
        r#"{"status":"running"}"#
    );
    drop(server);
}

#[tokio::test]
async fn echo_gives_back_what_it_got_and_options_as_info() {
    let (_dir, _server, client) = start();
    let text = r#"{"message":"héllo \u0000","options":{"a":"b"}}"#;
    let expected = serde_json::json!({"message": "héllo \u{0}", "info": {"a": "b"}});
    assert_eq!(call_json(&client, "/demo/echo", text).await, Ok(expected));
}

#[tokio::test]
async fn primes_are_counted_in_every_encoding() {
    let (_dir, _server, client) = start();
    let counted = call_json(&client, "/demo/primes", r#"{"limit":1000000}"#).await;
    let expected = serde_json::json!({"count": 78_498, "largest": 999_983, "info": {}});
    assert_eq!(counted, Ok(expected));
    let expected = [&long_avro(78_498)[..3], &long_avro(999_983)[..]].concat();
    for payload in [
        Payload::binary(long_avro(1_000_000)),
        Payload::snappy(&long_avro(1_000_000)),
    ] {
        let job = call(&client, "/demo/primes", payload).await;
        assert_eq!(job.result, Some(Payload::binary(expected.clone())));
    }
}

#[tokio::test]
async fn limits_of_the_demo_endpoints_are_told() {
    let (_dir, _server, client) = start();
    for (endpoint, text, message) in [
        (
            "/demo/primes",
            r#"{"limit":-1}"#,
            "limit is -1, not in 0 ..= 10000000000",
        ),
        (
            "/demo/primes",
            r#"{"limit":10000000001}"#,
            "limit is 10000000001, not in 0 ..= 10000000000",
        ),
        (
            "/demo/sleep",
            r#"{"millis":-1}"#,
            "millis is -1, not in 0 ..= 86400000",
        ),
        (
            "/demo/sleep",
            r#"{"millis":86400001}"#,
            "millis is 86400001, not in 0 ..= 86400000",
        ),
    ] {
        assert_eq!(
            call_json(&client, endpoint, text).await,
            Err(message.to_owned())
        );
    }
}

#[tokio::test]
async fn fail_fails_with_its_message() {
    let (_dir, _server, client) = start();
    let failed = call_json(&client, "/demo/fail", r#"{"message":"Connection refused"}"#).await;
    assert_eq!(
        failed,
        Err("Connection refused".to_owned()),
        "a job's own text stays as it is"
    );
}

#[tokio::test]
async fn sleep_and_primes_report_and_stop_when_cancelled() {
    let (_dir, _server, client) = start();
    for (endpoint, text) in [
        ("/demo/sleep", r#"{"millis":10000}"#),
        ("/demo/primes", r#"{"limit":10000000000}"#),
    ] {
        let submitted = client
            .submit(&Submit::new(endpoint, Payload::json(text)))
            .await
            .unwrap();
        // Ends only once a report was seen, and the job is not done by itself before that.
        let job = loop {
            let job = client.get(&submitted).await.unwrap();
            if job.progress > 0 || !job.running {
                break job;
            }
        };
        assert!(job.running && job.progress < 100, "{job:?}");
        assert_eq!(client.cancel(&submitted).await.unwrap(), Cancel::Cancelling);
        let job = client.wait(&submitted, SOON).await.unwrap();
        assert_eq!(job.status, Status::Cancelled, "{job:?}");
    }
}

#[tokio::test]
async fn a_short_sleep_is_done_in_time() {
    let (_dir, _server, client) = start();
    for millis in [0, 1, 120] {
        let slept = call_json(&client, "/demo/sleep", &format!(r#"{{"millis":{millis}}}"#)).await;
        assert_eq!(
            slept,
            Ok(serde_json::json!({"slept_millis": millis, "info": {}}))
        );
    }
}
