//! The files of the page, which are part of the program.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Response, StatusCode};
use ring::digest;

use crate::health::Page;
use crate::ordinary::ranges;
use crate::reply::{self, ReplyBody};

/// Where they are.
const PREFIX: &str = "/console/";

/// Nothing but what this server has, no code in the page itself, and none made of texts.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// A file.
#[derive(Debug)]
pub(crate) struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: Bytes,
    etag: HeaderValue,
}

macro_rules! assets {
    ($($name:literal: $content_type:ident;)*) => {
        static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| vec![
            $(Asset::new($name, $content_type, &include_bytes!(concat!("../../console/", $name))[..])),*
        ]);
    };
}

assets! {
    "index.html": HTML;
    "icon.svg": SVG;
    "console.css": CSS;
    "console.js": SCRIPT;
    "charts.js": SCRIPT;
    "events.js": SCRIPT;
    "format.js": SCRIPT;
    "icons.js": SCRIPT;
    "job.js": SCRIPT;
    "jobs.js": SCRIPT;
    "listing.js": SCRIPT;
    "login.js": SCRIPT;
    "overview.js": SCRIPT;
    "result.js": SCRIPT;
    "route.js": SCRIPT;
    "session.js": SCRIPT;
    "store.js": SCRIPT;
    "submit.js": SCRIPT;
    "view.js": SCRIPT;
    "vendor/preact.js": SCRIPT;
    "vendor/hooks.js": SCRIPT;
    "vendor/htm.js": SCRIPT;
    "vendor/LICENSE-preact": TEXT;
    "vendor/LICENSE-htm": TEXT;
}

/// The page, as it is at `/`: its files are one level below.
static HOME: LazyLock<Asset> = LazyLock::new(|| {
    let page = include_str!("../../console/index.html").replace("\"./", "\"console/");
    Asset::new("", HTML, page)
});

impl Asset {
    fn new(name: &'static str, content_type: &'static str, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let digest = digest::digest(&digest::SHA256, &content);
        let part = digest.as_ref().iter().take(12);
        let hex: String = part.map(|byte| format!("{byte:02x}")).collect();
        let etag = format!("\"{hex}\"");
        Self {
            name,
            content_type,
            content,
            // Digits and quotes are always a header value.
            etag: HeaderValue::try_from(etag).unwrap_or(HeaderValue::from_static("\"\"")),
        }
    }

    /// The file at a path.
    pub(crate) fn at(path: &str) -> Option<&'static Self> {
        let name = match path.strip_prefix(PREFIX)? {
            "" => "index.html",
            name => name,
        };
        ASSETS.iter().find(|asset| asset.name == name)
    }

    /// The page, for a browser at `/`.
    pub(crate) fn home() -> &'static Self {
        &HOME
    }

    /// Answers a GET or a HEAD. Nothing in the files is anybody's, so that it is for everybody: the page asks
    /// who one is.
    pub(crate) fn answer(
        &'static self,
        method: &Method,
        if_none_match: Option<&str>,
    ) -> Response<ReplyBody> {
        if let Err(refusal) = Page::check_method(method) {
            return reply::text_refusal(refusal.status(), &refusal);
        }
        let etag = self.etag.to_str().unwrap_or_default();
        let is_known = if_none_match.is_some_and(|tags| ranges::is_among(etag, tags));
        let mut response = if is_known {
            reply::empty(StatusCode::NOT_MODIFIED)
        } else {
            let content_type = HeaderValue::from_static(self.content_type);
            reply::bytes(StatusCode::OK, content_type, self.content.clone())
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        for (name, value) in [
            // Another version of the server has other files at the same places.
            (CACHE_CONTROL, "no-cache"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (OPENER_POLICY, "same-origin"),
            (RESOURCE_POLICY, "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn files(dir: &Path, found: &mut BTreeSet<String>, below: &str) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                files(&entry.path(), found, &format!("{name}/"));
            } else {
                found.insert(name);
            }
        }
    }

    #[test]
    fn all_files_are_served_but_for_notes_to_developers() {
        let mut found = BTreeSet::new();
        files(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("console"),
            &mut found,
            "",
        );
        found.retain(|name| !name.ends_with(".md"));
        let served = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        assert_eq!(found, served);
    }

    /// What a script or the page names is there, under that very name.
    #[test]
    fn every_file_that_a_file_names_is_served() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type != TEXT) {
            let text = std::str::from_utf8(&asset.content).unwrap();
            let dir = asset.name.rsplit_once('/').map_or("", |(dir, _)| dir);
            let named = text.split('"').filter_map(|part| part.strip_prefix("./"));
            for name in named {
                let path = match dir {
                    "" => format!("/console/{name}"),
                    dir => format!("/console/{dir}/{name}"),
                };
                assert!(Asset::at(&path).is_some(), "{}: {name}", asset.name);
            }
        }
        let home = std::str::from_utf8(&HOME.content).unwrap();
        assert!(home.contains("src=\"console/console.js\""), "{home}");
        assert!(!home.contains("\"./"), "{home}");
    }

    /// The policy lets neither run, so what has one would not work.
    #[test]
    fn no_file_has_code_or_style_in_markup() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type != TEXT) {
            let text = std::str::from_utf8(&asset.content).unwrap();
            if !asset.name.starts_with("vendor/") {
                for word in [
                    "innerHTML",
                    "dangerously",
                    "eval(",
                    "new Function",
                    "http://",
                    "https://",
                ] {
                    let is_there =
                        text.contains(word) && !text.contains("http://www.w3.org/2000/svg");
                    assert!(!is_there, "{} has {word}", asset.name);
                }
            }
            if asset.content_type == HTML {
                assert!(!text.contains("<style") && !text.contains("onload="));
                assert_eq!(
                    text.matches("<script").count(),
                    text.matches("<script type=\"module\" src=").count()
                );
            }
        }
    }

    /// What the page may weigh, as it goes over the wire.
    #[test]
    fn the_page_is_small() {
        let all: usize = ASSETS.iter().map(|asset| asset.content.len()).sum();
        assert!(all < 200 << 10, "{all} bytes");
    }
}
