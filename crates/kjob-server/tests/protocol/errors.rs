//! Errors that are the caller's: each is an envelope in the request's encoding, none makes a client
//! leave, and the connection goes on (docs/protocol.md sections 1, 6 and 7).

use kjob_proto::failover::PHRASES;
use kjob_proto::{
    AdminAlterJobsRequest, AdminAlterJobsResponse, CreateJobRequest, CreateJobResponse, Encoding,
    GetJobRequest, GetJobResponse, StringMap,
};

use crate::raw::{assert_plain, map, post_head};
use crate::server::TestServer;

const PATHS: [&str; 6] = [
    "/create/job",
    "/get/job",
    "/admin/show/jobs",
    "/admin/alter/jobs",
    "/show/system/status",
    "/show/system/properties",
];

#[tokio::test]
async fn undecodable_bodies_say_which_record_and_where() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for path in PATHS {
        for encoding in Encoding::ALL {
            for body in [
                b"".as_slice(),
                b"\xff\xff\xff\xff",
                b"{\"options\":7}",
                b"[]",
            ] {
                raw.post(path, encoding.content_type(), body).await;
                let reply = raw.reply().await;
                assert_eq!(reply.status, 400, "{path} {encoding} {body:?}");
                let message = reply.plain_error(encoding);
                let record = path.trim_start_matches('/').replace('/', "_") + "_request";
                assert!(message.starts_with(&record), "{message}");
            }
            raw.assert_usable().await;
        }
    }
}

#[tokio::test]
async fn other_methods_are_405_with_what_is_allowed() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for path in PATHS {
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            raw.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
                .await;
            let reply = raw.reply().await;
            assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
            let message = reply.plain_error(Encoding::Json);
            assert!(message.contains(method), "{message}");
        }
    }
}

#[tokio::test]
async fn unsupported_types_are_415_and_missing_ones_are_guessed() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for wrong in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "json",
        "",
        "\u{fc}",
    ] {
        raw.post("/get/job", wrong, b"{\"job_id\":7}").await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, 415, "{wrong}");
        let message = reply.plain_error(Encoding::Json);
        assert!(message.contains("application/x-snappy"), "{message}");
    }
    let bare = |more: &str, body: &str| {
        let len = body.len();
        format!("POST /get/job HTTP/1.1\r\nHost: test\r\n{more}Content-Length: {len}\r\n\r\n{body}")
    };
    raw.send(bare("", " {\"job_id\":7}")).await;
    let message = raw.reply().await.plain_error(Encoding::Json);
    assert_eq!(message, "job 7 not found");
    raw.send(bare("", "\x0e\0")).await;
    let message = raw.reply().await.plain_error(Encoding::Binary);
    assert_eq!(message, "job 7 not found");
    // A web page may send this one without asking, so it is not guessed at.
    raw.send(bare("Origin: http://test\r\n", "{\"job_id\":7}"))
        .await;
    let reply = raw.reply().await;
    assert_eq!(reply.status, 415);
    reply.plain_error(Encoding::Json);
    raw.assert_usable().await;
}

#[tokio::test]
async fn compressed_bodies_are_415_unless_they_are_not() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let request = |coding: &str| {
        let body = "{\"job_id\":7}";
        let more = format!(
            "Content-Encoding: {coding}\r\nContent-Length: {}",
            body.len()
        );
        post_head("/get/job", "application/json", &more) + body
    };
    for coding in [
        "gzip",
        "GZIP",
        "snappy",
        "identity, gzip",
        "identity\r\nContent-Encoding: br",
    ] {
        raw.send(request(coding)).await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, 415, "{coding}");
        let message = reply.plain_error(Encoding::Json);
        let last = coding.rsplit(' ').next().unwrap();
        assert!(message.starts_with("Content-Encoding \""), "{message}");
        assert!(message.contains(last), "{message}");
    }
    for none in ["identity", "Identity", ""] {
        raw.send(request(none)).await;
        let message = raw.reply().await.plain_error(Encoding::Json);
        assert_eq!(message, "job 7 not found", "{none}");
    }
}

#[tokio::test]
async fn content_types_may_have_parameters_and_any_case() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.post(
        "/get/job",
        "Application/JSON; charset=UTF-8",
        b"{\"job_id\":7}",
    )
    .await;
    let message = raw.reply().await.plain_error(Encoding::Json);
    assert_eq!(message, "job 7 not found");
}

