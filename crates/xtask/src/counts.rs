//! Counts of tests, read from what test programs print.

use std::ops::AddAssign;

/// How many tests ended in which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// They did what they should.
    pub(crate) passed: u32,
    /// They did not, or could not be set up.
    pub(crate) failed: u32,
    /// They were there but not run.
    pub(crate) ignored: u32,
    /// Those of `failed` that have a name.
    pub(crate) failures: Vec<String>,
}

impl Counts {
    /// Adds a check that is no test of a program's own, and says what came of it.
    pub(crate) fn add_check(&mut self, name: &str, is_well: bool) {
        println!("{}: {name}", if is_well { "well" } else { "NOT WELL" });
        self.passed += u32::from(is_well);
        self.failed += u32::from(!is_well);
        if !is_well {
            self.failures.push(name.to_owned());
        }
    }

    /// Adds a line such as `test result: ok. 7 passed; 0 failed; 1 ignored; …`, and the name in one such as
    /// `test a::b ... FAILED`; other lines are nothing.
    pub(crate) fn add_cargo_line(&mut self, line: &str) {
        let test = line.strip_prefix("test ");
        if let Some(name) = test.and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        if let Some((_, counts)) = line
            .split_once("test result: ")
            .and_then(|(_, rest)| rest.split_once(". "))
        {
            self.add_words(counts.split("; "));
        }
    }

    /// Adds pytest's closing line, such as `1 failed, 7 passed, 2 errors in 3.21s`, with or without
    /// `=` around it, and the name in one such as `FAILED a.py::b - why` or `ERROR a.py::b - why`; other lines are
    /// nothing.
    pub(crate) fn add_pytest_line(&mut self, line: &str) {
        let name = |word| line.strip_prefix(word).filter(|name| name.contains("::"));
        if let Some(name) = name("FAILED ").or_else(|| name("ERROR ")) {
            self.failures.push(name.to_owned());
        }
        let line = line.trim_matches(|c| c == '=' || c == ' ');
        let Some((counts, time)) = line.rsplit_once(" in ") else {
            return;
        };
        if time.chars().next().is_some_and(|c| c.is_ascii_digit()) {
            self.add_words(counts.split(", "));
        }
    }

    fn add_words<'a>(&mut self, parts: impl Iterator<Item = &'a str>) {
        for part in parts {
            let Some((number, word)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u32>() else {
                continue;
            };
            match word {
                "passed" => self.passed += number,
                "failed" | "error" | "errors" => self.failed += number,
                "ignored" | "skipped" => self.ignored += number,
                // Filtered, measured, deselected, warnings.
                _ => {}
            }
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cargo(line: &str) -> Counts {
        let mut counts = Counts::default();
        counts.add_cargo_line(line);
        counts
    }

    fn pytest(line: &str) -> Counts {
        let mut counts = Counts::default();
        counts.add_pytest_line(line);
        counts
    }

    #[test]
    fn cargo_lines() {
        let line = "test result: ok. 78 passed; 0 failed; 3 ignored; 1 measured; 2 filtered out; finished in 1.54s";
        assert_eq!(
            cargo(line),
            Counts {
                passed: 78,
                failed: 0,
                ignored: 3,
                ..Counts::default()
            }
        );
        let line = "test result: FAILED. 7 passed; 12 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(
            cargo(line),
            Counts {
                passed: 7,
                failed: 12,
                ignored: 0,
                ..Counts::default()
            }
        );
        for line in [
            "",
            "test a::b ... ok",
            "running 7 tests",
            "7 passed",
            "test result: odd",
        ] {
            assert_eq!(cargo(line), Counts::default(), "{line}");
        }
    }

    #[test]
    fn pytest_lines() {
        assert_eq!(
            pytest("433 passed in 46.17s"),
            Counts {
                passed: 433,
                failed: 0,
                ignored: 0,
                ..Counts::default()
            }
        );
        let line = "= 1 failed, 233 passed, 2 skipped, 199 deselected, 36 errors in 33.07s =";
        assert_eq!(
            pytest(line),
            Counts {
                passed: 233,
                failed: 37,
                ignored: 2,
                ..Counts::default()
            }
        );
        assert_eq!(
            pytest("1 passed, 1 error in 65.84s (0:01:05)"),
            Counts {
                passed: 1,
                failed: 1,
                ignored: 0,
                ..Counts::default()
            }
        );
        for line in [
            "",
            "........ [ 96%]",
            "assert 1 passed in the list",
            "in 3s",
        ] {
            assert_eq!(pytest(line), Counts::default(), "{line}");
        }
    }

    #[test]
    fn failures_have_names() {
        let mut counts = cargo("test claims::one_at_a_time ... FAILED");
        counts += cargo("test claims::two ... ok");
        counts += pytest("FAILED test_jobs.py::test_wait - assert 1 == 2");
        counts += pytest("ERROR test_jobs.py::test_cancel");
        counts += pytest("ERROR kjob: the server is away");
        counts.add_check("a link", true);
        counts.add_check("another", false);
        let names = [
            "claims::one_at_a_time",
            "test_jobs.py::test_wait - assert 1 == 2",
            "test_jobs.py::test_cancel",
            "another",
        ];
        assert_eq!(counts.failures, names);
    }

    #[test]
    fn counts_add_up() {
        let mut counts = cargo("test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured");
        counts += pytest("2 passed, 3 failed in 1s");
        assert_eq!(
            counts,
            Counts {
                passed: 3,
                failed: 3,
                ignored: 1,
                ..Counts::default()
            }
        );
    }
}
