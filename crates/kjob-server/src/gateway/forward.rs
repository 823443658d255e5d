//! Headers of submits that routes pass on to their upstreams. They are kept in memory only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use http::{HeaderMap, HeaderName};
use kjob_core::engine::Attachment;

use super::{Route, RouteKind};

/// Which headers of a submit are to be kept for which endpoints. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarding(Arc<Current>);

#[derive(Debug, Default)]
struct Current {
    rules: RwLock<Arc<Rules>>,
    /// Whether there are any: where there are none, as usual, requests need not meet at the lock.
    is_any: AtomicBool,
}

#[derive(Debug, Default)]
struct Rules(Vec<(String, Vec<HeaderName>)>);

/// Headers of a submit that some route or other wants: its endpoint is known only later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwardable {
    headers: HeaderMap,
    rules: Option<Arc<Rules>>,
}

/// Headers of the submit of a job, for the upstream of its route.
#[derive(Debug)]
pub(super) struct Forwarded(pub(super) HeaderMap);

impl Forwarding {
    pub(super) fn replace(&self, routes: &[Route]) {
        let rules = routes.iter().filter_map(|route| match &route.kind {
            RouteKind::Http(http) if !http.forward_headers.is_empty() => {
                Some((route.endpoint.clone(), http.forward_headers.clone()))
            }
            _ => None,
        });
        let rules = Arc::new(Rules(rules.collect()));
        let Self(current) = self;
        let is_any = !rules.0.is_empty();
        let mut now = current
            .rules
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *now = rules;
        // While the lock is held, so that it is of these rules.
        current.is_any.store(is_any, Ordering::Release);
    }

    /// Keeps what any route wants of the headers of a request.
    pub(crate) fn keep(&self, all: &HeaderMap) -> Forwardable {
        let Self(current) = self;
        if !current.is_any.load(Ordering::Acquire) {
            return Forwardable::default();
        }
        let rules = current.rules.read();
        let rules = rules.unwrap_or_else(PoisonError::into_inner).clone();
        let mut headers = HeaderMap::new();
        for name in rules.0.iter().flat_map(|(_, names)| names) {
            copy(name, all, &mut headers);
        }
        Forwardable {
            headers,
            rules: Some(rules),
        }
    }
}

impl Forwardable {
    /// What is kept for a job of an endpoint: what routes that may take it want. Which of them does is
    /// known when it is started.
    pub(crate) fn for_endpoint(&self, endpoint: &str) -> Option<Attachment> {
        let mut headers = HeaderMap::new();
        for (pattern, names) in &self.rules.as_ref()?.0 {
            let fits = match pattern.strip_suffix('*') {
                Some(prefix) => endpoint.starts_with(prefix),
                None => endpoint == pattern,
            };
            for name in names.iter().filter(|_| fits) {
                copy(name, &self.headers, &mut headers);
            }
        }
        (!headers.is_empty()).then(|| Attachment::new(Forwarded(headers)))
    }
}

fn copy(name: &HeaderName, from: &HeaderMap, to: &mut HeaderMap) {
    if to.contains_key(name) {
        return;
    }
    for value in from.get_all(name) {
        // The value is a slice of the request's head, which would stay in memory as long.
        let Ok(mut value) = http::HeaderValue::from_bytes(value.as_bytes()) else {
            continue;
        };
        value.set_sensitive(true);
        to.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, AUTHORIZATION};
    use http::{HeaderMap, HeaderValue};

    use super::super::{HttpRoute, Wire};
    use super::*;

    #[test]
    fn only_what_a_route_of_the_endpoint_wants_is_kept() {
        let route = |endpoint: &str, names: Vec<HeaderName>| {
            let mut http = HttpRoute::new("http://h".parse().unwrap(), Wire::Plain);
            http.forward_headers = names;
            Route::new(endpoint, RouteKind::Http(http))
        };
        let forwarding = Forwarding::default();
        forwarding.replace(&[
            route("/a/*", vec![AUTHORIZATION]),
            route("/b", vec![ACCEPT]),
            route("/c", vec![]),
        ]);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("hush"));
        headers.insert(ACCEPT, HeaderValue::from_static("x/y"));
        headers.insert("x-other", HeaderValue::from_static("z"));
        let kept = forwarding.keep(&headers);
        assert_eq!(kept.headers.len(), 2);
        let of = |endpoint: &str| {
            let attachment = kept.for_endpoint(endpoint)?;
            let Forwarded(headers) = attachment.get::<Forwarded>()?;
            Some(
                headers
                    .keys()
                    .map(|name| name.to_string())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of("/a/x"), Some(vec!["authorization".to_owned()]));
        assert_eq!(of("/b"), Some(vec!["accept".to_owned()]));
        assert_eq!(of("/b/c"), None);
        assert_eq!(of("/c"), None);
        assert!(!format!("{kept:?}").contains("hush"));
    }
}