/// docs/protocol.md section 1, rule 3: 404 would make the Python client leave.
#[tokio::test]
async fn an_unknown_endpoint_is_a_plain_error_to_clients() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for encoding in Encoding::ALL {
        for path in [
            "/insert/records",
            "/create/job/",
            "//create/job",
            "/CREATE/JOB",
        ] {
            raw.post(path, encoding.content_type(), b"").await;
            let reply = raw.reply().await;
            assert_eq!(reply.status, 400);
            let message = reply.plain_error(encoding);
            assert_eq!(message, format!("endpoint {path:?} is not served here"));
        }
    }
    raw.assert_usable().await;
}

/// Each place where the caller's words could come back in an error.
#[tokio::test]
async fn no_error_echoes_a_phrase_that_makes_clients_leave() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for phrase in PHRASES {
        let create =
            |endpoint: &str, encoding: &str, data_str: &str, options: StringMap| CreateJobRequest {
                endpoint: endpoint.to_owned().into(),
                request_encoding: encoding.to_owned().into(),
                data_str: data_str.to_owned().into(),
                options,
                ..Default::default()
            };
        let tag = format!("{phrase} !");
        let none = StringMap::new;
        let quoted = format!("{{\"{phrase}\":1}}");
        for request in [
            create(&format!("/{phrase}"), "json", "{}", none()),
            create("/raw", phrase, "", none()),
            create("/raw", "json", "{}", map(&[("job_tag", &tag)])),
            create("/raw", "json", "{}", map(&[("timeout_ms", phrase)])),
            create("/raw", "json", "{}", map(&[("tag_reuse", phrase)])),
            create("/echo", "json", phrase, none()),
            create(
                "/echo",
                "json",
                &format!("{{\"message\":{quoted}}}"),
                none(),
            ),
        ] {
            for encoding in Encoding::ALL {
                let outcome: Result<CreateJobResponse, _> =
                    raw.call_in(encoding, "/create/job", &request).await;
                assert_plain(&outcome.unwrap_err());
            }
        }
        let alter = AdminAlterJobsRequest {
            job_ids: vec![7],
            action: phrase.into(),
            ..Default::default()
        };
        let outcome: Result<AdminAlterJobsResponse, _> =
            raw.call("/admin/alter/jobs", &alter).await;
        assert_plain(&outcome.unwrap_err());
        assert_plain(&raw.get(0, &[("job_tag", phrase)]).await.unwrap_err());
        assert_plain(&raw.get(7, &[("wait_ms", phrase)]).await.unwrap_err());

        let path = format!("/{}", phrase.replace(' ', "%20"));
        raw.post(&path, "application/json", b"{}").await;
        raw.reply().await.plain_error(Encoding::Json);
        raw.post("/get/job", phrase, b"{}").await;
        raw.reply().await.plain_error(Encoding::Json);
        let not_json = format!("{{\"job_id\":\"{phrase}\"}}");
        raw.post("/get/job", "application/json", not_json.as_bytes())
            .await;
        raw.reply().await.plain_error(Encoding::Json);
    }
    raw.assert_usable().await;
}

/// A job's own words are in `status_map`, where no client looks for phrases.
#[tokio::test]
async fn the_text_of_a_failed_job_is_left_as_it_is() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw
        .submit("/fail", b"upstream: Connection refused", &[])
        .await
        .unwrap();
    let failed = raw.end_of(job.job_id).await;
    assert_eq!(
        failed.status_map,
        map(&[("error_message", "upstream: Connection refused")])
    );
}

#[tokio::test]
async fn ids_that_no_job_has_are_not_found() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for id in [0, -1, i64::MIN, i64::MAX, 1 << 53, (1 << 53) - 1, 12345] {
        let outcome = raw.get(id, &[]).await;
        assert_eq!(outcome.unwrap_err(), format!("job {id} not found"));
    }
}

#[tokio::test]
async fn a_float_that_is_whole_is_an_id_in_json() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let job = raw.submit("/raw", b"x", &[]).await.unwrap();
    raw.end_of(job.job_id).await;
    let body = format!("{{\"job_id\":{}.0}}", job.job_id);
    raw.post("/get/job", "application/json", body.as_bytes())
        .await;
    let found: GetJobResponse = raw.reply().await.open(Encoding::Json).unwrap();
    assert_eq!(found.job_status, "DONE");
}

#[tokio::test]
async fn the_number_of_options_is_bounded() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let options: StringMap = (0..257)
        .map(|n| (format!("option number {n}"), "1"))
        .collect();
    let request = GetJobRequest { job_id: 7, options };
    let outcome: Result<GetJobResponse, _> = raw.call("/get/job", &request).await;
    assert_eq!(outcome.unwrap_err(), "options: 257 entries, limit 256");
}
