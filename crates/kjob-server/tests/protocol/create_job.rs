//! `/create/job`: options, tags and refusals.

use kjob_core::engine::{Caller, JobKey};
use kjob_core::{JobId, Owner};
use kjob_proto::{CreateJobRequest, CreateJobResponse, Encoding};

use crate::raw::{Raw, in_time, map, post_head};
use crate::server::TestServer;

async fn stored(server: &TestServer, id: i64) -> kjob_core::Job {
    let caller = Caller::admin(Owner::anonymous());
    let key = JobKey::Id(JobId::new(id).unwrap());
    server.engine.get(&caller, &key).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_reply_names_the_job() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let made = raw.submit("/raw", b"x", &[]).await.unwrap();
    let given = raw
        .submit("/raw", b"x", &[("job_tag", "mine")])
        .await
        .unwrap();
    assert!(made.job_id > 0 && given.job_id > made.job_id);
    assert_eq!(given.info.get("job_tag").unwrap(), &"mine");
    assert_eq!(given.info.get("existing"), None);
    for reply in [&made, &given] {
        let query_id = reply.info.get("query_id").unwrap();
        assert!(query_id.parse::<kjob_core::QueryId>().is_ok(), "{query_id}");
    }
    let tag = made.info.get("job_tag").unwrap();
    let found = raw.get(0, &[("job_tag", tag)]).await.unwrap();
    assert_eq!(found.info.get("query_id"), made.info.get("query_id"));
}

#[tokio::test]
async fn every_option_reaches_the_job() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let options = [
        ("timeout_ms", "1500"),
        ("priority", "9"),
        ("delay_ms", "3600000"),
        ("retention_seconds", "60"),
        ("remove_job_on_complete", "true"),
        ("user_data", "a note"),
        ("tag_reuse", "if_failed"),
    ];
    let job = raw.submit("/raw", b"x", &options).await.unwrap();
    let header = stored(&server, job.job_id).await.header;
    let options = header.options;
    assert_eq!(options.timeout.unwrap().as_millis(), 1500);
    assert_eq!(options.priority.get(), 9);
    assert_eq!(
        options.not_before,
        Some(
            header
                .received_at
                .after(std::time::Duration::from_secs(3600))
        )
    );
    assert_eq!(options.retention.as_secs(), 60);
    assert!(options.remove_on_complete);
    assert_eq!(options.user_data, "a note");
    assert_eq!(header.source_ip, "127.0.0.1");

    let other_name = raw
        .submit("/raw", b"x", &[("job_user_data", "b")])
        .await
        .unwrap();
    let header = stored(&server, other_name.job_id).await.header;
    assert_eq!(header.options.user_data, "b");
    let defaults = raw.submit("/raw", b"x", &[]).await.unwrap();
    let options = stored(&server, defaults.job_id).await.header.options;
    assert_eq!(
        (options.priority.get(), options.timeout, options.not_before),
        (5, None, None)
    );
    assert!(!options.remove_on_complete);
}

#[tokio::test]
async fn bad_values_name_the_option_the_value_and_what_is_allowed() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let long = "x".repeat(4097);
    for (name, value, allowed) in [
        ("timeout_ms", "0", "from 1 to"),
        ("timeout_ms", "soon", "from 1 to"),
        ("priority", "10", "from 0 to 9"),
        ("priority", "-1", "from 0 to 9"),
        ("delay_ms", "1.5", "from 0 to"),
        ("retention_seconds", "1h", "from 0 to"),
        ("retention_seconds", "99999999999", "from 0 to 315360000"),
        ("remove_job_on_complete", "yes", "true, false"),
        ("tag_reuse", "always", "never, if_failed"),
        ("user_data", long.as_str(), "4097 bytes, limit 4096"),
        ("job_tag", "", "empty"),
        ("job_tag", "two words", "at byte 3"),
    ] {
        let refusal = raw
            .submit("/raw", b"x", &[(name, value)])
            .await
            .unwrap_err();
        assert!(
            refusal.contains(name) && refusal.contains(allowed),
            "{refusal}"
        );
    }
    assert_eq!(server.engine.usage(&Owner::anonymous()).total.jobs, 0);
}

#[tokio::test]
async fn typos_of_options_are_refused_and_unknown_options_ignored() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for (typo, meant) in [
        ("job_tga", "job_tag"),
        ("jobtag", "job_tag"),
        ("Job-Tag", "job_tag"),
        ("timeout-ms", "timeout_ms"),
        ("PRIORITY", "priority"),
        ("retention_second", "retention_seconds"),
        ("userdata", "user_data"),
    ] {
        let refusal = raw.submit("/raw", b"x", &[(typo, "5")]).await.unwrap_err();
        let expected = format!("unknown option {typo:?}; did you mean {meant:?}?");
        assert_eq!(refusal, expected);
    }
    let options = [("some_option_of_another_version", "1"), ("", "1")];
    raw.submit("/raw", b"x", &options).await.unwrap();
}

