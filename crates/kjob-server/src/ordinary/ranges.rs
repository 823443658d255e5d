//! Conditional and partial requests (RFC 9110, sections 13 and 14), as far as a result has them.

use std::ops::Range;

use crate::refusal::Refusal;

/// The longest text of a header that a refusal repeats, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// The bytes that a `Range` asks for, if it is one range of bytes. What is no range counts as absent.
///
/// # Errors
/// None of `len` bytes is asked for.
pub(super) fn asked(range: &str, len: usize) -> Result<Option<Range<usize>>, Refusal> {
    if range.contains(',') {
        return Ok(None);
    }
    let Ok(parsed) = http_range_header::parse_range_header(range) else {
        return Ok(None);
    };
    let refused = || Refusal::Range {
        found: range.chars().take(SHOWN_CHARS_MAX).collect(),
        len: len as u64,
    };
    let ranges = parsed.validate(len as u64).map_err(|_| refused())?;
    let range = ranges.first().ok_or_else(refused)?;
    let bound = |byte: u64| usize::try_from(byte).map_err(|_| refused());
    let (start, end) = (bound(*range.start())?, bound(*range.end())?);
    if start > end || end >= len {
        return Err(refused());
    }
    Ok(Some(start..end + 1))
}

/// Whether a tag is among those of an `If-None-Match`, where it makes no difference if one is weak.
pub(crate) fn is_among(etag: &str, tags: &str) -> bool {
    // Our own tags have no comma in them, so one that was cut at its comma is none of ours.
    tags.split(',').any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_of_bytes_is_given_and_else_all() {
        for (range, expected) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=2-4", Some(2..5)),
            ("bytes=2-", Some(2..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=2-99", Some(2..10)),
            ("bytes=-99", Some(0..10)),
            ("bytes=0-1,4-5", None),
            ("bytes=4-2", None),
            ("bytes=x", None),
            ("items=0-1", None),
            ("", None),
        ] {
            let found = asked(range, 10);
            assert!(
                matches!(&found, Ok(found) if *found == expected),
                "{range}: {found:?}"
            );
        }
    }

    #[test]
    fn a_range_past_the_end_is_refused() {
        for (range, len) in [
            ("bytes=10-", 10),
            ("bytes=11-12", 10),
            ("bytes=0-0", 0),
            ("bytes=-0", 10),
        ] {
            let found = asked(range, len);
            assert!(
                matches!(found, Err(Refusal::Range { .. })),
                "{range} of {len}: {found:?}"
            );
        }
    }

    #[test]
    fn tags_are_found_in_lists() {
        for tags in [
            "\"a\"",
            "W/\"a\"",
            "\"b\", \"a\"",
            "*",
            "\"b\",W/\"a\" ,\"c\"",
        ] {
            assert!(is_among("\"a\"", tags), "{tags}");
        }
        for tags in ["", "a", "\"b\"", "\"ab\"", "w/\"a\"", "\"x,\"a"] {
            assert!(!is_among("\"a\"", tags), "{tags}");
        }
    }

    proptest! {
        #[test]
        fn any_range_is_within_what_there_is(
            other in "(bytes|items|=|-|,|\\s|[0-9]{1,20}|\\PC){0,12}",
            one in "bytes=[0-9]{0,20}-[0-9]{0,20}",
            len: usize,
        ) {
            for (range, len) in [(&other, len), (&one, len), (&one, len % 100)] {
                if let Ok(Some(range)) = asked(range, len) {
                    prop_assert!(range.start < range.end && range.end <= len);
                }
            }
        }

        #[test]
        fn a_tag_is_found_among_any_others(before in "\\PC{0,20}", after in "\\PC{0,20}") {
            let tags = format!("{before}, W/\"7-1f\" ,{after}");
            prop_assert!(is_among("\"7-1f\"", &tags));
            let _ = is_among("\"7-1f\"", &before);
        }
    }
}
