//! Accounts: who is let in, and that nobody sees the jobs of another.

use kjob_proto::{
    AdminAlterJobsRequest, AdminAlterJobsResponse, AdminShowJobsRequest, Encoding,
    ShowSystemStatusRequest,
};
use kjob_server::users::Users;
use kjob_server::{Access, Accounts, AuditLog};

use crate::accounts::{ANN, As, BOB, ROOT, get, start, users};
use crate::raw::{Reply, in_time, map};
use crate::server::TestServer;

/// All of a reply but the times in it.
pub(crate) fn all_of(reply: &Reply) -> (String, Vec<(String, String)>, Vec<u8>) {
    let headers = reply
        .headers
        .iter()
        .filter(|(name, _)| name != "x-request-time-secs" && name != "date");
    (
        reply.line.clone(),
        headers.cloned().collect(),
        reply.body.to_vec(),
    )
}

#[tokio::test]
async fn strangers_are_answered_401_in_the_envelope_of_their_encoding() {
    let (server, _) = start().await;
    let mut raw = server.connect().await;
    for encoding in Encoding::ALL {
        for path in [
            "/create/job",
            "/get/job",
            "/admin/show/jobs",
            "/admin/alter/jobs",
            "/show/system/status",
            "/show/system/properties",
            "/no/such/path",
        ] {
            raw.post(path, encoding.content_type(), b"whatever").await;
            let reply = raw.reply().await;
            assert_eq!(reply.status, 401, "{path}");
            assert_eq!(
                reply.header("www-authenticate"),
                Some(r#"Basic realm="kjob", charset="UTF-8""#)
            );
            let message = reply.plain_error(encoding);
            assert!(message.starts_with("unauthorized: give"), "{message}");
        }
    }
    for (credentials, words) in [
        ("Basic YW5uOmNvcnJlY3QgaG9yc2Y=", "is wrong"),
        ("Basic bm9ib2R5OmNvcnJlY3QgaG9yc2U=", "is wrong"),
        ("Bearer undefined", "is wrong"),
        ("Basic !", "neither"),
        ("Negotiate abc", "neither"),
    ] {
        let mut stranger = As::new(&server, credentials).await;
        let request = ShowSystemStatusRequest::default();
        let reply = stranger.reply("/show/system/status", &request).await;
        assert_eq!(reply.status, 401, "{credentials}");
        let message = reply.plain_error(Encoding::Binary);
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn watchdogs_need_no_account_and_everything_else_does() {
    let (server, _) = start().await;
    let mut raw = server.connect().await;
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/", 401), ("/x", 401)] {
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .await;
        assert_eq!(raw.reply().await.status, status, "{path}");
    }
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\nAuthorization: {ANN}\r\n\r\n");
    raw.send(head).await;
    assert_eq!(raw.reply().await.status, 200);
}

#[tokio::test]
async fn each_user_has_their_own_jobs_and_an_admin_has_all() {
    let (server, _) = start().await;
    let mut ann = As::new(&server, ANN).await;
    let mut bob = As::new(&server, BOB).await;
    let mut root = As::new(&server, ROOT).await;
    let of_ann = ann.submit("/gate", "mine").await;
    server.wait_begun().await;
    // The same tag, and no repeat: tags are each user's own.
    let of_bob = bob.submit("/raw", "mine").await;
    assert_ne!(of_ann, of_bob);
    assert_eq!(ann.listed().await, [of_ann]);
    assert_eq!(bob.listed().await, [of_bob]);
    assert_eq!(root.listed().await, [of_ann, of_bob]);
    assert_eq!(bob.cancel(of_ann).await, "not found");
    let seen: kjob_proto::GetJobResponse = root.call("/get/job", &get(of_ann, &[])).await.unwrap();
    assert_eq!(&*seen.job_status, "RUNNING", "nobody cancelled it");
    assert_eq!(root.cancel(of_ann).await, "cancelling");
    let wait = [("wait_ms", "30000")];
    let seen: kjob_proto::GetJobResponse = ann.call("/get/job", &get(of_ann, &wait)).await.unwrap();
    assert_eq!(&*seen.job_status, "CANCELLED");
}

/// Byte for byte, but for the id or the tag that the caller sent: by id, by tag, waiting, listed,
/// cancelled; of a job that runs, one that is done and one that failed.
#[tokio::test]
async fn anothers_job_is_answered_as_none_is() {
    let (server, _) = start().await;
    let mut ann = As::new(&server, ANN).await;
    let mut bob = As::new(&server, BOB).await;
    let running = ann.submit("/gate", "tag-1").await;
    server.wait_begun().await;
    let done = ann.submit("/raw", "tag-2").await;
    let failed = ann.submit("/fail", "tag-3").await;
    for id in [done, failed] {
        let wait = [("wait_ms", "30000")];
        let seen: kjob_proto::GetJobResponse = ann.call("/get/job", &get(id, &wait)).await.unwrap();
        assert!(!seen.running);
    }

    // As many digits, and never given.
    let none = 9;
    assert!([running, done, failed].iter().all(|id| *id < none));
    for (theirs, tag) in [(running, "tag-1"), (done, "tag-2"), (failed, "tag-3")] {
        for (theirs_options, none_options) in [
            (vec![], vec![]),
            (vec![("wait_ms", "60000")], vec![("wait_ms", "60000")]),
            (
                vec![("response_encoding", "json")],
                vec![("response_encoding", "json")],
            ),
            (vec![("job_tag", tag)], vec![("job_tag", "tag-9")]),
        ] {
            let asked = bob.reply("/get/job", &get(theirs, &theirs_options)).await;
            let other = bob.reply("/get/job", &get(none, &none_options)).await;
            assert_eq!(asked.status, 400);
            let message = asked.plain_error(Encoding::Binary);
            assert!(message.contains("not found"), "{message}");
            let echo = if message.contains("tag") {
                tag.to_owned()
            } else {
                theirs.to_string()
            };
            let unechoed = |reply: &Reply, echo: &str| {
                let (line, headers, body) = all_of(reply);
                let text = String::from_utf8_lossy(&body).replace(echo, "#");
                (line, headers, text)
            };
            let none_echo = if echo == tag { "tag-9" } else { "9" };
            assert_eq!(unechoed(&asked, &echo), unechoed(&other, none_echo));
        }
        let cancel = |ids: Vec<i64>, tag: Option<&str>| AdminAlterJobsRequest {
            job_ids: ids,
            action: "cancel".into(),
            options: tag.map(|tag| map(&[("job_tag", tag)])).unwrap_or_default(),
        };
        let asked = bob
            .reply("/admin/alter/jobs", &cancel(vec![theirs], None))
            .await;
        let other = bob
            .reply("/admin/alter/jobs", &cancel(vec![none], None))
            .await;
        assert_eq!(asked.status, 200);
        let ids = |reply: &Reply| {
            reply
                .open::<AdminAlterJobsResponse>(Encoding::Binary)
                .unwrap()
        };
        let (mut asked_words, other_words) = (ids(&asked), ids(&other));
        assert_eq!(asked_words.job_ids, [theirs]);
        asked_words.job_ids = vec![none];
        assert_eq!(asked_words, other_words);
        assert_eq!(asked.body.len(), other.body.len());

        let asked = bob
            .reply("/admin/alter/jobs", &cancel(vec![], Some(tag)))
            .await;
        let other = bob
            .reply("/admin/alter/jobs", &cancel(vec![], Some("tag-9")))
            .await;
        let text = |reply: &Reply, tag: &str| reply.plain_error(Encoding::Binary).replace(tag, "#");
        assert_eq!(text(&asked, tag), text(&other, "tag-9"));

        let list = |tag: &str| AdminShowJobsRequest {
            options: map(&[("job_tag", tag), ("show_async_jobs", "true")]),
        };
        let asked = bob.reply("/admin/show/jobs", &list(tag)).await;
        let other = bob.reply("/admin/show/jobs", &list("tag-9")).await;
        assert_eq!(all_of(&asked), all_of(&other));
    }
}

/// On the connection that was open, and for the call that waits on it.
#[tokio::test]
async fn a_user_who_is_removed_is_out_at_once() {
    let (server, accounts) = start().await;
    let mut ann = As::new(&server, ANN).await;
    let mut bob = As::new(&server, BOB).await;
    let job = ann.submit("/gate", "long").await;
    server.wait_begun().await;
    let of_bob = bob.submit("/gate", "long").await;
    server.wait_begun().await;
    let wait = [("wait_ms", "300000")];
    ann.send("/get/job", &get(job, &wait)).await;
    bob.send("/get/job", &get(of_bob, &wait)).await;
    // Both are taken, and neither is answered.
    let mut other = As::new(&server, ROOT).await;
    let status = ShowSystemStatusRequest::default();
    assert_eq!(
        other.reply("/show/system/status", &status).await.status,
        200
    );

    let mut users = users_of(&accounts);
    users.remove(&"ann".parse().unwrap()).unwrap();
    accounts.replace(users);
    let reply = in_time("the end of the wait", ann.raw.reply()).await;
    assert_eq!(reply.status, 401);
    reply.plain_error(Encoding::Binary);
    let again = ann.reply("/show/system/status", &status).await;
    assert_eq!(again.status, 401);

    server.gate.add_permits(2);
    let reply = in_time("bob's answer", bob.raw.reply()).await;
    assert_eq!(reply.status, 200);
}

pub(crate) fn users_of(accounts: &Accounts) -> Users {
    (*accounts.users()).clone()
}

#[tokio::test]
async fn whoever_guesses_is_told_to_wait() {
    let (server, _) = start().await;
    let status = ShowSystemStatusRequest::default();
    let mut bob = As::new(&server, BOB).await;
    assert_eq!(bob.reply("/show/system/status", &status).await.status, 200);
    let mut guesser = As::new(&server, "").await;
    let mut guesses = 0;
    let reply = loop {
        // "ann:guess NN"
        let pair = format!("ann:guess {guesses:02}");
        guesser.credentials = format!("Basic {}", base64(pair.as_bytes()));
        let reply = guesser.reply("/show/system/status", &status).await;
        if reply.status != 401 {
            break reply;
        }
        guesses += 1;
        assert!(guesses < 100);
    };
    assert_eq!(reply.status, 429);
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    assert_eq!(reply.header("www-authenticate"), None);
    reply.plain_error(Encoding::Binary);
    // The others at the same address go on.
    assert_eq!(bob.reply("/show/system/status", &status).await.status, 200);
}

/// The bug: 233,600 wrong tokens of one source were answered 401 within 5 s, each with a line of the
/// audit log, and then the right password from there was answered 429, for 13.5 days.
#[tokio::test]
async fn a_flood_of_wrong_tokens_harms_nobody() {
    const TRIES: u64 = 1000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let audit = AuditLog::open(&path).unwrap();
    let mut users = users();
    let token = users.add_token(&"bob".parse().unwrap(), "ci").unwrap();
    let access = Access::default().accounts(Accounts::new(users));
    let server = TestServer::with_access(access.audit(audit.clone())).await;
    let status = ShowSystemStatusRequest::default();
    let mut known = As::new(&server, ROOT).await;
    assert_eq!(
        known.reply("/show/system/status", &status).await.status,
        200
    );

    let mut stranger = As::new(&server, "").await;
    let (mut failed, mut held_back) = (0, 0);
    for number in 0..TRIES {
        stranger.credentials = format!("Bearer guess-{number}");
        let reply = stranger.reply("/show/system/status", &status).await;
        match reply.status {
            401 => failed += 1,
            429 => {
                held_back += 1;
                let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=60).contains(&wait), "{wait}");
                reply.plain_error(Encoding::Binary);
            }
            other => panic!("{other}"),
        }
    }
    assert!(failed >= 20, "as many as one source has");
    assert!(held_back > failed, "{held_back} of {TRIES}");

    assert_eq!(
        known.reply("/show/system/status", &status).await.status,
        200
    );
    for new in [ANN, &format!("Bearer {}", token.reveal())] {
        stranger.credentials = new.to_owned();
        let reply = stranger.reply("/show/system/status", &status).await;
        assert_eq!(reply.status, 200);
    }

    audit.close().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |event: &str| -> u64 {
        let lines = lines.iter().filter(|line| line["event"] == event);
        lines.map(|line| line["count"].as_u64().unwrap_or(1)).sum()
    };
    assert_eq!(told("login"), 3);
    assert_eq!(told("login_failed"), failed);
    assert_eq!(told("refused"), held_back);
    assert!((lines.len() as u64) < 20, "{} lines", lines.len());
}

fn base64(bytes: &[u8]) -> String {
    use base64ct::{Base64, Encoding as _};
    Base64::encode_string(bytes)
}
