//! Where servers are.

use http::Uri;

use crate::Error;

/// The URLs of one server or of a ring of servers, in the order in which they are to be asked.
///
/// A text may be several URLs with commas between them. Everything that takes `impl Into<Urls>` takes
/// one text, an array, a slice or a vector of texts.
///
/// ```
/// use kjob_client::Client;
///
/// Client::new("http://127.0.0.1:9191")?;
/// Client::new("http://127.0.0.1:9191,http://127.0.0.2:9191")?;
/// Client::new(["http://127.0.0.1:9191", "http://127.0.0.2:9191"])?;
/// # Ok::<(), kjob_client::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Urls(Vec<String>);

impl Urls {
    /// The parts that endpoints are appended to, each once.
    pub(crate) fn bases(&self) -> Result<Vec<String>, Error> {
        if self.0.is_empty() {
            return Err(Error::url("", "there is none"));
        }
        let mut bases = Vec::with_capacity(self.0.len());
        for url in &self.0 {
            let base = base(url)?;
            if !bases.contains(&base) {
                bases.push(base);
            }
        }
        Ok(bases)
    }
}

impl<T: AsRef<str>> FromIterator<T> for Urls {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut urls = Vec::new();
        for text in texts {
            let parts = text.as_ref().split(',');
            urls.extend(parts.map(|url| url.trim().to_owned()));
        }
        Self(urls)
    }
}

impl From<&str> for Urls {
    fn from(text: &str) -> Self {
        Self::from_iter([text])
    }
}

impl From<String> for Urls {
    fn from(text: String) -> Self {
        Self::from_iter([text])
    }
}

impl From<&String> for Urls {
    fn from(text: &String) -> Self {
        Self::from_iter([text])
    }
}

impl<T: AsRef<str>, const N: usize> From<[T; N]> for Urls {
    fn from(texts: [T; N]) -> Self {
        Self::from_iter(texts)
    }
}

impl<T: AsRef<str>> From<&[T]> for Urls {
    fn from(texts: &[T]) -> Self {
        Self::from_iter(texts)
    }
}

impl<T: AsRef<str>> From<Vec<T>> for Urls {
    fn from(texts: Vec<T>) -> Self {
        Self::from_iter(texts)
    }
}

/// The part of a URL that endpoints are appended to.
fn base(url: &str) -> Result<String, Error> {
    let refuse = |why| Error::url(url, why);
    let uri: Uri = url
        .parse()
        .map_err(|_| refuse("not a URL such as http://127.0.0.1:9191"))?;
    let scheme = match uri.scheme_str() {
        Some("http") => "http",
        Some("https") if cfg!(feature = "tls") => "https",
        Some("https") => return Err(refuse("https needs the feature tls of kjob-client")),
        _ => return Err(refuse("the scheme must be http or https")),
    };
    let host = uri
        .authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default();
    if host.contains('@') {
        // Not repeated: there is a password in it.
        return Err(Error::url(
            "",
            "user and password do not belong into the URL; use ClientBuilder::basic",
        ));
    }
    if uri.query().is_some() {
        return Err(refuse("a query has no meaning here"));
    }
    Ok(format!(
        "{scheme}://{host}{}",
        uri.path().trim_end_matches('/')
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_may_have_a_path_that_endpoints_are_appended_to() {
        for (url, expected) in [
            ("http://127.0.0.1:9191", "http://127.0.0.1:9191"),
            ("http://127.0.0.1:9191/", "http://127.0.0.1:9191"),
            ("http://[::1]/gpudb-0/", "http://[::1]/gpudb-0"),
        ] {
            assert_eq!(base(url).unwrap(), expected);
        }
    }

    #[test]
    fn https_is_there_with_its_feature_only() {
        let found = base("https://example.org:9191/");
        if cfg!(feature = "tls") {
            assert_eq!(found.unwrap(), "https://example.org:9191");
        } else {
            assert!(found.unwrap_err().to_string().contains("feature tls"));
        }
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        for (url, why) in [
            ("", "not a URL"),
            ("127.0.0.1:9191", "must be http"),
            ("/create/job", "must be http"),
            ("ftp://example.org", "must be http"),
            ("http://ann:secret@example.org", "user and password"),
            ("http://example.org/?a=b", "query"),
        ] {
            let error = base(url).unwrap_err();
            assert!(
                error.is_usage() && error.to_string().contains(why),
                "{error}"
            );
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn several_come_in_any_form_and_each_counts_once() {
        let (a, b) = ("http://a", "http://b");
        let expected = [a, b].map(str::to_owned);
        for urls in [
            Urls::from("http://a, http://b/"),
            Urls::from(String::from("http://a,http://b,http://a/")),
            Urls::from([a, b, a]),
            Urls::from(vec![a.to_owned(), b.to_owned()]),
            Urls::from(&[a, b][..]),
        ] {
            assert_eq!(urls.bases().unwrap(), expected);
        }
    }

    #[test]
    fn none_at_all_and_gaps_are_refused() {
        for urls in [
            Urls::default(),
            Urls::from([""; 0]),
            Urls::from("http://a,,http://b"),
        ] {
            assert!(urls.bases().unwrap_err().is_usage());
        }
    }
}
