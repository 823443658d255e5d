//! Counts of tests, read from what test programs print.

use std::ops::AddAssign;

/// How many tests ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// They did what they should.
    pub(crate) passed: u32,
    /// They did not, or could not be set up.
    pub(crate) failed: u32,
    /// They were there but not run.
    pub(crate) ignored: u32,
}

impl Counts {
    /// Adds a check that is no test of a program's own, and says what came of it.
    pub(crate) fn add_check(&mut self, name: &str, is_well: bool) {
        println!("{}: {name}", if is_well { "well" } else { "NOT WELL" });
        self.passed += u32::from(is_well);
        self.failed += u32::from(!is_well);
    }

    /// Adds a line such as `test result: ok. 7 passed; 0 failed; 1 ignored; …`; other lines are nothing.
    pub(crate) fn add_cargo_line(&mut self, line: &str) {
        if let Some((_, counts)) = line
            .split_once("test result: ")
            .and_then(|(_, rest)| rest.split_once(". "))
        {
            self.add_words(counts.split("; "));
        }
    }

    /// Adds pytest's closing line, such as `1 failed, 7 passed, 2 errors in 3.21s`, with or without
    /// `=` around it; other lines are nothing.
    pub(crate) fn add_pytest_line(&mut self, line: &str) {
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
                ignored: 3
            }
        );
        let line = "test result: FAILED. 7 passed; 12 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(
            cargo(line),
            Counts {
                passed: 7,
                failed: 12,
                ignored: 0
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
                ignored: 0
            }
        );
        let line = "= 1 failed, 233 passed, 2 skipped, 199 deselected, 36 errors in 33.07s =";
        assert_eq!(
            pytest(line),
            Counts {
                passed: 233,
                failed: 37,
                ignored: 2
            }
        );
        assert_eq!(
            pytest("1 passed, 1 error in 65.84s (0:01:05)"),
            Counts {
                passed: 1,
                failed: 1,
                ignored: 0
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
    fn counts_add_up() {
        let mut counts = cargo("test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured");
        counts += pytest("2 passed, 3 failed in 1s");
        assert_eq!(
            counts,
            Counts {
                passed: 3,
                failed: 3,
                ignored: 1
            }
        );
    }
}
