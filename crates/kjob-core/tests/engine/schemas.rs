//! Endpoints that declare their records: payloads checked at the door and turned on the way.

use crate::support::*;
use kjob_core::engine::{
    EngineConfig, HandlerError, JobContext, Registry, RouteOptions, Schemas, SubmitError,
};
use kjob_core::{Ending, Payload};
use kjob_proto::Encoding;

const REQUEST: &str = r#"{"type":"record","name":"add_request","fields":[
    {"name":"a","type":"long"},{"name":"b","type":"long"}]}"#;
const RESPONSE: &str = r#"{"type":"record","name":"add_response","fields":[
    {"name":"sum","type":"long"}]}"#;

/// Adds in JSON, whatever the job was submitted in.
async fn add(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
    assert_eq!(payload.encoding, Encoding::Json);
    let text = String::from_utf8(payload.data.to_vec()).map_err(HandlerError::failed)?;
    let numbers: Vec<i64> = text
        .split(|c: char| !(c.is_ascii_digit() || c == '-'))
        .filter_map(|number| number.parse().ok())
        .collect();
    Ok(Payload::json(format!(
        "{{\"sum\":{}}}",
        numbers.iter().sum::<i64>()
    )))
}

async fn adder() -> Bed {
    let schemas = Schemas::parse(REQUEST, RESPONSE).unwrap();
    let options = RouteOptions::default()
        .schemas(schemas)
        .encoding(Encoding::Json);
    let mut registry = Registry::default();
    registry.route("/add", add, options).unwrap();
    bed(EngineConfig::default(), registry).await
}

#[tokio::test]
async fn a_job_is_handled_in_another_encoding_than_it_came_in() {
    let bed = adder().await;
    let avro = vec![4, 6]; // 2 and 3, zig-zag
    let snappy = kjob_proto::snappy::compress(&avro);
    for (payload, result) in [
        (Payload::binary(avro), Payload::binary(vec![10])),
        (
            Payload {
                encoding: Encoding::Snappy,
                data: snappy.into(),
            },
            Payload::binary(vec![10]),
        ),
        (
            Payload::json(r#"{"a":2,"b":3}"#),
            Payload::json(r#"{"sum":5}"#),
        ),
    ] {
        let mut submission = call("/add", "");
        submission.payload = payload;
        let id = bed.submit(submission).await.id;
        settle().await;
        assert_eq!(
            bed.job(id).await.ending,
            Some(Ending::Done(result.clone().into()))
        );
        // Either form of the result can be had from either.
        for to in [Encoding::Binary, Encoding::Json] {
            let turned = bed.engine.turn_result("/add", &result, to).unwrap();
            assert_eq!(turned.encoding, to);
            let back = bed
                .engine
                .turn_result("/add", &turned, result.encoding)
                .unwrap();
            assert_eq!(back, result);
        }
    }
}

#[tokio::test]
async fn a_payload_that_is_no_request_is_refused_at_the_door() {
    let bed = adder().await;
    for payload in [
        Payload::binary(vec![4]),
        Payload::binary(vec![4, 6, 8]),
        Payload::json(r#"{"a":2}"#),
        Payload::json(r#"{"a":2,"b":"three"}"#),
        Payload::json("[]"),
        Payload::json("{"),
        Payload {
            encoding: Encoding::Json,
            data: vec![0xff].into(),
        },
    ] {
        let mut submission = call("/add", "");
        submission.payload = payload.clone();
        let refused = bed.engine.submit(submission).await;
        assert!(
            matches!(refused, Err(SubmitError::BadPayload { .. })),
            "{payload:?}: {refused:?}"
        );
    }
    assert_eq!(bed.engine.usage(&ann()).total.jobs, 0);
}

#[tokio::test]
async fn a_result_that_is_no_response_fails_the_job() {
    async fn wrong(_: JobContext, _: Payload) -> Result<Payload, HandlerError> {
        Ok(Payload::json(r#"{"total":5}"#))
    }
    let schemas = Schemas::parse(REQUEST, RESPONSE).unwrap();
    let mut registry = Registry::default();
    registry
        .route("/add", wrong, RouteOptions::default().schemas(schemas))
        .unwrap();
    let bed = bed(EngineConfig::default(), registry).await;
    let mut submission = call("/add", "");
    submission.payload = Payload::binary(vec![4, 6]);
    let id = bed.submit(submission).await.id;
    settle().await;
    assert!(
        bed.error(id)
            .await
            .starts_with("the handler's result is no valid response of /add")
    );
}
