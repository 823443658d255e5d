//! Texts of others on a terminal.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kjob_client::Status;

/// A text in which nothing moves the cursor or does other things to a terminal: what a job says may
/// come from anybody.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_odd(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Whether bytes can go to a terminal as they are: a text that does nothing there but begin lines and go to
/// the next tab stop.
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes);
    text.is_ok_and(|text| !text.contains(|c: char| is_odd(c) && !matches!(c, '\n' | '\t')))
}

/// Control characters, and those that turn the direction of what follows.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A job's status, and its phase where that says more.
pub(crate) fn status(status: &Status, phase: Option<&str>) -> String {
    match (status, phase) {
        (Status::Running, Some(phase)) if !matches!(phase, "" | "running") => {
            format!("{status} ({})", shown(phase))
        }
        _ => shown(&status.to_string()).into_owned(),
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 has them.
pub(crate) fn time(millis: i64) -> Option<String> {
    Some(humantime::format_rfc3339_millis(moment(millis)?).to_string())
}

/// The same for people: to the second.
pub(crate) fn time_short(millis: i64) -> Option<String> {
    Some(humantime::format_rfc3339_seconds(moment(millis)?).to_string())
}

fn moment(millis: i64) -> Option<SystemTime> {
    let since = Duration::from_millis(u64::try_from(millis).ok()?);
    // Later ones have years of more than four digits.
    (since <= Duration::from_secs(253_402_300_799)).then(|| UNIX_EPOCH + since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_told_nothing() {
        for (text, expected) in [
            ("plain – ünïcode", "plain – ünïcode"),
            ("red \u{1b}[31m", "red \\u{1b}[31m"),
            ("two\nlines\t.", "two\\nlines\\t."),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_not_plain() {
        for plain in ["", "13\n", "a\tb\n – ünïcode\n", r#"{"a": 1}"#] {
            assert!(is_plain(plain.as_bytes()), "{plain:?}");
        }
        for odd in [
            &b"\x1b[2J"[..],
            b"over\rwritten",
            b"\x07",
            b"\0",
            b"\x7f",
            "\u{9b}2J".as_bytes(),
            "\u{202e}gpj.exe".as_bytes(),
            b"\xff",
        ] {
            assert!(!is_plain(odd), "{odd:?}");
        }
    }

    #[test]
    fn a_phase_is_told_where_it_says_more_than_the_status() {
        for (word, phase, expected) in [
            (Status::Running, Some("queued"), "RUNNING (queued)"),
            (Status::Running, Some("running"), "RUNNING"),
            (Status::Running, None, "RUNNING"),
            (Status::Error, Some("failed"), "ERROR"),
        ] {
            assert_eq!(status(&word, phase), expected);
        }
    }

    #[test]
    fn times_are_told_if_there_are_such() {
        assert_eq!(time(0).unwrap(), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            time(253_402_300_799_000).unwrap(),
            "9999-12-31T23:59:59.000Z"
        );
        assert_eq!(time_short(1_999).unwrap(), "1970-01-01T00:00:01Z");
        for millis in [-1, 253_402_300_799_001, i64::MAX] {
            assert_eq!(time(millis), None);
        }
    }
}
