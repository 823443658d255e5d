//! What a command writes to its error output: progress, and what is told if it fails.

use std::collections::VecDeque;

use kjob_core::JobId;

use super::answer::visible;
use crate::job_log;

/// The longest line that is kept; of longer ones the beginning is.
const LINE_LEN_MAX: usize = 1 << 10;

/// How many of the last lines are kept.
const LINES_MAX: usize = 20;

/// Takes the error output as it comes, and keeps little of it.
#[derive(Debug, Default)]
pub(super) struct ErrorOutput {
    /// Whose lines are kept with those of the log.
    job: Option<JobId>,
    line: Vec<u8>,
    lines: VecDeque<String>,
}

impl ErrorOutput {
    /// The error output of the command that runs a job.
    pub(super) fn of(job: JobId) -> Self {
        Self {
            job: Some(job),
            ..Self::default()
        }
    }

    /// Takes a piece, and gives the last progress that it tells: a line `progress: N`, from 0 to 100.
    pub(super) fn push(&mut self, piece: &[u8]) -> Option<u8> {
        let mut progress = None;
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_end) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            // One byte more than is kept, so that a cut is seen.
            let room = (LINE_LEN_MAX + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if is_end {
                progress = self.end_line().or(progress);
            }
        }
        progress
    }

    /// The last lines, from the oldest on.
    pub(super) fn finish(mut self) -> String {
        // The last line may end without a line feed. Its progress is that of a command that is over.
        let _ = self.end_line();
        let lines: Vec<String> = self.lines.into();
        lines.join("\n")
    }

    fn end_line(&mut self) -> Option<u8> {
        let line = std::mem::take(&mut self.line);
        if let Some(progress) = progress(&line) {
            return Some(progress);
        }
        let line = visible(&line, LINE_LEN_MAX);
        if !line.is_empty() {
            if let Some(job) = self.job {
                job_log::of_command(job, &line);
            }
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
        None
    }
}

fn progress(line: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(line).ok()?;
    let number = text.trim_end().strip_prefix("progress:")?.trim();
    number.parse().ok().filter(|percent| *percent <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_however_the_lines_come_in() {
        let mut output = ErrorOutput::default();
        assert_eq!(output.push(b"progress: 1\nprogress: 2\nprog"), Some(2));
        assert_eq!(output.push(b"ress: 4"), None);
        assert_eq!(output.push(b"2 \r\nhello\n"), Some(42));
        assert_eq!(output.push(b"progress:100\n"), Some(100));
        for odd in [
            "progress: 101\n",
            "progress: x\n",
            "progress: -1\n",
            "Progress: 5\n",
        ] {
            assert_eq!(output.push(odd.as_bytes()), None, "{odd}");
        }
        let told = output.finish();
        assert!(told.starts_with("hello\nprogress: 101\n"), "{told}");
    }

    #[test]
    fn only_the_last_lines_are_kept_and_long_ones_cut() {
        let mut output = ErrorOutput::default();
        for number in 0..1000 {
            output.push(format!("line {number}\n\n").as_bytes());
        }
        for _ in 0..1000 {
            output.push(&[b'x'; 1000]);
        }
        assert!(output.line.len() <= LINE_LEN_MAX + 1);
        let told = output.finish();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[0], "line 981");
        assert_eq!(
            lines[LINES_MAX - 1],
            format!("{}…", "x".repeat(LINE_LEN_MAX))
        );
    }
}
