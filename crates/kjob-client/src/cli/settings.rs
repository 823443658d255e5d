//! Where the server is and who calls: flags win over variables, variables over the config file.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kjob_client::{Client, Encoding, Urls};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};

use super::args::{self, Connection};
use super::failure::Failure;

const URL: &str = "http://127.0.0.1:9191";

/// The config file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, deserialize_with = "urls")]
    url: Option<Urls>,
    user: Option<String>,
    password: Option<SecretString>,
    token: Option<SecretString>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default, deserialize_with = "encoding")]
    encoding: Option<Encoding>,
    #[serde(default, deserialize_with = "duration")]
    call_timeout: Option<Duration>,
    tries: Option<u32>,
}

/// Who calls.
#[derive(Debug)]
enum Caller {
    Nobody,
    User(String, SecretString),
    Token(SecretString),
}

/// The client that flags, variables and the config file describe. `warn` is told what is not as it
/// should be, and yet no reason to stop.
pub(crate) fn client(connection: &Connection, warn: impl Fn(&str)) -> Result<Client, Failure> {
    let file = File::read(connection.config.as_deref(), warn)?;
    // A variable that is empty counts as one that is not set.
    let given = |flag: &Option<String>, name: &str| {
        // One that is no text is no URL and no name either, and is refused as such.
        let variable = || Some(env::var_os(name)?.to_string_lossy().into_owned());
        let text = flag.clone().or_else(variable);
        text.filter(|text| !text.is_empty())
    };
    let urls = match (given(&connection.url, "KJOB_URL"), &file.url) {
        (Some(flag), _) => Urls::from(flag),
        (None, Some(file)) => file.clone(),
        (None, None) => Urls::from(URL),
    };
    let user = given(&connection.user, "KJOB_USER");
    let caller = caller(user.as_deref(), variable, &file)?;

    let mut builder = Client::builder(urls);
    match &caller {
        Caller::Nobody => {}
        Caller::User(user, password) => builder = builder.basic(user, password.expose_secret()),
        Caller::Token(token) => builder = builder.bearer(token.expose_secret()),
    }
    if let Some(encoding) = connection.encoding.or(file.encoding) {
        builder = builder.encoding(encoding);
    }
    if let Some(timeout) = connection.call_timeout.or(file.call_timeout) {
        builder = builder.timeout(timeout);
    }
    if let Some(tries) = connection.tries.or(file.tries) {
        builder = builder.tries(tries);
    }
    builder = with_tls(builder, connection, &file)?;
    Ok(builder.build()?)
}

/// The file of authorities that a flag or the variable names.
fn ca(connection: &Connection) -> Option<PathBuf> {
    let ca = connection.ca.clone();
    let ca = ca.or_else(|| env::var_os("KJOB_CA").map(PathBuf::from));
    ca.filter(|path| !path.as_os_str().is_empty())
}

#[cfg(feature = "tls")]
fn with_tls(
    mut builder: kjob_client::ClientBuilder,
    connection: &Connection,
    file: &File,
) -> Result<kjob_client::ClientBuilder, Failure> {
    let read = |path: &PathBuf| fs::read(path).map_err(Failure::file(path));
    if let Some(ca) = ca(connection).as_ref().or(file.ca.as_ref()) {
        builder = builder.add_root_certificate(read(ca)?);
    }
    let cert = connection.cert.as_ref().or(file.cert.as_ref());
    let key = connection.key.as_ref().or(file.key.as_ref());
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(builder.client_certificate(read(cert)?, read(key)?)),
        (None, None) => Ok(builder),
        _ => Err(Failure::Usage(
            "cert and key go together: one of them is missing",
        )),
    }
}

#[cfg(not(feature = "tls"))]
fn with_tls(
    builder: kjob_client::ClientBuilder,
    connection: &Connection,
    file: &File,
) -> Result<kjob_client::ClientBuilder, Failure> {
    let files = [&ca(connection), &connection.cert, &connection.key];
    let of_file = [&file.ca, &file.cert, &file.key];
    match files.into_iter().chain(of_file).any(Option::is_some) {
        true => Err(Failure::Usage(
            "this kjob was built without TLS, and knows no certificates",
        )),
        false => Ok(builder),
    }
}

/// The first source that says anything about who calls is the one that counts, so that a token in the
/// config file is not sent beside a user of the environment.
fn caller(
    user: Option<&str>,
    variable: impl Fn(&str) -> Option<SecretString>,
    file: &File,
) -> Result<Caller, Failure> {
    let (password, token) = (variable("KJOB_PASSWORD"), variable("KJOB_TOKEN"));
    match (user, password, token) {
        (None, None, None) => {}
        (None, None, Some(token)) => return Ok(Caller::Token(token)),
        (Some(user), Some(password), None) => {
            return Ok(Caller::User(user.to_owned(), password));
        }
        // The password of that user may be at rest in the file.
        (Some(user), None, None) => {
            return match &file.password {
                Some(password) if file.user.as_deref().is_none_or(|name| name == user) => {
                    Ok(Caller::User(user.to_owned(), password.clone()))
                }
                _ => Err(Failure::Usage(
                    "there is a user, but no password: set KJOB_PASSWORD",
                )),
            };
        }
        (None, Some(_), None) => {
            return Err(Failure::Usage(
                "KJOB_PASSWORD is set, but no user: set KJOB_USER",
            ));
        }
        (_, _, Some(_)) => {
            return Err(Failure::Usage(
                "KJOB_TOKEN is instead of user and password: set either",
            ));
        }
    }
    match (&file.user, &file.password, &file.token) {
        (None, None, None) => Ok(Caller::Nobody),
        (None, None, Some(token)) => Ok(Caller::Token(token.clone())),
        (Some(user), Some(password), None) => Ok(Caller::User(user.clone(), password.clone())),
        (_, _, Some(_)) => Err(Failure::Usage(
            "token in the config file is instead of user and password: give either",
        )),
        _ => Err(Failure::Usage(
            "user and password in the config file go together: one of them is missing",
        )),
    }
}

