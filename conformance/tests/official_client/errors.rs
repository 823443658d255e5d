//! Errors that are the caller's: each is a plain API error, and the connection goes on.

use gpudb_api::{ByteBuf, CreateJobRequest};
use kjob_conformance::{
    DemoResult, FAILOVER_PHRASES, PayloadEncoding, TestClient, assert_plain_error, echo, fail,
    new_tag, result, with_option,
};

use PayloadEncoding::{Binary, Json};

const UNKNOWN_ID: i64 = (1 << 53) - 1;

on_each_connection!(
    a_job_that_is_not_there,
    a_tag_outside_the_alphabet_or_too_long,
    an_endpoint_that_runs_no_jobs,
    an_unknown_payload_encoding,
    a_payload_that_is_not_the_endpoints_record,
    the_same_tag_with_other_content,
    options_that_are_mistyped_or_bad,
    an_unknown_action,
    no_error_echoes_a_phrase_that_makes_clients_leave,
);

async fn a_job_that_is_not_there(client: &TestClient) {
    let message = assert_plain_error(client.get_raw(UNKNOWN_ID, &[]).await);
    assert!(message.contains(&UNKNOWN_ID.to_string()), "{message}");
    for job_id in [0, -1, i64::MIN, i64::MAX] {
        assert_plain_error(client.get_raw(job_id, &[]).await);
    }

    let by_tag = [("job_tag", "nobody-has-this")];
    let message = assert_plain_error(client.alter(&[], "cancel", &by_tag).await);
    assert!(message.contains("nobody-has-this"), "{message}");
    let known = client.submit(echo("known", Binary)).await.job_id;
    for job_id in [0, known] {
        let message = assert_plain_error(
            client
                .get_raw(job_id, &[("job_tag", "nobody-has-this")])
                .await,
        );
        assert!(message.contains("nobody-has-this"), "{message}");
    }
    client.assert_usable().await;
}

async fn a_tag_outside_the_alphabet_or_too_long(client: &TestClient) {
    let too_long = "x".repeat(256);
    for tag in ["two words", "a/b", "a.b", "größe", &too_long] {
        let message = assert_plain_error(
            client
                .create(with_option(echo("tagged", Binary), "job_tag", tag))
                .await,
        );
        assert!(message.contains("job_tag"), "{message}");
    }
    client
        .submit(with_option(
            echo("tagged", Binary),
            "job_tag",
            &too_long[1..],
        ))
        .await;
    client.assert_usable().await;
}

async fn an_endpoint_that_runs_no_jobs(client: &TestClient) {
    for endpoint in ["/no/such/endpoint", "no-slash", ""] {
        let job = CreateJobRequest {
            endpoint: endpoint.to_owned(),
            ..echo("lost", Binary)
        };
        let message = assert_plain_error(client.create(job).await);
        assert!(message.contains(endpoint), "{message}");
    }
    client.assert_usable().await;
}

async fn an_unknown_payload_encoding(client: &TestClient) {
    for word in ["avro", "xml", "Binary"] {
        let job = CreateJobRequest {
            request_encoding: word.to_owned(),
            ..echo("odd", Binary)
        };
        let message = assert_plain_error(client.create(job).await);
        assert!(message.contains("request_encoding"), "{message}");
    }
    client.assert_usable().await;
}

async fn a_payload_that_is_not_the_endpoints_record(client: &TestClient) {
    let good = echo("hello", Binary);
    let cut_short = good.data[..good.data.len() - 1].to_vec();
    let trailing_byte = [good.data.as_slice(), &[0]].concat();
    let binary: [(&str, Vec<u8>); 7] = [
        ("binary", Vec::new()),
        ("binary", cut_short),
        ("binary", trailing_byte),
        ("binary", b"\x04\xff\xfe\x00".to_vec()),
        // A string that claims 2^62 bytes.
        ("binary", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec()),
        ("snappy", b"not snappy at all".to_vec()),
        // Good Avro that was never compressed.
        ("snappy", good.data.to_vec()),
    ];
    for (word, data) in binary {
        let job = CreateJobRequest {
            request_encoding: word.to_owned(),
            data: ByteBuf::from(data),
            ..good.clone()
        };
        assert_plain_error(client.create(job).await);
    }
    for text in [
        "",
        r#"{"message": "hello""#,
        r#"{"message": 7, "options": {}}"#,
        "[]",
    ] {
        let job = CreateJobRequest {
            data_str: text.to_owned(),
            ..echo("hello", Json)
        };
        assert_plain_error(client.create(job).await);
    }
    client.assert_usable().await;
}

async fn the_same_tag_with_other_content(client: &TestClient) {
    let tag = new_tag();
    let first = client
        .submit(with_option(echo("one", Binary), "job_tag", &tag))
        .await;

    // Another encoding is other content too, though it says the same.
    for other in [echo("two", Binary), echo("one", Json), fail("one")] {
        let message = assert_plain_error(client.create(with_option(other, "job_tag", &tag)).await);
        assert!(message.contains(&tag), "{message}");
    }

    // What the refused ones asked for has not touched the job.
    assert_eq!(
        result(&client.wait_end(first.job_id).await),
        DemoResult::Echo("one".to_owned())
    );
    client.assert_usable().await;
}

async fn options_that_are_mistyped_or_bad(client: &TestClient) {
    // Taken for nothing, it would lose the idempotency that its writer counts on.
    let message = assert_plain_error(
        client
            .create(with_option(echo("typo", Binary), "job_tga", "mine"))
            .await,
    );
    assert!(
        message.contains("job_tga") && message.contains("job_tag"),
        "{message}"
    );

    // docs/protocol.md section 5: clients of other versions send options of their own.
    let known = client
        .submit(with_option(
            echo("other", Binary),
            "some_option_of_another_version",
            "1",
        ))
        .await;

    for value in ["soon", "-1", "1e3"] {
        let message = assert_plain_error(client.get_raw(known.job_id, &[("wait_ms", value)]).await);
        assert!(message.contains("wait_ms"), "{message}");
    }
    client.assert_usable().await;
}

async fn an_unknown_action(client: &TestClient) {
    let job_id = client.submit(echo("hello", Binary)).await.job_id;
    for action in ["pause", "Cancel", ""] {
        let message = assert_plain_error(client.alter(&[job_id], action, &[]).await);
        assert!(message.contains("action"), "{message}");
    }
    assert_eq!(client.wait_end(job_id).await.job_status, "DONE");
    client.assert_usable().await;
}

async fn no_error_echoes_a_phrase_that_makes_clients_leave(client: &TestClient) {
    for phrase in FAILOVER_PHRASES {
        let good = echo("hello", Binary);
        let refused = [
            CreateJobRequest {
                endpoint: format!("/{phrase}"),
                ..good.clone()
            },
            CreateJobRequest {
                request_encoding: phrase.to_owned(),
                ..good.clone()
            },
            // With a space, for one of the phrases is a lawful tag by itself.
            with_option(good.clone(), "job_tag", &format!("{phrase} !")),
            with_option(good, "timeout_ms", phrase),
            CreateJobRequest {
                data_str: format!(r#"{{"message": "{phrase}""#),
                ..echo("hello", Json)
            },
            CreateJobRequest {
                data_str: format!(r#"{{"message": {{"{phrase}": 1}}}}"#),
                ..echo("hello", Json)
            },
        ];
        for job in refused {
            assert_plain_error(client.create(job).await);
        }
        assert_plain_error(client.get_raw(0, &[("job_tag", phrase)]).await);
        assert_plain_error(client.alter(&[UNKNOWN_ID], phrase, &[]).await);
    }
    client.assert_usable().await;
}
