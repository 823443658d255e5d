//! `/admin/show/jobs`: who is listed, in which order, and how to go on.

use kjob_proto::{AdminShowJobsRequest, AdminShowJobsResponse};

use crate::raw::{Raw, map};
use crate::server::TestServer;

async fn show(raw: &mut Raw, options: &[(&'static str, &str)]) -> AdminShowJobsResponse {
    try_show(raw, options).await.unwrap()
}

async fn try_show(
    raw: &mut Raw,
    options: &[(&'static str, &str)],
) -> Result<AdminShowJobsResponse, String> {
    let request = AdminShowJobsRequest {
        options: map(options),
    };
    let list: AdminShowJobsResponse = raw.call("/admin/show/jobs", &request).await?;
    let rows = list.job_id.len();
    let columns = [
        list.status.len(),
        list.endpoint_name.len(),
        list.time_received.len(),
        list.auth_id.len(),
        list.source_ip.len(),
        list.query_text.len(),
        list.user_data.len(),
        list.flags.len(),
    ];
    assert_eq!(columns, [rows; 8]);
    assert!(list.job_id.is_sorted());
    let tags = list.info.get("job_tag").unwrap();
    let tags: serde_json::Map<String, serde_json::Value> = serde_json::from_str(tags).unwrap();
    assert_eq!(tags.len(), rows);
    assert!(
        list.job_id
            .iter()
            .all(|id| tags.contains_key(&id.to_string()))
    );
    Ok(list)
}

/// A done, a failed, a running and a queued job, by id.
async fn four(server: &TestServer, raw: &mut Raw) -> [i64; 4] {
    let done = raw
        .submit(
            "/raw",
            b"x",
            &[("job_tag", "the-done-one"), ("user_data", "n")],
        )
        .await;
    let done = done.unwrap().job_id;
    raw.end_of(done).await;
    let failed = raw.submit("/fail", b"x", &[]).await.unwrap().job_id;
    raw.end_of(failed).await;
    let running = raw.submit("/gate", b"x", &[]).await.unwrap().job_id;
    server.wait_begun().await;
    let queued = raw.submit("/raw", b"x", &[]).await.unwrap().job_id;
    [done, failed, running, queued]
}

async fn one_worker() -> TestServer {
    TestServer::with_engine(|config| config.workers = 1).await
}

#[tokio::test]
async fn an_empty_list_has_all_its_parts() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    let list = show(
        &mut raw,
        &[("show_async_jobs", "true"), ("show_worker_info", "true")],
    )
    .await;
    assert!(list.job_id.is_empty());
    assert_eq!(list.info, map(&[("job_tag", "{}"), ("worker_info", "[]")]));
}

#[tokio::test]
async fn a_row_tells_what_is_known() {
    let server = one_worker().await;
    let mut raw = server.connect().await;
    let [done, failed, running, queued] = four(&server, &mut raw).await;
    let list = show(&mut raw, &[("show_async_jobs", "true")]).await;
    assert_eq!(list.job_id, [done, failed, running, queued]);
    assert_eq!(list.status, ["DONE", "ERROR", "RUNNING", "RUNNING"]);
    assert_eq!(list.flags, ["done", "failed", "running", "queued"]);
    assert_eq!(list.endpoint_name, ["/raw", "/fail", "/gate", "/raw"]);
    assert_eq!(list.source_ip, ["127.0.0.1"; 4]);
    assert_eq!(list.auth_id, ["anonymous"; 4]);
    assert_eq!(list.user_data, ["n", "", "", ""]);
    assert_eq!(list.query_text, [""; 4]);
    assert!(list.time_received.is_sorted() && list.time_received[0] > 1_600_000_000_000);
    let tags = list.info.get("job_tag").unwrap();
    assert!(
        tags.contains(&format!("\"{done}\":\"the-done-one\"")),
        "{tags}"
    );
    assert!(list.info.get("next").is_none());
}

#[tokio::test]
async fn options_narrow_the_list() {
    let server = one_worker().await;
    let mut raw = server.connect().await;
    let [done, failed, running, queued] = four(&server, &mut raw).await;
    let after = failed.to_string();
    type Case<'a> = (&'a [(&'static str, &'a str)], &'a [i64]);
    let cases: [Case<'_>; 12] = [
        (&[], &[running, queued]),
        (&[("show_async_jobs", "false")], &[running, queued]),
        (&[("status", "DONE")], &[done]),
        (&[("status", "ERROR, DONE")], &[done, failed]),
        (&[("status", "CANCELLED")], &[]),
        (&[("status", "DONE"), ("show_async_jobs", "false")], &[done]),
        (&[("endpoint", "/raw")], &[queued]),
        (
            &[("endpoint", "/raw"), ("show_async_jobs", "true")],
            &[done, queued],
        ),
        (&[("job_tag", "the-done-one")], &[done]),
        (&[("job_tag", "the-done-one"), ("status", "RUNNING")], &[]),
        (&[("job_tag", "nobody-has-this")], &[]),
        (
            &[("show_async_jobs", "true"), ("after", &after)],
            &[running, queued],
        ),
    ];
    for (options, expected) in cases {
        assert_eq!(
            show(&mut raw, options).await.job_id,
            expected,
            "{options:?}"
        );
    }
}

#[tokio::test]
async fn pages_join_to_the_whole_list() {
    let server = one_worker().await;
    let mut raw = server.connect().await;
    let mut expected = Vec::new();
    for _ in 0..25 {
        expected.push(raw.submit("/raw", b"x", &[]).await.unwrap().job_id);
    }
    for limit in ["1", "7", "24", "25", "26"] {
        let mut found = Vec::new();
        let mut after = "0".to_owned();
        loop {
            let options = [
                ("show_async_jobs", "true"),
                ("limit", limit),
                ("after", &after),
            ];
            let page = show(&mut raw, &options).await;
            assert!(page.job_id.len() <= limit.parse().unwrap());
            found.extend_from_slice(&page.job_id);
            match page.info.get("next") {
                Some(next) => after = next.to_string(),
                None => break,
            }
        }
        assert_eq!(found, expected, "limit {limit}");
    }
}

/// A list that no decoder takes would be of no use: the text of all tags is one string.
#[tokio::test]
async fn a_page_is_cut_before_its_tags_are_too_long() {
    let server = TestServer::with_options(|options| {
        options.limits = options.limits.with_max_string(2000);
    })
    .await;
    let mut raw = server.connect().await;
    let mut expected = Vec::new();
    for n in 0..20 {
        let tag = format!("{n:0>255}");
        expected.push(
            raw.submit("/raw", b"x", &[("job_tag", &tag)])
                .await
                .unwrap()
                .job_id,
        );
    }
    let mut found = Vec::new();
    let mut after = "0".to_owned();
    loop {
        let page = show(&mut raw, &[("show_async_jobs", "true"), ("after", &after)]).await;
        assert!(page.info.get("job_tag").unwrap().len() <= 2000);
        found.extend_from_slice(&page.job_id);
        match page.info.get("next") {
            Some(next) => after = next.to_string(),
            None => break,
        }
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn bad_values_name_the_option() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for (name, value, words) in [
        ("limit", "0", "from 1 to 50000"),
        ("limit", "50001", "from 1 to 50000"),
        ("after", "-1", "from 0 to"),
        ("status", "QUEUED", "RUNNING, DONE, ERROR, CANCELLED"),
        ("status", "DONE,", "RUNNING, DONE, ERROR, CANCELLED"),
        ("show_async_jobs", "maybe", "true, false"),
        ("show_async_job", "true", "show_async_jobs"),
        ("job_tag", "a b", "at byte 1"),
    ] {
        let refusal = try_show(&mut raw, &[(name, value)]).await.unwrap_err();
        assert!(
            refusal.contains(name) && refusal.contains(words),
            "{refusal}"
        );
    }
}
