//! Requests that look at jobs and at what is there beside them.

use rand::RngExt;
use rand::rngs::StdRng;

use super::{Asked, Kind, Known, TAGS, query};

/// Ranges that are taken, and ones that are passed over or beyond the end.
const RANGES: [&str; 8] = [
    "bytes=0-0",
    "bytes=2-9",
    "bytes=5-",
    "bytes=-4",
    "bytes=0-1,4-5",
    "bytes=9999-",
    "bytes=",
    "items=1-2",
];

/// Before all jobs, amid them and after them, as they may be written.
const MOMENTS: [&str; 4] = [
    "1970-01-01T00:00:00Z",
    "2026-11-24T01:02:03Z",
    "2026-11-24T01%3A02%3A03.004Z",
    "9999-12-31T23:59:59.999Z",
];

/// Users: whom jobs belong to where there are no accounts, and some that nobody is.
const OWNERS: [&str; 3] = ["anonymous", "nobody", "%C3%A4"];

/// What is there beside jobs.
const PAGES: [&str; 9] = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/console/me",
    "/console/history",
    "/console/history?span=hour",
    "/console/history?span=day",
];

/// Files of the console, of each type and in each directory.
const FILES: [&str; 6] = [
    "index.html",
    "icon.svg",
    "console.css",
    "console.js",
    "vendor/htm.js",
    "vendor/LICENSE-htm",
];

/// A page of jobs.
pub(super) fn list(random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::List, get(random));
    let statuses = ["RUNNING", "DONE", "ERROR,CANCELLED", "DONE%2CERROR"];
    let [since, until] = [(); 2].map(|()| MOMENTS[random.random_range(0..MOMENTS.len())]);
    let parameters = [
        format!(
            "status={}",
            statuses[random.random_range(0..statuses.len())]
        ),
        format!("limit={}", random.random_range(1..=20)),
        format!("after={}", random.random_range(0..10_000)),
        "endpoint=%2Fdemo%2Fecho".to_owned(),
        format!("job_tag=m-{}", random.random_range(0..TAGS)),
        format!("order={}", ["asc", "desc"][random.random_range(0..2)]),
        format!("owner={}", OWNERS[random.random_range(0..OWNERS.len())]),
        format!("since={since}"),
        format!("until={until}"),
    ];
    let chosen = parameters.into_iter().filter(|_| random.random_ratio(1, 2));
    let chosen: Vec<String> = chosen.collect();
    asked.target = query("/jobs", &chosen);
    asked
}

/// One job.
pub(super) fn look(known: &Known, random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Look, get(random));
    let waits = random.random_ratio(1, 3).then(|| "wait=1".to_owned());
    asked.target = query(&format!("/jobs/{}", known.key(random)), waits.as_slice());
    if random.random_ratio(1, 6) {
        asked = asked.with("prefer", "wait=1");
    }
    asked
}

/// The result of a job, or a part of it.
pub(super) fn result(known: &Known, random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Result, get(random));
    let parameters = ["encoding=json", "encoding=binary", "wait=1"];
    let chosen = parameters[random.random_range(0..3)].to_owned();
    let chosen = random.random_ratio(1, 2).then_some(chosen);
    asked.target = query(
        &format!("/jobs/{}/result", known.key(random)),
        chosen.as_slice(),
    );
    if random.random_ratio(1, 2) {
        asked = asked.with("range", RANGES[random.random_range(0..RANGES.len())]);
    }
    if random.random_ratio(1, 4) {
        asked = asked.with("if-range", known.any_etag(random));
    }
    if random.random_ratio(1, 4) {
        let etag = known.any_etag(random);
        let tags = [etag.clone(), format!("W/{etag}, \"x\""), "*".to_owned()];
        asked = asked.with("if-none-match", tags[random.random_range(0..3)].as_str());
    }
    asked
}

/// The events of a job.
pub(super) fn events(known: &Known, random: &mut StdRng) -> Asked {
    const SEEN: [&str; 6] = [
        "0",
        "65536",
        "281474976710656",
        "18446744073709551615",
        "x",
        "",
    ];
    let mut asked = Asked::plain(Kind::Events, "GET").with("accept", "text/event-stream");
    asked.target = query(&format!("/jobs/{}/events", known.key(random)), &[]);
    if random.random_ratio(2, 3) {
        asked = asked.with("last-event-id", SEEN[random.random_range(0..SEEN.len())]);
    }
    asked
}

