//! The encoding of a request and that of the payload in it have nothing to do with each other.

use bytes::Bytes;
use kjob_proto::{CreateJobRequest, CreateJobResponse, Encoding, GetJobRequest, GetJobResponse};

use crate::raw::map;
use crate::server::TestServer;

/// "grüße" as the record of `/echo`.
const AVRO: &[u8] = b"\x0egr\xc3\xbc\xc3\x9fe";
const JSON: &str = r#"{"message":"grüße"}"#;

fn submit(payload: Encoding, endpoint: &'static str) -> CreateJobRequest {
    let mut request = CreateJobRequest {
        endpoint: endpoint.into(),
        request_encoding: payload.as_str().into(),
        ..Default::default()
    };
    match payload {
        Encoding::Binary => request.data = Bytes::from_static(AVRO),
        Encoding::Snappy => request.data = kjob_proto::snappy::compress(AVRO).into(),
        Encoding::Json => request.data_str = JSON.into(),
    }
    request
}

fn result(job: &GetJobResponse) -> &[u8] {
    match &*job.response_encoding {
        "json" => {
            assert!(job.job_response.is_empty());
            job.job_response_str.as_str().as_bytes()
        }
        "binary" => {
            assert!(job.job_response_str.is_empty());
            &job.job_response
        }
        other => panic!("{other} is no encoding of a result"),
    }
}

#[tokio::test]
async fn every_request_encoding_carries_every_payload_encoding() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for outer in Encoding::ALL {
        for payload in Encoding::ALL {
            // `/raw` declares no records: there bytes are what was unpacked.
            for endpoint in ["/echo", "/raw"] {
                let request = submit(payload, endpoint);
                let created: CreateJobResponse =
                    raw.call_in(outer, "/create/job", &request).await.unwrap();
                let get = GetJobRequest {
                    job_id: created.job_id,
                    options: map(&[("wait_ms", "30000")]),
                };
                let done: GetJobResponse = raw.call_in(outer, "/get/job", &get).await.unwrap();
                let expected = match payload.reply() {
                    Encoding::Json => JSON.as_bytes(),
                    _ => AVRO,
                };
                assert_eq!(done.response_encoding, payload.reply().as_str());
                assert_eq!(result(&done), expected, "{outer} {payload} {endpoint}");
            }
        }
    }
}

#[tokio::test]
async fn a_result_is_given_in_the_encoding_that_is_asked_for() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for payload in Encoding::ALL {
        let request = submit(payload, "/echo");
        let created: CreateJobResponse = raw.call("/create/job", &request).await.unwrap();
        raw.end_of(created.job_id).await;
        let done = raw
            .get(created.job_id, &[("response_encoding", "binary")])
            .await
            .unwrap();
        assert_eq!((&*done.response_encoding, result(&done)), ("binary", AVRO));
        let done = raw
            .get(created.job_id, &[("response_encoding", "json")])
            .await
            .unwrap();
        assert_eq!(done.response_encoding, "json");
        // As JSON, not as bytes: what was turned is escaped to ASCII.
        let value: serde_json::Value = serde_json::from_slice(result(&done)).unwrap();
        assert_eq!(value, serde_json::json!({"message": "grüße"}));
    }
    let refusal = raw
        .get(1, &[("response_encoding", "snappy")])
        .await
        .unwrap_err();
    assert!(refusal.ends_with("allowed: binary, json"), "{refusal}");
}

#[tokio::test]
async fn an_endpoint_without_records_cannot_turn_its_results() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw.submit("/raw", b"x", &[]).await.unwrap();
    raw.end_of(job.job_id).await;
    let refusal = raw
        .get(job.job_id, &[("response_encoding", "json")])
        .await
        .unwrap_err();
    assert!(refusal.starts_with("response_encoding: "), "{refusal}");
    assert_eq!(result(&raw.get(job.job_id, &[]).await.unwrap()), b"x");
}

#[tokio::test]
async fn the_field_of_the_other_encoding_is_not_looked_at() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let mut request = submit(Encoding::Json, "/echo");
    request.data = Bytes::from_static(b"whatever");
    let created: CreateJobResponse = raw.call("/create/job", &request).await.unwrap();
    assert_eq!(result(&raw.end_of(created.job_id).await), JSON.as_bytes());
}

/// JSON replies are ASCII, since JavaScript on Node damages characters that are cut between segments.
#[tokio::test]
async fn json_replies_are_ascii() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let request = submit(Encoding::Json, "/echo");
    let created: CreateJobResponse = raw.call("/create/job", &request).await.unwrap();
    raw.end_of(created.job_id).await;
    let get = format!("{{\"job_id\":{}}}", created.job_id);
    raw.post("/get/job", "application/json", get.as_bytes())
        .await;
    let reply = raw.reply().await;
    assert!(reply.body.is_ascii());
    let done: GetJobResponse = reply.open(Encoding::Json).unwrap();
    assert_eq!(done.job_response_str, JSON);
}
