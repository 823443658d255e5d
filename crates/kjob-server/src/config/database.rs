//! The URL of a database, which may have a password in it that nobody is to see.

use std::fmt;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

/// The URL of a database: [shown](fmt::Display) without its password.
///
/// ```
/// use kjob_server::config::DatabaseUrl;
/// let url = DatabaseUrl::new("postgres://ann:secret@db/jobs?password=secret");
/// assert_eq!(url.to_string(), "postgres://ann:***@db/jobs?password=***");
/// assert!(url.reveal().contains("secret"));
/// ```
#[derive(Clone)]
pub struct DatabaseUrl(SecretString);

impl DatabaseUrl {
    /// This URL.
    pub fn new(url: &str) -> Self {
        Self(SecretString::from(url))
    }

    /// All that a text names, with commas between; `None` if it is anything else. A comma at the end is nothing.
    pub(super) fn all_of(text: &str) -> Option<Vec<Self>> {
        let text = text.trim_end();
        let urls = split(text.strip_suffix(',').unwrap_or(text));
        let is_url = |url: &&str| SCHEMES.iter().any(|scheme| url.starts_with(scheme));
        urls.iter()
            .all(is_url)
            .then(|| urls.into_iter().map(Self::new).collect())
    }

    /// Whether there is another URL in it: something else than a comma is between them.
    pub(super) fn is_several(&self) -> bool {
        let starts = SCHEMES.iter().map(|scheme| self.reveal().matches(scheme));
        starts.map(Iterator::count).sum::<usize>() > 1
    }

    /// The whole URL, with its password.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(self.reveal()))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl PartialEq for DatabaseUrl {
    fn eq(&self, other: &Self) -> bool {
        self.reveal() == other.reveal()
    }
}

impl Eq for DatabaseUrl {}

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// The URLs of a text. As a URL may have commas between its hosts, it ends where another one begins.
fn split(text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.match_indices(',').map(|(at, _)| at).find(|at| {
        let next = rest[at + 1..].trim_start();
        SCHEMES.iter().any(|scheme| next.starts_with(scheme))
    }) {
        urls.push(rest[..end].trim());
        rest = &rest[end + 1..];
    }
    urls.push(if urls.is_empty() { rest } else { rest.trim() });
    urls
}

/// The text as it may be shown; one that has no password is as it was. Whatever a driver might take for a
/// password is left out, also where its characters should have been escaped.
pub(super) fn without_password(text: &str) -> String {
    match split(text)[..] {
        [one] => of_one(one),
        ref several => several
            .iter()
            .map(|url| of_one(url))
            .collect::<Vec<_>>()
            .join(","),
    }
}

fn of_one(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        // Not a URL: words with values, perhaps, or a URL with a slip in it.
        let may_have_one = text.contains(['@', '=']);
        return if may_have_one { "***" } else { text }.to_owned();
    };
    let rest = match rest.rsplit_once('@') {
        Some((user, hosts)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:***@{hosts}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    let mut shown = format!("{scheme}://");
    for part in rest.split_inclusive(['?', '&']) {
        match part.split_once('=') {
            Some((name, value)) if is_password(name) => {
                shown += name;
                shown += "=***";
                shown.extend(
                    value
                        .chars()
                        .last()
                        .filter(|last| ['?', '&'].contains(last)),
                );
            }
            _ => shown += part,
        }
    }
    shown
}

/// `password`, `sslpassword`, and whatever else is called one.
fn is_password(name: &str) -> bool {
    let name = percent_decode_str(name).decode_utf8_lossy();
    name.to_ascii_lowercase().contains("password")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("embedded", "embedded"),
            ("postgres://db/jobs", "postgres://db/jobs"),
            ("postgres://ann@db", "postgres://ann@db"),
            (
                "postgres://ann:a:b@c@db1,db2:5/j",
                "postgres://ann:***@db1,db2:5/j",
            ),
            (
                "postgresql:///j?host=/run&password=x&user=ann",
                "postgresql:///j?host=/run&password=***&user=ann",
            ),
            ("postgres://db?password=x", "postgres://db?password=***"),
            (
                "postgres://db?sslPassword=x&sslkey=y",
                "postgres://db?sslPassword=***&sslkey=y",
            ),
            ("postgres://db?pass%77ord=x", "postgres://db?pass%77ord=***"),
            ("postgres://u:a/b@c:1/db", "postgres://u:***@c:1/db"),
            ("postgres://u:a?b=1@c:1/db", "postgres://u:***@c:1/db"),
            (
                "postgres://u:a@b@c/db?user=d",
                "postgres://u:***@c/db?user=d",
            ),
            ("user=u password=x host=h", "***"),
            ("postgres:/u:x@h/db", "***"),
            (
                "postgres://u:x@a,b/db, postgresql://u:y@c/db?password=z",
                "postgres://u:***@a,b/db,postgresql://u:***@c/db?password=***",
            ),
        ] {
            assert_eq!(without_password(url), shown);
        }
        let several = DatabaseUrl::all_of("postgres://a,b:5/j,postgresql://c/j").unwrap();
        let several: Vec<&str> = several.iter().map(DatabaseUrl::reveal).collect();
        assert_eq!(several, ["postgres://a,b:5/j", "postgresql://c/j"]);
        for bad in ["", "embedded,postgres://a/j", "postgres:/a", "mysql://a/j"] {
            assert_eq!(DatabaseUrl::all_of(bad), None, "{bad}");
        }
        let several = DatabaseUrl::all_of("postgres://a/j,postgres://c/j, ").unwrap();
        let several: Vec<&str> = several.iter().map(DatabaseUrl::reveal).collect();
        assert_eq!(several, ["postgres://a/j", "postgres://c/j"]);
        for (text, is_several) in [
            ("postgres://a/j;postgresql://c/j", true),
            ("postgres://a/j postgres://c/j", true),
            ("postgres://u:a://b@a/j?sslrootcert=x", false),
        ] {
            let urls = DatabaseUrl::all_of(text).unwrap();
            assert_eq!(
                (urls.len(), urls[0].is_several()),
                (1, is_several),
                "{text}"
            );
        }
        let url = DatabaseUrl::new("postgres://ann:secret@db");
        assert!(!format!("{url:?}").contains("secret"));
    }
}
