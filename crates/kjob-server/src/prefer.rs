//! The `Prefer` header (RFC 7240), as far as something here depends on it.

use std::time::Duration;

use http::HeaderMap;

/// The header's name.
pub(crate) const PREFER: &str = "prefer";

/// The header by which a server says what it took up.
pub(crate) const PREFERENCE_APPLIED: &str = "preference-applied";

/// What a caller would like, where the server may do otherwise: so what is not understood counts as
/// not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// Rather an answer at once, that says where the other will be, than a late one.
    pub(crate) respond_async: bool,
    /// How long to wait for what takes time.
    pub(crate) wait: Option<Duration>,
}

impl Prefer {
    /// What these headers say. Of a preference that is named twice the first counts.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let values = headers.get_all(PREFER).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        for preference in texts.flat_map(|text| text.split(',')) {
            // What follows a semicolon are parameters, of which these two have none.
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = match preference.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim().trim_matches('"')),
                None => (preference.trim(), ""),
            };
            if name.eq_ignore_ascii_case("respond-async") && value.is_empty() {
                prefer.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") && prefer.wait.is_none() {
                prefer.wait = seconds(value);
            }
        }
        prefer
    }

    /// The value of [`PREFERENCE_APPLIED`].
    pub(crate) fn applied(self) -> Option<String> {
        let wait = self.wait.map(|wait| format!("wait={}", wait.as_secs()));
        match (self.respond_async, wait) {
            (true, Some(wait)) => Some(format!("respond-async, {wait}")),
            (true, None) => Some("respond-async".to_owned()),
            (false, wait) => wait,
        }
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A number that is too large for a u64 is for ever, too.
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn prefer(values: &[&'static str]) -> Prefer {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_static(value));
        }
        Prefer::of(&headers)
    }

    fn said(respond_async: bool, wait_secs: Option<u64>) -> Prefer {
        Prefer {
            respond_async,
            wait: wait_secs.map(Duration::from_secs),
        }
    }

    #[test]
    fn preferences_are_found_in_every_form_of_the_header() {
        for (values, expected) in [
            (&[][..], said(false, None)),
            (&["respond-async"], said(true, None)),
            (&["Respond-Async; foo=1"], said(true, None)),
            (&["respond-async, wait=10"], said(true, Some(10))),
            (&["respond-async", "Wait = 10"], said(true, Some(10))),
            (&["wait=\"7\"; x, return=minimal"], said(false, Some(7))),
            (&["wait=1, wait=2"], said(false, Some(1))),
            (&["wait=99999999999999999999"], said(false, Some(u64::MAX))),
            // Not understood.
            (&["respond-async=yes", "wait=-1"], said(false, None)),
            (
                &["wait=", "wait", "wait=1.5", ",,", "wait=x"],
                said(false, None),
            ),
        ] {
            assert_eq!(prefer(values), expected, "{values:?}");
        }
    }

    #[test]
    fn what_was_taken_up_is_said_in_the_same_words() {
        for text in ["respond-async, wait=10", "respond-async", "wait=3"] {
            assert_eq!(prefer(&[text]).applied().as_deref(), Some(text));
        }
        assert_eq!(said(false, None).applied(), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_and_what_is_taken_up_means_the_same(
            value in "(respond-async|wait|=|,|;|\"| |[0-9]{1,21}|[ -~\u{80}-\u{ff}]){0,12}",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(PREFER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            let found = Prefer::of(&headers);
            let mut headers = HeaderMap::new();
            if let Some(applied) = found.applied() {
                headers.insert(PREFER, HeaderValue::try_from(applied).unwrap());
            }
            prop_assert_eq!(Prefer::of(&headers), found);
        }
    }
}
