//! Whatever a config says, it is read or refused, and what is read is in its range.

use std::path::Path;
use std::time::Duration;

use http::Uri;
use proptest::prelude::*;

use super::{Keys, Maybe, route_value, routes, value};

/// Anything, or something that is nearly what the forms take.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "(\\PC|\\s){0,24}",
        "[-+.0-9eE]{1,24} ?([kKmMgGtTpPeE]i?[bB]?|[num]?s|m|h|days|years|inf|nan)?",
        "(https?://)?[\\[\\]a:.*1-9@,;/?#-]{0,16}",
        "(https?|:|/|@|\\?|#|h|1|\\{job_id\\}){1,12}",
        "https?://(1|\\{job_id\\}){1,3}/(1|\\?|\\{job_id\\}){1,6}",
        "(\\$|\\{|\\}|PATH|é){0,8}",
    ]
}

/// A TOML value of some kind, or nearly one.
fn toml_value() -> impl Strategy<Value = String> {
    prop_oneof![
        text().prop_map(|text| format!("{text:?}")),
        text(),
        "-?(0x|0o|0b)?[0-9]{1,20}",
        "(true|false|\\[\\]|\\{\\}|1\\.5|inf|1979-05-27)",
        (text(), text()).prop_map(|(one, other)| format!("[{one:?}, {other:?}]")),
        (text(), text()).prop_map(|(name, value)| format!("{{ {name:?} = {value:?} }}")),
    ]
}

const ROUTE_HEADS: &[&str] = &[
    "endpoint = \"/a\"\nkind = \"http\"\nupstream = \"http://h\"\n",
    "endpoint = \"/b/*\"\nkind = \"command\"\ncommand = [\"wc\"]\n",
    "",
];

fn route() -> impl Strategy<Value = String> {
    let entry = (prop::sample::select(routes::keys()), toml_value());
    let entries = prop::collection::vec(entry, 0..3);
    (prop::sample::select(ROUTE_HEADS), entries).prop_map(|(head, entries)| {
        let entries = entries
            .iter()
            .map(|(key, value)| format!("{key} = {value}\n"));
        format!("[[route]]\n{head}{}", entries.collect::<String>())
    })
}

fn read(text: &str) -> Option<Keys> {
    Keys::from_toml(text, Path::new("kjob.toml")).ok()
}

proptest! {
    #[test]
    fn numbers_are_in_their_range(text in text()) {
        if let Ok(count) = value::count(&text) {
            prop_assert!((1..=1_000_000_000).contains(&count));
        }
        if let Ok(Maybe::Told(threads)) = value::maybe_threads(&text) {
            prop_assert!((1..=4096).contains(&threads));
        }
        if let Ok(depth) = value::depth(&text) {
            prop_assert!((2..=127).contains(&depth));
        }
        if let Ok(size) = value::size(&text) {
            prop_assert!((1..=isize::MAX as usize).contains(&size));
        }
        if let Ok(head) = value::head(&text) {
            prop_assert!(head >= 8192);
        }
        if let Ok(attempts) = route_value::attempts(&text) {
            prop_assert!(attempts >= 1);
        }
        let century = Duration::from_secs(100 * 366 * 24 * 60 * 60);
        if let Ok(duration) = value::positive_duration(&text) {
            prop_assert!(duration > Duration::ZERO && duration <= century);
        }
    }

    #[test]
    fn urls_and_hosts_are_plain(text in text()) {
        if let Ok(Maybe::Told(url)) = value::url(&text) {
            let uri: Uri = url.parse().unwrap();
            prop_assert_eq!(uri.path_and_query().map_or("/", |path| path.as_str()), "/");
            prop_assert!(!url.contains([',', ';', '@']) && !url.ends_with('/'));
        }
        for host in value::hosts(&text).unwrap_or_default() {
            prop_assert!(!host.is_empty() && host == host.to_ascii_lowercase());
            prop_assert!(!host.contains(['/', '@', '*', '[', ',']));
        }
        for origin in value::origins(&text).unwrap_or_default() {
            prop_assert!(origin.starts_with("http") && origin == origin.to_ascii_lowercase());
            prop_assert!(!origin.contains('*'));
        }
        if let Ok(url) = route_value::cancel_url(&text) {
            let at = |id: &str| url.replace("{job_id}", id).parse::<Uri>().unwrap();
            let (one, other) = (at("1"), at("9007199254740991"));
            prop_assert_eq!(one.authority(), other.authority());
            prop_assert_ne!(one.path_and_query(), other.path_and_query());
        }
        let _ = (value::upstream(&text), value::callback_hosts(&text), value::address(&text));
        let _ = (value::filter(&text), value::client_auth(&text), value::maybe_file(&text));
        let _ = (route_value::content_type(&text), route_value::secret(&text));
        let _ = (route_value::bearer(&text), route_value::basic(&text, &text));
    }

    #[test]
    fn any_file_is_read_or_refused(
        text in "((\\PC|\\s){0,4}|\\[|\\]|=|\"|\n|[a-z_]{1,8}){0,40}",
        key in prop::sample::select(Keys::NAMES),
        value in toml_value(),
    ) {
        let _ = read(&text);
        let _ = read(&format!("{key} = {value}"));
    }

    #[test]
    fn any_route_is_read_or_refused(routes in prop::collection::vec(route(), 1..3)) {
        let Some(keys) = read(&routes.concat()) else {
            return Ok(());
        };
        prop_assert_eq!(keys.routes.len(), routes.len());
        for configured in &keys.routes {
            let endpoint = &configured.route.endpoint;
            prop_assert!(endpoint.starts_with('/') && endpoint.len() <= 1024);
            prop_assert_ne!(configured.route.options.concurrency, Some(0));
            prop_assert_ne!(configured.route.options.timeout, Some(Duration::ZERO));
            prop_assert_ne!(configured.route.max_result, Some(0));
        }
    }
}
