//! What is there for Prometheus, held against Prometheus: alerts and their tests, queries of the
//! dashboard, and what a real server shows.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build;
use crate::counts::Counts;
use crate::debian::{self, packaged};
use crate::process::{self, Tool};
use crate::served::Served;
use crate::steps::{Context, Verdict};

const PROMTOOL: &str = "promtool";

/// The step of `cargo xtask test`. Each check counts as a test.
pub(crate) fn step(context: &Context) -> Result<Verdict> {
    debian::ensure(&[packaged(PROMTOOL, "prometheus")]);
    if !debian::is_there(PROMTOOL) {
        let reason = format!("there is no {PROMTOOL} (Debian: apt install prometheus)");
        println!("skipped: {reason}");
        return Ok(Verdict::Skipped(reason));
    }
    let contrib = context.workspace.root.join("contrib");
    let alerts = contrib.join("prometheus");
    let scratch = context.workspace.target.join("promtool");
    fs::create_dir_all(&scratch)?;
    let queries = scratch.join("queries.yaml");
    let dashboard = fs::read_to_string(contrib.join("grafana/kjob.json"))?;
    fs::write(&queries, as_rules(&dashboard)?)?;
    let shown = shown_by_a_server(&build::server(context.release)?, &scratch)?;

    let mut counts = Counts::default();
    let rules = |words: [&str; 2], file: &Path| {
        let mut promtool = Tool::At(PROMTOOL.into()).command();
        process::run_watched(promtool.args(words).arg(file), |_| {})
    };
    counts.add_check(
        "alerts",
        rules(["check", "rules"], &alerts.join("alerts.yaml"))?,
    );
    let tests = alerts.join("alerts.test.yaml");
    counts.add_check("tests of alerts", rules(["test", "rules"], &tests)?);
    counts.add_check(
        "queries of the dashboard",
        rules(["check", "rules"], &queries)?,
    );
    counts.add_check("what a server shows", check_shown(&shown)?);
    Ok(Verdict::Ran {
        ok: counts.failed == 0,
        counts,
        note: String::new(),
    })
}

/// The queries of a dashboard as a file of rules, which promtool reads.
fn as_rules(dashboard: &str) -> Result<String> {
    let dashboard: Value = serde_json::from_str(dashboard).context("the dashboard")?;
    let mut queries = Vec::new();
    collect_queries(&dashboard, &mut queries);
    if queries.is_empty() {
        bail!("the dashboard has no queries");
    }
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace('\'', "''");
        write!(
            rules,
            "      - record: query:{number}\n        expr: '{query}'\n"
        )?;
    }
    Ok(rules)
}

fn collect_queries<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("expr").and_then(Value::as_str));
            members
                .values()
                .for_each(|member| collect_queries(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_queries(item, found)),
        _ => {}
    }
}

/// The page of a server that has just begun.
fn shown_by_a_server(program: &Path, scratch: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command
        .args(["--listen", "127.0.0.1:0", "--demo", "--data-dir"])
        .arg(scratch.join("data"));
    let server = Served::start(&mut command)?;
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).with_context(|| server.url.clone())?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    match reply.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!("/metrics answered {reply:?}"),
    }
}

/// Whether it is in the format, and named as Prometheus advises.
fn check_shown(shown: &str) -> Result<bool> {
    let mut check = Tool::At(PROMTOOL.into()).command();
    let mut check = check
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = check.stdin.take().context("its input")?;
    input.write_all(shown.as_bytes())?;
    drop(input);
    Ok(check.wait()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_found_wherever_they_are() {
        let dashboard = r#"{"panels": [{"targets": [{"expr": "rate(a[$__rate_interval])"}]},
            {"panels": [{"targets": [{"expr": "b{c='d'}"}]}]}]}"#;
        let rules = as_rules(dashboard).unwrap();
        assert!(rules.contains("expr: 'rate(a[5m])'"), "{rules}");
        assert!(rules.contains("expr: 'b{c=''d''}'"), "{rules}");
        assert!(as_rules("{}").is_err());
    }
}
