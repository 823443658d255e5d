//! The forms that values of routes have.

use base64ct::{Base64, Encoding as _};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use toml::de::{DeArray, DeTable, DeValue};

use super::BadValue;
use super::file::scalar;
use super::value::word;
use crate::gateway::{OutputForm, Upstream, Wire};
use crate::outbound::is_port_clear;

/// The longest endpoint pattern, in bytes: no endpoint is longer.
const ENDPOINT_LEN_MAX: usize = 1024;

/// What a route's `kind` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Command,
}

pub(super) fn endpoint(text: &str) -> Result<String, BadValue> {
    if text.len() > ENDPOINT_LEN_MAX {
        return Err(BadValue::new(text, "an endpoint of at most 1024 bytes"));
    }
    Ok(text.to_owned())
}

pub(super) fn kind(text: &str) -> Result<Kind, BadValue> {
    word(text, &[("http", Kind::Http), ("command", Kind::Command)])
}

pub(super) fn wire(text: &str) -> Result<Wire, BadValue> {
    word(
        text,
        &[("plain", Wire::Plain), ("kinetica", Wire::Kinetica)],
    )
}

pub(super) fn output(text: &str) -> Result<OutputForm, BadValue> {
    let words = [
        ("auto", OutputForm::Auto),
        ("json", OutputForm::Json),
        ("binary", OutputForm::Binary),
    ];
    word(text, &words)
}

/// Whether interrupted jobs are tried again.
pub(super) fn on_interrupt(text: &str) -> Result<bool, BadValue> {
    word(text, &[("fail", false), ("retry", true)])
}

pub(super) fn attempts(text: &str) -> Result<u32, BadValue> {
    let number = text.parse().ok().filter(|number| *number >= 1);
    number.ok_or_else(|| BadValue::new(text, "a number from 1 to 4294967295"))
}

pub(super) fn upstreams(value: &DeValue<'_>) -> Result<Vec<Upstream>, BadValue> {
    let parse = |text: &str| {
        let wanted = "a URL such as http://127.0.0.1:8080 or https://example.org/api, without a user, a query or a fragment";
        text.parse().map_err(|_| BadValue::new(text, wanted))
    };
    match value {
        DeValue::Array(urls) => texts(urls)?.iter().map(|url| parse(url)).collect(),
        other => Ok(vec![parse(&scalar(other)?)?]),
    }
}

pub(super) fn content_type(text: &str) -> Result<HeaderValue, BadValue> {
    let is_one = text.contains('/') && !text.contains(char::is_control);
    let value = is_one.then(|| HeaderValue::from_str(text).ok()).flatten();
    value.ok_or_else(|| BadValue::new(text, "a media type such as application/pdf"))
}

