//! docs/metrics.md, as the table has it.

use std::fmt::Write as _;

use super::table::{self, Kind};

/// What stands before the table.
const HEAD: &str = "\
# Metrics

`GET /metrics` shows these in the text format of [Prometheus](https://prometheus.io). This page is made from the code:
`cargo run -p kjob-server --example metrics_reference > docs/metrics.md` writes it, and a test holds it against the code.

**Who may look.** With accounts, admins: give Prometheus a user with the role `admin` and a token
(`kjob-server user token NAME prometheus`), as `authorization: {credentials: …}`. Without accounts, callers on this
machine: those whose address is a loopback one, as it also is for whoever comes through a proxy here. With
`metrics_public = true`, anybody who reaches the server. Metrics name routes, as the config has them, and no endpoints
that clients sent, users, jobs or tags.

```yaml
scrape_configs:
  - job_name: kjob
    authorization: {credentials_file: /etc/prometheus/kjob-token}
    static_configs: [{targets: [\"localhost:9191\"]}]
```

`contrib/prometheus/alerts.yaml` has alerts, and `contrib/grafana/kjob.json` a dashboard, over these metrics.

**What they cost.** An event is an atomic addition or a few. What is a gauge here is looked up when somebody looks; a
server that nobody looks at does nothing for it.

**Labels.** `route` is the pattern of a route (`/report/*`), or `none` where no route takes the endpoint. `endpoint` is
the path of a page or of a call of the protocol, the template of a resource of ordinary HTTP (`/jobs/{job}`), `routed` for
direct calls of routes, `passed` for what goes to the `upstream`, and `unknown`. A route that was replaced keeps its
figures until the server is restarted.

";

/// What stands behind it.
const TAIL: &str = "
Metrics that begin with `process_` are there on Linux only. Those of segments and of a full disk are of the embedded store
alone, those of commits of it and of a database, and those of leases of servers that share a database.
";

/// The text of docs/metrics.md: a page about all metrics.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| metric | type | labels | what |\n|---|---|---|---|\n");
    for entry in table::ALL {
        let labels: Vec<_> = entry.labels.iter().map(|l| format!("`{l}`")).collect();
        // Texts can always be written to.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            entry.name,
            entry.kind.word(),
            labels.join(", "),
            entry.help
        );
    }
    page.push_str("\n| histogram | upper bounds |\n|---|---|\n");
    for entry in table::ALL {
        if let Kind::Histogram(bounds) = entry.kind {
            let bounds: Vec<_> = bounds.iter().map(f64::to_string).collect();
            let _ = writeln!(page, "| `{}` | {} |", entry.name, bounds.join(", "));
        }
    }
    page.push_str(TAIL);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_as_the_code_is() {
        let page = include_str!("../../../../docs/metrics.md");
        assert!(
            page == reference(),
            "write it anew: cargo run -p kjob-server --example metrics_reference > docs/metrics.md"
        );
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for entry in table::ALL {
            let is_total = entry.name.ends_with("_total");
            assert_eq!(is_total, entry.kind == Kind::Counter, "{}", entry.name);
            let is_ours = entry.name.starts_with("kjob_") || entry.name.starts_with("process_");
            assert!(is_ours, "{}", entry.name);
            assert!(entry.help.ends_with('.') && !entry.help.contains('|'));
        }
    }
}
