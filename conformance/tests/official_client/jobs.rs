//! A job from its submit to its result, over every connection the client can make.

use gpudb_api::GetJobResponse;
use kjob_conformance::{
    DemoResult, PAYLOAD_ENCODINGS, PayloadEncoding, TestClient, echo, fail, new_tag, primes,
    result, sleep, with_option,
};

use PayloadEncoding::{Binary, Json};

on_each_connection!(
    a_job_runs_to_its_result,
    a_job_is_found_by_its_tag_alone,
    the_same_submit_twice_is_one_job,
    a_mebibyte_comes_back_whole,
    real_work_gives_the_right_answer,
    progress_rises_and_never_falls,
    a_failed_job_carries_its_message,
    wait_ms_answers_at_the_end_or_when_the_time_is_up,
);

async fn a_job_runs_to_its_result(client: &TestClient) {
    for encoding in PAYLOAD_ENCODINGS {
        let message = "grüße, 世界 🙂";
        let submitted = client.submit(echo(message, encoding)).await;
        // The server names each job, asked or not, and gives a trace id for it.
        assert!(!submitted.info["job_tag"].is_empty());
        let query_id = &submitted.info["query_id"];
        assert_eq!(query_id.len(), 32, "{query_id}");
        assert!(
            query_id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')),
            "{query_id}"
        );

        let done = client.wait_end(submitted.job_id).await;

        assert_done(&done);
        // A JSON payload gives a JSON result; binary and snappy give a binary one.
        assert_eq!(
            done.response_encoding,
            if encoding == Json { "json" } else { "binary" }
        );
        assert_eq!(result(&done), DemoResult::Echo(message.to_owned()));
    }
}

async fn a_job_is_found_by_its_tag_alone(client: &TestClient) {
    let tag = new_tag();
    let tagged = client
        .submit(with_option(echo("tagged", Binary), "job_tag", &tag))
        .await;
    assert_eq!(tagged.info["job_tag"], tag);
    let generated = client.submit(echo("generated", Binary)).await;

    client.wait_end(tagged.job_id).await;
    client.wait_end(generated.job_id).await;

    assert_eq!(
        result(&client.get_by_tag(&tag).await),
        DemoResult::Echo("tagged".to_owned())
    );
    let generated = client.get_by_tag(&generated.info["job_tag"]).await;
    assert_eq!(result(&generated), DemoResult::Echo("generated".to_owned()));
}

async fn the_same_submit_twice_is_one_job(client: &TestClient) {
    let job = with_option(echo("once", Binary), "job_tag", &new_tag());
    let first = client.submit(job.clone()).await;
    let second = client.submit(job.clone()).await;
    client.wait_end(first.job_id).await;
    let third = client.submit(job).await;

    assert_ne!(first.info.get("existing").map(String::as_str), Some("true"));
    for again in [second, third] {
        assert_eq!(again.job_id, first.job_id);
        assert_eq!(again.info["existing"], "true");
    }
}

async fn a_mebibyte_comes_back_whole(client: &TestClient) {
    // Not one repeated letter, so that a lost or doubled block would show.
    let message: String = (0..(1 << 20) / 8).map(|i| format!("{i:07x} ")).collect();
    assert_eq!(message.len(), 1 << 20);
    for encoding in PAYLOAD_ENCODINGS {
        let submitted = client.submit(echo(&message, encoding)).await;
        let done = client.wait_end(submitted.job_id).await;
        assert_done(&done);
        // Not assert_eq: nobody wants to read two mebibytes.
        assert!(
            result(&done) == DemoResult::Echo(message.clone()),
            "{encoding:?}"
        );
    }
}

async fn real_work_gives_the_right_answer(client: &TestClient) {
    let submitted = client.submit(primes(1_000_000)).await;
    let done = client.wait_end(submitted.job_id).await;
    assert_done(&done);
    assert_eq!(result(&done), DemoResult::Primes(78_498, 999_983));
}

async fn progress_rises_and_never_falls(client: &TestClient) {
    let submitted = client.submit(sleep(1_000)).await;
    let mut seen = Vec::new();
    // Each call waits a little on the server, so the loop ends with the job and spins nowhere.
    let done = loop {
        let reply = client
            .get_raw(submitted.job_id, &[("wait_ms", "20")])
            .await
            .expect("the job is there");
        if !reply.running {
            break reply;
        }
        assert_eq!(reply.job_status, "RUNNING");
        assert!((0..100).contains(&reply.progress), "{}", reply.progress);
        assert!(reply.status_map.is_empty());
        assert_no_result(&reply);
        seen.push(reply.progress);
    };

    assert_done(&done);
    assert_eq!(result(&done), DemoResult::Slept(1_000));
    assert!(seen.is_sorted(), "{seen:?}");
    seen.dedup();
    seen.retain(|&progress| progress > 0);
    assert!(seen.len() >= 2, "{seen:?}");
}

async fn a_failed_job_carries_its_message(client: &TestClient) {
    // The text is the job's own, so it travels unchanged, also where it holds a phrase that would
    // make the client fail over in the wrapper (docs/protocol.md section 7).
    let message = "out of paper: Connection refused";
    let submitted = client.submit(fail(message)).await;

    let failed = client.wait_end(submitted.job_id).await;

    assert_eq!(
        (failed.job_status.as_str(), failed.running),
        ("ERROR", false)
    );
    assert!(
        failed.status_map["error_message"].contains(message),
        "{:?}",
        failed.status_map
    );
    assert_no_result(&failed);
    client.assert_usable().await;
}

async fn wait_ms_answers_at_the_end_or_when_the_time_is_up(client: &TestClient) {
    // One call each, no polling: without the option the first would find its job running.
    let short = client.submit(sleep(700)).await.job_id;
    assert!(client.get(short).await.running);
    let done = client
        .get_raw(short, &[("wait_ms", "60000")])
        .await
        .expect("the job is there");
    assert_done(&done);

    let long = client.submit(sleep(60_000)).await.job_id;
    let still = client
        .get_raw(long, &[("wait_ms", "200")])
        .await
        .expect("the job is there");
    assert!(still.running);
    client.cancel(&[long]).await;
    assert_eq!(client.wait_end(long).await.job_status, "CANCELLED");
}

fn assert_done(reply: &GetJobResponse) {
    assert_eq!(reply.job_status, "DONE");
    assert_eq!(
        (reply.running, reply.progress, reply.successful),
        (false, 100, true)
    );
    assert!(reply.status_map.is_empty());
}

fn assert_no_result(reply: &GetJobResponse) {
    assert!(!reply.successful);
    assert!(reply.job_response.is_empty());
    assert!(reply.job_response_str.is_empty());
}