/// A table of headers. Values may refer to variables of the environment.
pub(super) fn headers(value: &DeValue<'_>) -> Result<HeaderMap, BadValue> {
    let mut headers = HeaderMap::new();
    for (name, value) in table(value)?.iter() {
        let told: &str = name.get_ref();
        let name = header_name(told)?;
        let text = secret(&scalar(value.get_ref())?)?;
        let value = HeaderValue::from_str(&text);
        let mut value = value.map_err(|_| BadValue::of_secret(told, "a header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

pub(super) fn header_names(value: &DeValue<'_>) -> Result<Vec<HeaderName>, BadValue> {
    let names = texts(array(value)?)?;
    names.iter().map(|name| header_name(name)).collect()
}

/// A header that says nothing of how the request is sent: those are the HTTP library's.
pub(super) fn header_name(text: &str) -> Result<HeaderName, BadValue> {
    const TAKEN: [HeaderName; 8] = [
        CONNECTION,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        EXPECT,
        HOST,
        TE,
        TRAILER,
        UPGRADE,
    ];
    let name: HeaderName = text
        .parse()
        .map_err(|_| BadValue::new(text, "the name of a header"))?;
    if TAKEN.contains(&name) || name == TRANSFER_ENCODING {
        return Err(BadValue::new(text, "a header that may be set"));
    }
    Ok(name)
}

pub(super) fn bearer(token: &str) -> Result<Option<HeaderValue>, BadValue> {
    authorization(&format!("Bearer {token}"))
}

pub(super) fn basic(user: &str, password: &str) -> Result<Option<HeaderValue>, BadValue> {
    if user.contains(':') {
        return Err(BadValue::new("a name with a colon", "a user of HTTP Basic"));
    }
    let both = format!("{user}:{password}");
    authorization(&format!("Basic {}", Base64::encode_string(both.as_bytes())))
}

fn authorization(text: &str) -> Result<Option<HeaderValue>, BadValue> {
    let value = HeaderValue::from_str(text);
    let mut value = value.map_err(|_| BadValue::of_secret("authorization", "a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// A text in which `${NAME}` stands for a variable of the environment, and `$$` for a dollar sign.
pub(super) fn secret(text: &str) -> Result<String, BadValue> {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        told.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            told.push('$');
            after
        } else if let Some((name, after)) = after
            .strip_prefix('{')
            .and_then(|after| after.split_once('}'))
        {
            let reference = format!("${{{name}}}");
            let value = std::env::var(name);
            told.push_str(&value.map_err(|_| BadValue::new(&reference, "set in the environment"))?);
            after
        } else {
            // What stands there may be a secret with a dollar sign in it.
            let wanted = "${NAME} for a variable of the environment, or $$ for a dollar sign";
            return Err(BadValue::new("$", wanted));
        };
    }
    told.push_str(rest);
    Ok(told)
}

/// A URL that is called for a job, with its id in it.
pub(super) fn cancel_url(text: &str) -> Result<String, BadValue> {
    let bad = || BadValue::new(text, "a URL with {job_id} in its path or query");
    let of = |id: &str| text.replace("{job_id}", id).parse::<Uri>();
    let (uri, other) = (of("1").map_err(|_| bad())?, of("22").map_err(|_| bad())?);
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().ok_or_else(bad)?;
    let has_id_behind_host = uri.authority() == other.authority() && uri != other;
    let is_plain = is_web && !authority.as_str().contains('@') && !text.contains('#');
    if !is_plain || !has_id_behind_host || !is_port_clear(authority) {
        return Err(bad());
    }
    Ok(text.to_owned())
}

/// Where an upstream reaches this server: a URL to which a path is appended.
pub(super) fn progress_url(text: &str) -> Result<String, BadValue> {
    let wanted =
        "a URL of this server, such as http://10.0.0.7:9191, without a user, a query or a fragment";
    // What an upstream's URL may be, to which a path is appended as well.
    let parsed: Result<Upstream, _> = text.parse();
    parsed.map_err(|_| BadValue::new(text, wanted))?;
    Ok(text.to_owned())
}

pub(super) fn command(value: &DeValue<'_>) -> Result<Vec<String>, BadValue> {
    let command = texts(array(value)?)?;
    match command.first() {
        Some(program) if !program.is_empty() && !command.iter().any(|text| text.contains('\0')) => {
            Ok(command)
        }
        _ => Err(BadValue::new("it", "a program and its arguments")),
    }
}

/// A table of variables. Values may refer to variables of the server's own environment.
pub(super) fn variables(value: &DeValue<'_>) -> Result<Vec<(String, String)>, BadValue> {
    let entries = table(value)?.iter();
    entries
        .map(|(name, value)| {
            let name: &str = name.get_ref();
            let is_name = !name.is_empty() && !name.contains(['=', '\0']);
            if !is_name || name.starts_with("KJOB_") {
                let wanted = "the name of a variable (those with KJOB_ are the server's)";
                return Err(BadValue::new(name, wanted));
            }
            let text = secret(&scalar(value.get_ref())?)?;
            if text.contains('\0') {
                return Err(BadValue::of_secret(name, "a variable"));
            }
            Ok((name.to_owned(), text))
        })
        .collect()
}

fn table<'a, 'b>(value: &'b DeValue<'a>) -> Result<&'b DeTable<'a>, BadValue> {
    match value {
        DeValue::Table(table) => Ok(table),
        other => Err(of_type(other, "a table of texts")),
    }
}

fn array<'a, 'b>(value: &'b DeValue<'a>) -> Result<&'b DeArray<'a>, BadValue> {
    match value {
        DeValue::Array(array) => Ok(array),
        other => Err(of_type(other, "an array of texts")),
    }
}

fn texts(array: &DeArray<'_>) -> Result<Vec<String>, BadValue> {
    let text = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(of_type(other, "a text")),
    };
    array.iter().map(|value| text(value.get_ref())).collect()
}

fn of_type(value: &DeValue<'_>, wanted: &str) -> BadValue {
    BadValue::new(&format!("a TOML {}", value.type_str()), wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_where_they_are_named() {
        let path = std::env::var("PATH").unwrap();
        assert_eq!(secret("a ${PATH} b"), Ok(format!("a {path} b")));
        assert_eq!(secret("$${PATH} $$"), Ok("${PATH} $".into()));
        assert_eq!(secret(""), Ok(String::new()));
        for bad in ["$PATH", "hush$", "${PATH", "${}"] {
            let error = secret(bad).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn cancel_urls_have_the_id_behind_their_host() {
        for good in [
            "http://127.0.0.1:80/cancel/{job_id}",
            "https://h/?id={job_id}&x={job_id}",
        ] {
            assert_eq!(cancel_url(good), Ok(good.to_owned()));
        }
        for bad in [
            "http://{job_id}.example.org/",
            "http://{job_id}/1{job_id}",
            "http://h:99999/{job_id}",
            "http://h/cancel",
            "/cancel/{job_id}",
            "http://u:p@h/{job_id}",
            "http://h/#{job_id}",
            "ftp://h/{job_id}",
        ] {
            assert!(cancel_url(bad).is_err(), "{bad}");
        }
    }
}