/// The events of all jobs.
pub(super) fn changes() -> Asked {
    let mut asked = Asked::plain(Kind::Changes, "GET").with("accept", "text/event-stream");
    asked.target = query("/jobs/events", &[]);
    asked
}

/// What was submitted, or a part of it.
pub(super) fn payload(known: &Known, random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Payload, get(random));
    asked.target = query(&format!("/jobs/{}/payload", known.key(random)), &[]);
    if random.random_ratio(1, 2) {
        asked = asked.with("range", RANGES[random.random_range(0..RANGES.len())]);
    }
    if random.random_ratio(1, 4) {
        asked = asked.with("if-range", known.any_etag(random));
    }
    asked
}

/// Lines of the log about a job.
pub(super) fn log(known: &Known, random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Log, get(random));
    asked.target = query(&format!("/jobs/{}/log", known.key(random)), &[]);
    asked
}

/// A page, or a file of the console.
pub(super) fn page(known: &Known, random: &mut StdRng) -> Asked {
    let mut asked = Asked::plain(Kind::Page, get(random));
    asked.target = if random.random_ratio(1, 3) {
        format!("/console/{}", FILES[random.random_range(0..FILES.len())]).into()
    } else {
        PAGES[random.random_range(0..PAGES.len())].into()
    };
    if random.random_ratio(1, 3) {
        // At `/` this asks for the console, and elsewhere for nothing.
        asked = asked.with("accept", "text/html");
    }
    if random.random_ratio(1, 4) {
        asked = asked.with("if-none-match", known.any_etag(random));
    }
    asked
}

fn get(random: &mut StdRng) -> &'static str {
    if random.random_ratio(1, 8) {
        "HEAD"
    } else {
        "GET"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::path::Path;

    use rand::SeedableRng;
    use serde_json::Value;

    use super::*;

    /// The paths that the server's description leaves out: pages, files, and routed endpoints.
    const UNDESCRIBED: [&str; 7] = [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/console/{file}",
        "/demo/echo",
        "/demo/fail",
    ];

    fn described() -> Value {
        serde_json::from_str(include_str!("../../../../crates/kjob-server/openapi.json")).unwrap()
    }

    /// What good requests ask for, path and query.
    fn drawn() -> Vec<String> {
        let mut random = StdRng::seed_from_u64(4);
        let mut known = Known::default();
        known.job(7);
        let all = (0..6_000).map(|_| Asked::draw(&known, &mut random));
        let good = all.filter(|asked| asked.kind != Kind::Any && !asked.is_mutated);
        good.map(|asked| String::from_utf8(asked.target).unwrap())
            .collect()
    }

    /// The path, with names of its parts where those are many.
    fn template(target: &str) -> String {
        let path = target.split('?').next().unwrap();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match parts[..] {
            ["jobs", "events"] | ["console", "me" | "history"] => path.to_owned(),
            ["jobs", _] => "/jobs/{job}".to_owned(),
            ["jobs", _, part] => format!("/jobs/{{job}}/{part}"),
            ["console", ..] => "/console/{file}".to_owned(),
            _ => path.to_owned(),
        }
    }

    #[test]
    fn every_path_is_asked_for_and_no_other() {
        let drawn: BTreeSet<String> = drawn().iter().map(|target| template(target)).collect();
        let described = described();
        let described = described["paths"].as_object().unwrap().keys();
        let all = described.map(String::as_str).chain(UNDESCRIBED);
        let all: BTreeSet<String> = all.map(str::to_owned).collect();
        assert_eq!(drawn, all);
    }

    #[test]
    fn lists_are_asked_for_by_every_parameter() {
        let drawn = drawn();
        let queries = drawn.iter().filter_map(|it| it.strip_prefix("/jobs?"));
        let parameters = queries.flat_map(|query| query.split('&'));
        let names: BTreeSet<&str> = parameters.map(|it| it.split_once('=').unwrap().0).collect();
        let described = described();
        let parameters = described["paths"]["/jobs"]["get"]["parameters"].as_array();
        let parameters = parameters.unwrap().iter();
        let all: BTreeSet<&str> = parameters.map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, all);
    }

    #[test]
    fn the_console_has_the_files() {
        let console = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/kjob-server/console");
        for file in FILES {
            assert!(console.join(file).is_file(), "{file}");
        }
    }
}