#[tokio::test]
async fn the_same_tag_and_content_is_the_same_job_and_other_content_is_refused() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let tag = [("job_tag", "once")];
    let first = raw.submit("/gate", b"x", &tag).await.unwrap();
    server.wait_begun().await;
    for phase in ["running", "done"] {
        let again = raw.submit("/gate", b"x", &tag).await.unwrap();
        assert_eq!(again.job_id, first.job_id);
        assert_eq!(again.info.get("existing").unwrap(), &"true");
        let found = raw.get(0, &tag).await.unwrap();
        assert_eq!(found.info.get("phase").unwrap(), &phase);
        server.gate.add_permits(1);
        raw.end_of(first.job_id).await;
    }
    for (endpoint, data, difference) in [
        ("/gate", b"y".as_slice(), "payload"),
        ("/raw", b"x", "endpoint"),
    ] {
        let refusal = raw.submit(endpoint, data, &tag).await.unwrap_err();
        assert!(
            refusal.contains("once") && refusal.ends_with(difference),
            "{refusal}"
        );
    }
    assert_eq!(server.engine.usage(&Owner::anonymous()).total.jobs, 1);
}

#[tokio::test]
async fn a_failed_jobs_tag_is_given_anew_if_asked() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let tag = ("job_tag", "again");
    let first = raw.submit("/fail", b"x", &[tag]).await.unwrap();
    raw.end_of(first.job_id).await;
    let same = raw.submit("/fail", b"x", &[tag]).await.unwrap();
    assert_eq!(same.job_id, first.job_id);
    let anew = raw
        .submit("/raw", b"y", &[tag, ("tag_reuse", "if_failed")])
        .await
        .unwrap();
    assert!(anew.job_id > first.job_id && anew.info.get("existing").is_none());
}

#[tokio::test]
async fn a_submit_is_idempotent_from_many_connections_at_once() {
    let server = TestServer::start().await;
    let submits: Vec<_> = (0..16)
        .map(|_| {
            let addr = server.addr;
            tokio::spawn(async move {
                let mut raw = Raw::connect(addr).await;
                raw.submit("/raw", b"x", &[("job_tag", "race")]).await
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for submit in submits {
        outcomes.push(in_time("a submit", submit).await.unwrap().unwrap());
    }
    let ids: std::collections::BTreeSet<i64> = outcomes.iter().map(|reply| reply.job_id).collect();
    assert_eq!(ids.len(), 1);
    let new = outcomes
        .iter()
        .filter(|reply| reply.info.get("existing").is_none());
    assert_eq!(new.count(), 1);
}

#[tokio::test]
async fn the_callers_trace_becomes_the_query_id() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (header, taken) in [
        (format!("00-{trace}-00f067aa0ba902b7-01"), true),
        (format!("00-{trace}-0000000000000000-01"), false),
        ("nonsense".to_owned(), false),
    ] {
        let body = r#"{"endpoint":"/raw","request_encoding":"json","data_str":"{}"}"#;
        let more = format!("traceparent: {header}\r\nContent-Length: {}", body.len());
        raw.send(post_head("/create/job", "application/json", &more) + body)
            .await;
        let reply: CreateJobResponse = raw.reply().await.open(Encoding::Json).unwrap();
        assert_eq!(
            *reply.info.get("query_id").unwrap() == trace,
            taken,
            "{header}"
        );
    }
}

#[tokio::test]
async fn unknown_endpoints_encodings_and_payloads_are_refused() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let long = format!("/{}", "x".repeat(1024));
    for (endpoint, encoding, expected) in [
        ("/no/such", "binary", "\"/no/such\""),
        ("no-slash", "binary", "no-slash"),
        ("", "binary", "endpoint"),
        (
            long.as_str(),
            "binary",
            "endpoint has 1025 bytes, limit 1024",
        ),
        (
            "/raw",
            "avro",
            "request_encoding cannot be \"avro\"; allowed: binary, json, snappy",
        ),
        ("/raw", "Binary", "request_encoding"),
        ("/echo", "binary", "/echo"),
        ("/echo", "json", "/echo"),
        ("/raw", "snappy", "/raw"),
    ] {
        let request = CreateJobRequest {
            endpoint: endpoint.to_owned().into(),
            request_encoding: encoding.to_owned().into(),
            ..Default::default()
        };
        let outcome: Result<CreateJobResponse, _> = raw.call("/create/job", &request).await;
        let refusal = outcome.unwrap_err();
        assert!(refusal.contains(expected), "{refusal}");
    }
}

/// docs/protocol.md section 4: binary is the default.
#[tokio::test]
async fn no_payload_encoding_means_binary() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let empty = CreateJobRequest {
        endpoint: "/raw".into(),
        data: b"\xff\0bytes".as_slice().into(),
        data_str: "not looked at".into(),
        ..Default::default()
    };
    for encoding in Encoding::ALL {
        let outcome = raw.call_in(encoding, "/create/job", &empty).await;
        let job: CreateJobResponse = outcome.unwrap();
        let done = raw.end_of(job.job_id).await;
        assert_eq!(done.response_encoding, "binary");
        assert_eq!(done.job_response, empty.data);
    }
    let absent = r#"{"endpoint":"/raw","data":"bytes"}"#;
    raw.post("/create/job", "application/json", absent.as_bytes())
        .await;
    let job: CreateJobResponse = raw.reply().await.open(Encoding::Json).unwrap();
    assert_eq!(
        raw.end_of(job.job_id).await.job_response,
        b"bytes".as_slice()
    );
}

#[tokio::test]
async fn a_full_queue_is_429_and_waited_out() {
    let server = TestServer::with_engine(|config| {
        config.workers = 1;
        config.max_queued = 1;
    })
    .await;
    let mut raw = server.connect().await;
    raw.submit("/gate", b"x", &[]).await.unwrap();
    server.wait_begun().await;
    let queued = raw
        .submit("/gate", b"y", &[("job_tag", "last")])
        .await
        .unwrap();
    let one_more = CreateJobRequest {
        endpoint: "/gate".into(),
        request_encoding: "binary".into(),
        ..Default::default()
    };
    for encoding in Encoding::ALL {
        let body = crate::raw::encode(encoding, &one_more);
        raw.post("/create/job", encoding.content_type(), &body)
            .await;
        let reply = raw.reply().await;
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (429, Some("1"))
        );
        let message = reply.plain_error(encoding);
        assert_eq!(
            message,
            "busy: 2 queued jobs would be more than the limit of 1"
        );
    }
    // One who lost the answer gets it even now.
    let again = raw
        .submit("/gate", b"y", &[("job_tag", "last")])
        .await
        .unwrap();
    assert_eq!(again.job_id, queued.job_id);
    server.gate.add_permits(3);
    raw.end_of(queued.job_id).await;
    raw.submit("/gate", b"z", &[]).await.unwrap();
}

