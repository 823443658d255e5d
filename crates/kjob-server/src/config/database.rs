//! The URL of a database, which may have a password in it that nobody is to see.

use std::fmt;

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

/// The text as it may be shown; one that has no password is as it was.
pub(super) fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, hosts)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:***@{hosts}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    let mut shown = format!("{scheme}://{authority}");
    for (number, part) in path.split_inclusive(['?', '&']).enumerate() {
        match part.split_once('=') {
            Some(("password", value)) if number > 0 => {
                shown += "password=***";
                shown.extend(value.chars().last().filter(|last| *last == '&'));
            }
            _ => shown += part,
        }
    }
    shown
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
        ] {
            assert_eq!(without_password(url), shown);
        }
        let url = DatabaseUrl::new("postgres://ann:secret@db");
        assert!(!format!("{url:?}").contains("secret"));
    }
}
