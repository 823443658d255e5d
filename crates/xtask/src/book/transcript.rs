//! Blocks of commands and what they print, as pages show them.

/// A command, and what is shown of its output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The line of the page that the command begins in.
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) output: Vec<String>,
}

/// The steps of a block whose first line is that of the page. What stands before the first `$ ` is an
/// error: its line.
///
/// A command goes on in the next line after a backslash, and inside of quotes.
pub(crate) fn steps(first_line: usize, block: &[String]) -> Result<Vec<Step>, usize> {
    let mut steps: Vec<Step> = Vec::new();
    for (line, text) in (first_line..).zip(block) {
        match steps.last_mut() {
            Some(step) if step.output.is_empty() && !is_complete(&step.command) => {
                step.command.push('\n');
                step.command.push_str(text);
            }
            last => match (text.strip_prefix("$ "), last) {
                (Some(command), _) => steps.push(Step {
                    line,
                    command: command.to_owned(),
                    output: Vec::new(),
                }),
                (None, Some(step)) => step.output.push(text.trim_end().to_owned()),
                (None, None) => return Err(line),
            },
        }
    }
    for step in &mut steps {
        trim_end(&mut step.output);
    }
    Ok(steps)
}

/// Takes empty lines off the end.
pub(crate) fn trim_end(lines: &mut Vec<String>) {
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
}

fn is_complete(command: &str) -> bool {
    let (mut quote, mut letters) = (None, command.chars());
    while let Some(letter) = letters.next() {
        if letter == '\\' && quote != Some('\'') {
            // The last of a line asks for the next.
            let Some(_) = letters.next() else {
                return false;
            };
            continue;
        }
        match quote {
            None if letter == '\'' || letter == '"' => quote = Some(letter),
            Some(open) if open == letter => quote = None,
            _ => {}
        }
    }
    quote.is_none()
}

/// Compares what is shown with what was printed. `…` stands for any text in a line; alone in a line, for any
/// lines, or none. If they differ: which of the shown lines (or one past them) could not be found.
pub(crate) fn compare(shown: &[String], printed: &[String]) -> Result<(), usize> {
    let mut furthest = 0;
    if fits(shown, printed, 0, &mut furthest) {
        Ok(())
    } else {
        Err(furthest)
    }
}

fn fits(shown: &[String], printed: &[String], at: usize, furthest: &mut usize) -> bool {
    *furthest = at.max(*furthest);
    let Some(line) = shown.get(at) else {
        return printed.is_empty();
    };
    if line.trim() == "…" {
        return (0..=printed.len()).any(|from| fits(shown, &printed[from..], at + 1, furthest));
    }
    match printed.split_first() {
        Some((first, rest)) => line_fits(line, first) && fits(shown, rest, at + 1, furthest),
        None => false,
    }
}

fn line_fits(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|start| printed.strip_prefix(start)) else {
        return false;
    };
    let mut is_open = false;
    let mut last = "";
    for part in parts {
        is_open = true;
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = part;
    }
    // Behind the last `…` its text has to be at the end, wherever else it may be.
    rest.is_empty() || is_open && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn commands_go_on_inside_of_quotes_and_after_a_backslash() {
        let block = lines("$ a -d '{\n  \"b\": \"it\\\"s\"}' \\\n  c\nout\n\n$ d\n");
        let steps = steps(7, &block).unwrap();
        let step = |line, command: &str, output: &[&str]| Step {
            line,
            command: command.to_owned(),
            output: output.iter().map(ToString::to_string).collect(),
        };
        let first = "a -d '{\n  \"b\": \"it\\\"s\"}' \\\n  c";
        assert_eq!(steps, [step(7, first, &["out"]), step(12, "d", &[])]);
        assert_eq!(super::steps(3, &lines("out\n$ a")), Err(3));
    }

    #[test]
    fn output_is_compared_line_by_line() {
        let compare = |shown: &str, printed: &str| compare(&lines(shown), &lines(printed));
        assert_eq!(compare("a\nb", "a\nb"), Ok(()));
        assert_eq!(compare("a\nb", "a\nc"), Err(1));
        assert_eq!(compare("a", "a\nb"), Err(1));
        assert_eq!(compare("", "a"), Err(0));
        assert_eq!(compare("a\nb", "a"), Err(1));
    }

    #[test]
    fn an_ellipsis_stands_for_any_text_or_any_lines() {
        let compare = |shown: &str, printed: &str| compare(&lines(shown), &lines(printed)).is_ok();
        assert!(compare("a…c", "abbc") && compare("a…", "a") && compare("…c", "acac"));
        assert!(compare(
            "{\"id\":…,\"tag\":\"x\"}",
            "{\"id\":7,\"tag\":\"x\"}"
        ));
        assert!(!compare("a…c", "abbd") && !compare("a…c…e", "ace f") && !compare("b…", "ab"));
        assert!(!compare("ab", "abc"));
        assert!(compare("a\n…\nz", "a\nz") && compare("a\n…\nz", "a\nb\nc\nz"));
        assert!(compare("…", "") && !compare("…\nz", "a"));
    }
}