fn variable(name: &str) -> Option<SecretString> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(SecretString::from(text))
}

impl File {
    /// The file that was named, which has to be there, or the one at the usual place, if there is one.
    fn read(named: Option<&Path>, warn: impl Fn(&str)) -> Result<Self, Failure> {
        let usual = usual_path();
        let Some(path) = named.or(usual.as_deref()) else {
            return Ok(Self::default());
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(Failure::file(path)(error)),
        };
        let file: Self = toml::from_str(&text).map_err(|error| Failure::Config {
            path: path.to_owned(),
            why: where_and_why(&text, &error),
        })?;
        if (file.password.is_some() || file.token.is_some()) && is_readable_by_others(path) {
            warn(&format!(
                "{path:?} has a secret in it, and others can read it; chmod 600 keeps it yours"
            ));
        }
        Ok(file)
    }
}

/// Not the error's own text, which quotes the line, and so may quote a secret.
fn where_and_why(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            format!("line {line}: {}", error.message())
        }
        None => error.message().to_owned(),
    }
}

/// As the XDG Base Directory Specification has it: a path that is not absolute is ignored.
fn usual_path() -> Option<PathBuf> {
    let dir = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let dir = dir.filter(|dir| dir.is_absolute());
    let dir = dir.or_else(|| Some(env::home_dir()?.join(".config")))?;
    Some(dir.join("kjob").join("config.toml"))
}

#[cfg(unix)]
fn is_readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_readable_by_others(_: &Path) -> bool {
    false
}

/// A text or a list of texts.
fn urls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Urls>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(url) => Urls::from(url),
        OneOrMany::Many(urls) => Urls::from(urls),
    }))
}

fn encoding<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Encoding>, D::Error> {
    let text = String::deserialize(deserializer)?;
    args::encoding(&text).map(Some).map_err(de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    args::duration(&text).map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        toml::from_str(text).unwrap()
    }

    /// Who calls, as one word; `variables` are those that are set.
    fn who(user: Option<&str>, variables: &[(&str, &str)], text: &str) -> Result<String, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| SecretString::from(*value))
        };
        match caller(user, variable, &file(text)) {
            Ok(Caller::Nobody) => Ok("nobody".to_owned()),
            Ok(Caller::User(user, password)) => Ok(format!("{user}/{}", password.expose_secret())),
            Ok(Caller::Token(token)) => Ok(token.expose_secret().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    const ANN: &str = "user = 'ann'\npassword = 'of-file'";

    #[test]
    fn one_source_says_who_calls() {
        let password = [("KJOB_PASSWORD", "of-env")];
        let token = [("KJOB_TOKEN", "t-env")];
        for (user, variables, text, expected) in [
            (None, &[][..], "", "nobody"),
            (None, &[], ANN, "ann/of-file"),
            (None, &[], "token = 't-file'", "t-file"),
            (None, &token, ANN, "t-env"),
            (Some("bob"), &password, ANN, "bob/of-env"),
            (Some("bob"), &password, "token = 't-file'", "bob/of-env"),
            (Some("ann"), &[], ANN, "ann/of-file"),
            (Some("ann"), &[], "password = 'of-file'", "ann/of-file"),
        ] {
            assert_eq!(who(user, variables, text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn halves_and_both_are_refused() {
        let password = ("KJOB_PASSWORD", "p");
        let token = ("KJOB_TOKEN", "t");
        for (user, variables, text, word) in [
            (None, &[password][..], "", "KJOB_USER"),
            (Some("bob"), &[], "", "KJOB_PASSWORD"),
            (Some("bob"), &[], ANN, "KJOB_PASSWORD"),
            (Some("bob"), &[password, token], "", "KJOB_TOKEN"),
            (Some("bob"), &[token], "", "KJOB_TOKEN"),
            (None, &[], "user = 'ann'", "go together"),
            (None, &[], "user = 'ann'\ntoken = 't'", "either"),
        ] {
            let error = who(user, variables, text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_file_says_everything() {
        let file = file(
            "url = ['http://a', 'http://b']\nencoding = 'json'\ncall_timeout = '10s'\ntries = 2\n\
             ca = 'ca.pem'\ncert = 'c.pem'\nkey = 'k.pem'",
        );
        assert_eq!(file.url, Some(Urls::from("http://a,http://b")));
        assert_eq!(file.encoding, Some(Encoding::Json));
        assert_eq!(file.call_timeout, Some(Duration::from_secs(10)));
        assert_eq!(file.tries, Some(2));
        assert_eq!(file.ca, Some("ca.pem".into()));
    }

    #[test]
    fn mistakes_are_named_by_line_and_secrets_not_repeated() {
        for text in [
            "url = 'http://a'\npasword = 'secret'",
            "url = 'http://a'\npassword = 'secret",
            "user = 'a'\nencoding = 'secret'",
        ] {
            let error = toml::from_str::<File>(text).unwrap_err();
            let why = where_and_why(text, &error);
            assert!(why.starts_with("line 2: "), "{why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn printing_tells_no_secret() {
        let shown = format!("{:?}", file("password = 'hidden'\ntoken = 'hidden'"));
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