/// Jobs that have ended take space until their retention is over, so they count.
#[tokio::test]
async fn too_many_stored_jobs_are_429_with_the_limit_by_its_name() {
    let server = TestServer::with_engine(|config| {
        config.max_stored_jobs = 2;
        config.max_stored_jobs_per_owner = 1;
    })
    .await;
    let mut raw = server.connect().await;
    let first = raw
        .submit("/raw", b"x", &[("job_tag", "first")])
        .await
        .unwrap();
    raw.end_of(first.job_id).await;
    let one_more = CreateJobRequest {
        endpoint: "/raw".into(),
        request_encoding: "binary".into(),
        ..Default::default()
    };
    let body = crate::raw::encode(Encoding::Binary, &one_more);
    raw.post("/create/job", "application/octet-stream", &body)
        .await;
    let reply = raw.reply().await;
    assert_eq!(
        (reply.status, reply.header("retry-after")),
        (429, Some("1"))
    );
    assert_eq!(
        reply.plain_error(Encoding::Binary),
        "busy: 2 stored jobs of one user would be more than the limit of 1"
    );
    let again = raw
        .submit("/raw", b"x", &[("job_tag", "first")])
        .await
        .unwrap();
    assert_eq!(again.job_id, first.job_id);
}

/// A client that goes away right after it sent its submit has submitted: a second one by its tag
/// finds the job.
#[tokio::test]
async fn a_submit_whose_answer_was_lost_is_found_by_its_tag() {
    let server = TestServer::start().await;
    let request = CreateJobRequest {
        endpoint: "/gate".into(),
        request_encoding: "binary".into(),
        options: map(&[("job_tag", "lost")]),
        ..Default::default()
    };
    let mut raw = server.connect().await;
    let body = crate::raw::encode(Encoding::Binary, &request);
    raw.post("/create/job", "application/octet-stream", &body)
        .await;
    in_time("the start", server.wait_begun()).await;
    drop(raw);
    let mut other = server.connect().await;
    let again = other
        .submit("/gate", b"", &[("job_tag", "lost")])
        .await
        .unwrap();
    assert_eq!(again.info.get("existing").unwrap(), &"true");
}
