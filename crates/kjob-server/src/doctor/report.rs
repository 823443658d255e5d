//! What was found, for people and for programs.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    /// Which one it is about, where the store is in databases.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    verdict: Verdict,
    found: String,
    expected: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// What was measured, as numbers, for programs.
    #[serde(skip_serializing_if = "Map::is_empty")]
    figures: Map<String, Value>,
}

/// Whether a server can serve all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// It can, with what is said.
    Warn,
    /// It cannot, or nobody should want it to.
    Fail,
}

impl Finding {
    /// One that is well, until it is said otherwise.
    pub(super) fn new(
        check: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            check,
            database: None,
            verdict: Verdict::Ok,
            found: found.into(),
            expected: expected.into(),
            advice: None,
            figures: Map::new(),
        }
    }

    pub(super) fn of_database(mut self, url: impl fmt::Display) -> Self {
        self.database = Some(url.to_string());
        self
    }

    pub(super) fn figure(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    pub(super) fn ok(self) -> Self {
        self
    }

    pub(super) fn warn(self, advice: impl Into<String>) -> Self {
        self.judged(Verdict::Warn, advice)
    }

    pub(super) fn fail(self, advice: impl Into<String>) -> Self {
        self.judged(Verdict::Fail, advice)
    }

    fn judged(mut self, verdict: Verdict, advice: impl Into<String>) -> Self {
        self.verdict = verdict;
        self.advice = Some(advice.into());
        self
    }

    #[cfg(test)]
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// All findings, in the order of the checks.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Finding>);

impl Report {
    pub(super) fn add(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    /// A finding, if the check could be made here.
    pub(super) fn extend(&mut self, finding: Option<Finding>) {
        self.0.extend(finding);
    }

    pub(super) fn add_all(&mut self, findings: Vec<Finding>) {
        self.0.extend(findings);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.count(Verdict::Fail) > 0
    }

    fn count(&self, verdict: Verdict) -> usize {
        let alike = self.0.iter().filter(|finding| finding.verdict == verdict);
        alike.count()
    }

    pub(super) fn to_json(&self) -> String {
        let whole = serde_json::json!({
            "ok": self.count(Verdict::Ok),
            "warn": self.count(Verdict::Warn),
            "fail": self.count(Verdict::Fail),
            "checks": self.0,
        });
        format!("{whole:#}\n")
    }
}

fn plural(count: usize, word: &str) -> String {
    match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|finding| finding.check.len()).max();
        let width = width.unwrap_or_default();
        for finding in &self.0 {
            let word = finding.verdict.word();
            let Finding {
                check,
                found,
                expected,
                ..
            } = finding;
            writeln!(
                f,
                "{word:<4}  {check:<width$}  {found}; expected: {expected}"
            )?;
            if let Some(advice) = &finding.advice {
                writeln!(f, "{:<indent$}{advice}", "", indent = width + 8)?;
            }
        }
        let (warned, failed) = (self.count(Verdict::Warn), self.count(Verdict::Fail));
        let checks = self.0.len();
        let (warned, failed) = (plural(warned, "warning"), plural(failed, "failure"));
        writeln!(f, "{}, {warned}, {failed}", plural(checks, "check"))
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_the_verdict_and_advice_stands_below() {
        let mut report = Report::default();
        report.add(Finding::new("a", "1", "1").figure("a", 1).ok());
        assert!(!report.has_failed());
        report.add(Finding::new("long", "2", "3").warn("make it 3"));
        report.add(Finding::new("b", "4", "5").fail("make it 5"));
        assert!(report.has_failed());
        assert_eq!(
            report.to_string(),
            "ok    a     1; expected: 1\n\
             warn  long  2; expected: 3\n            make it 3\n\
             fail  b     4; expected: 5\n            make it 5\n\
             3 checks, 1 warning, 1 failure\n"
        );
        let json: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(
            (&json["ok"], &json["warn"], &json["fail"]),
            (&1.into(), &1.into(), &1.into())
        );
        assert_eq!(json["checks"][0]["figures"]["a"], 1);
        assert_eq!(json["checks"][1]["verdict"], "warn");
        assert_eq!(json["checks"][2]["advice"], "make it 5");
    }
}
