//! What is done by ordinary HTTP is written as what is done over the wire.

use std::path::Path;

use kjob_server::{Access, AuditLog};
use serde_json::{Value, json};

use crate::ordinary::{Ask, ask, submitted};
use crate::raw::in_time;
use crate::server::TestServer;

/// The lines of an audit log: event, job, and what is particular to it.
fn told(path: &Path) -> Vec<(String, Value, Value)> {
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["peer"], "127.0.0.1");
        let more = ["existing", "outcome", "count"];
        let more = more.iter().find(|name| !line[**name].is_null());
        let event = line["event"].as_str().unwrap().to_owned();
        let more = more.map_or(Value::Null, |name| line[*name].clone());
        (event, line["job_id"].clone(), more)
    });
    lines.collect()
}

#[tokio::test]
async fn submits_and_cancels_are_written_in_whatever_form_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let audit = AuditLog::open(&path).unwrap();
    let server = TestServer::with_access(Access::default().audit(audit)).await;
    let mut raw = server.connect().await;

    let body = json!({"endpoint": "/gate", "payload": 1, "job_tag": "t"});
    let id = submitted(&mut raw, &body).await;
    assert_eq!(ask(&mut raw, Ask::post("/jobs", &body)).await.status, 200);
    for (name, status) in [(id.to_string(), 202), ("99".to_owned(), 404)] {
        let cancel = Ask::new("DELETE", &format!("/jobs/{name}"), "X-Y: z", b"");
        assert_eq!(ask(&mut raw, cancel).await.status, status);
    }
    ask(&mut raw, Ask::get(&format!("/jobs/{id}?wait=30"))).await;
    // A call is a submit, and to go away a cancel.
    server.wait_begun().await;
    let more = "Content-Type: application/json";
    raw.send(Ask::new("POST", "/gate", more, b"2").bytes())
        .await;
    server.wait_begun().await;
    drop(raw);
    let mut raw = server.connect().await;
    let list = ask(&mut raw, Ask::get("/jobs?after=1")).await.json();
    let called = &list["jobs"][0]["job_id"];
    ask(&mut raw, Ask::get(&format!("/jobs/{called}?wait=30"))).await;

    in_time("the last line", async {
        // What is written of a cancel may come after the end of its job.
        while told(&path).len() < 6 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let line = |event: &str, id: Value, more: Value| (event.to_owned(), id, more);
    let expected = [
        line("submit", json!(1), json!(false)),
        line("submit", json!(1), json!(true)),
        line("cancel", json!(1), json!("cancelling")),
        line("cancel_unknown", Value::Null, json!(1)),
        line("submit", called.clone(), json!(false)),
        line("cancel", called.clone(), json!("cancelling")),
    ];
    assert_eq!(told(&path), expected);
}
