//! Transparent mode: what the server does not answer itself goes straight through to an upstream, and its
//! answer straight back, neither of them gathered in between.

mod ask;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, EXPECT, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kjob_core::{SharedStore, StoreError};
use kjob_proto::{
    Encoding, Limits, Record as _, Reply, Segments, ShowSystemPropertiesRequest,
    ShowSystemPropertiesResponse, StringMap, Text, reply_error, reply_ok,
};

use crate::auth::{OwnerKey, OwnerKeyError, UpstreamAccounts};
use crate::config::{AccountsOfUpstream, Settings, StoreKind};
use crate::gateway::{GatewayError, HttpRoute, Route, RouteKind, Upstream, Wire};
use crate::outbound::{OutBody, Outbound, Reach, SendError};
use crate::run::RunError;

pub(crate) use ask::Asker;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How writes are spread over the clusters of a ring (docs/protocol.md section 2).
const GROUP: HeaderName = HeaderName::from_static("x-kinetica-group");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// By what name nodes agree on the key of owners.
const OWNER_KEY: &str = "owner.key";

/// Between two tries to ask a database that is away.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long making a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// An upstream that gets what the server does not answer itself.
#[derive(Clone, Debug)]
pub(crate) struct Passthrough {
    upstream: Upstream,
    outbound: Outbound,
}

/// What is needed of the head of a request that goes through: all but what is between two neighbours.
pub(crate) struct Passing {
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
}

impl Passthrough {
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(upstream: Upstream) -> Result<Self, GatewayError> {
        let outbound = Outbound::new(&Reach {
            connect_timeout: CONNECT_WITHIN,
            is_https: upstream.is_https(),
            ca_file: None,
        });
        let outbound = outbound.map_err(|why| GatewayError::Reach {
            endpoint: "/*".to_owned(),
            why: why.to_string(),
        })?;
        Ok(Self { upstream, outbound })
    }

    /// Sends a request on, and gives the answer once its head is there.
    pub(crate) async fn pass(
        &self,
        passing: &Passing,
        from: IpAddr,
        body: OutBody,
    ) -> Result<Response<Incoming>, SendError> {
        let url = self.url(passing)?;
        let mut request = Request::new(body);
        *request.method_mut() = passing.method.clone();
        *request.uri_mut() = url;
        *request.headers_mut() = passing.headers.clone();
        note_source(request.headers_mut(), from);
        let mut response = self.outbound.send(request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked: what asks for it does not go through.
            let error = "it has switched protocols unasked".to_owned();
            return Err(SendError::Broken(error));
        }
        drop_hops(response.headers_mut());
        Ok(response)
    }

    /// Where a request goes. The path is put where a path belongs, so that nothing in it can be taken for a
    /// part of the address.
    fn url(&self, passing: &Passing) -> Result<Uri, SendError> {
        let bad = |error: &dyn ToString| SendError::Connect(error.to_string());
        let base: Uri = self
            .upstream
            .to_string()
            .parse()
            .map_err(|error| bad(&error))?;
        let mut parts = base.into_parts();
        parts.path_and_query = Some(passing.path.clone());
        Uri::from_parts(parts).map_err(|error| bad(&error))
    }
}

/// The route by which jobs of endpoints that have no route are run by the upstream, if there is one.
pub(crate) fn route(settings: &Settings, routes: &[Route]) -> Option<Route> {
    let upstream = settings.upstream.clone()?;
    // One that takes all endpoints is the operator's own word.
    if routes.iter().any(|route| route.endpoint == "/*") {
        return None;
    }
    let mut http = HttpRoute::new(upstream, Wire::Kinetica);
    http.forward_headers = vec![AUTHORIZATION, GROUP];
    let mut route = Route::new("/*", RouteKind::Http(http));
    route.options = route.options.jobs_only();
    Some(route)
}

/// Whether the upstream says who calls: there is one, and there are no accounts of the server's own.
pub(crate) fn asks(settings: &Settings) -> bool {
    settings.upstream.is_some()
        && settings.users_file.is_none()
        && settings.upstream_accounts == AccountsOfUpstream::Ask
}

/// The accounts of the upstream, if they count.
///
/// # Errors
/// The key of owners cannot be used, or is not that of the other nodes; TLS cannot be set up.
pub(crate) async fn accounts(
    settings: &Settings,
    shared: &[Arc<dyn SharedStore>],
) -> Result<Option<UpstreamAccounts>, RunError> {
    let Some(upstream) = settings.upstream.clone() else {
        return Ok(None);
    };
    if !asks(settings) {
        if settings.users_file.is_none() {
            tracing::warn!(
                %upstream,
                "upstream_accounts is \"ignore\": whoever reaches the server sees all jobs and their results, \
                 also those of users of the upstream"
            );
        }
        return Ok(None);
    }
    let path = OwnerKey::file(&settings.data_dir);
    let was_there = path.exists();
    let owners = match &settings.store {
        StoreKind::Memory => OwnerKey::random(),
        StoreKind::Embedded | StoreKind::Postgres(_) => OwnerKey::of_dir(&settings.data_dir)?,
    };
    // Whoever has a copy of the database is not to have the key with it, so its file is to be brought to
    // each node; that it was is what they agree on. One after the other, so that a key which the first knows
    // for wrong is told to no other.
    let print = owners.print();
    let (mut away, mut first) = (Vec::new(), None);
    for store in shared {
        match store.agree(OWNER_KEY, &print).await {
            Ok(agreed) if agreed == print[..] => {}
            Ok(_) => {
                if !was_there {
                    // It was just made, and is of no use; whoever copies the right one here finds no other.
                    let _ = std::fs::remove_file(&path);
                }
                return Err(OwnerKeyError::Differs { path }.into());
            }
            Err(error) => {
                away.push(store.clone());
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if away.len() == shared.len() => return Err(error.into()),
        _ => {}
    }
    // A node starts without a database that is away.
    for store in away {
        tokio::spawn(agree_late(store, print.to_vec(), path.clone()));
    }
    let accounts = UpstreamAccounts::new(upstream, owners)?;
    Ok(Some(accounts.hold_for(settings.upstream_accounts_hold)))
}

/// Asks a database that was away at the start, until it answers, whether it knows the key of owners by another
/// print. What runs by then is not stopped for it: the other databases know this one.
async fn agree_late(store: Arc<dyn SharedStore>, print: Vec<u8>, path: PathBuf) {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        match store.agree(OWNER_KEY, &print).await {
            Ok(agreed) if agreed == print[..] => return,
            Ok(_) => {
                let error = OwnerKeyError::Differs { path };
                return tracing::error!(%error, "a database that was away at the start knows another key");
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::debug!(%error, "a database cannot be asked for the key of owners yet")
            }
        }
    }
}

impl Passing {
    /// What of a head goes on, if it names anything below the upstream, which `*` does not. Credentials do:
    /// they are the upstream's to check.
    pub(crate) fn of(parts: &Parts) -> Option<Self> {
        let path = parts.uri.path_and_query()?;
        if !path.as_str().starts_with('/') {
            return None;
        }
        let mut headers = parts.headers.clone();
        drop_hops(&mut headers);
        // The connection to the upstream names its own host, and this server has asked for the body.
        headers.remove(HOST);
        headers.remove(EXPECT);
        Some(Self {
            method: parts.method.clone(),
            path: path.clone(),
            headers,
        })
    }
}

impl Passing {
    /// Where it goes.
    pub(crate) fn path(&self) -> &str {
        self.path.as_str()
    }

    /// Asks for an answer that is not compressed, since it is to be read here.
    pub(crate) fn uncompressed(&mut self) {
        self.headers.remove(ACCEPT_ENCODING);
    }
}

/// Without headers, which may be secret.
impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The body of a request, as it goes on.
pub(crate) fn streamed(body: Incoming) -> OutBody {
    body.map_err(Into::into).boxed_unsync()
}

/// Adds the caller's address to those that the request has been through.
fn note_source(headers: &mut HeaderMap, from: IpAddr) {
    let before = headers.get_all(FORWARDED_FOR).iter();
    let before = before.filter_map(|value| value.to_str().ok());
    let from = from.to_canonical().to_string();
    let all: Vec<&str> = before.chain([from.as_str()]).collect();
    if let Ok(value) = HeaderValue::try_from(all.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Takes out what is between two neighbours only (RFC 9110, section 7.6.1).
fn drop_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let always = [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in named.iter().chain(&always) {
        headers.remove(name);
    }
}

/// The reply to a request for properties, made of the upstream's and of `own`, which gives those of this
/// server that are asked for.
///
/// # Errors
/// What the upstream answers is no envelope with properties, as a text.
pub(crate) fn own_properties(
    encoding: Encoding,
    request: Bytes,
    reply: Bytes,
    limits: &Limits,
    own: impl FnOnce(Option<&str>) -> StringMap,
) -> Result<Segments, String> {
    let reply = Reply::<ShowSystemPropertiesResponse>::decode(encoding, reply, limits);
    let mut response = match reply.map_err(|error| format!("its answer: {error}"))? {
        Ok(response) => response,
        Err(error) => return Ok(reply_error(&error.message, encoding)),
    };
    let request = ShowSystemPropertiesRequest::decode(encoding, request, limits);
    let request = request.map_err(|error| format!("it took a request that is none: {error}"))?;
    let wanted = request.options.get("properties").map(Text::as_str);
    response.property_map = with_own_addresses(&response.property_map, &own(wanted));
    Ok(reply_ok(&response, encoding))
}

/// The properties of an upstream as clients of this server are to see them: with its own addresses in
/// place of all others, so that they come back here and not to the upstream (docs/protocol.md section 8).
fn with_own_addresses(of_upstream: &StringMap, own: &StringMap) -> StringMap {
    let is_address = |name: &str| {
        let of_host = name.strip_prefix("conf.host");
        let is_of_host = of_host.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        is_of_host
            || name.starts_with("conf.ha_ring_head_nodes")
            || name.starts_with("conf.enable_ha")
            || name.starts_with("conf.enable_httpd_proxy")
            || name.starts_with("conf.httpd_proxy")
            || name.starts_with("conf.enable_worker_http_servers")
            || name.starts_with("conf.worker_http_server")
            || matches!(
                name,
                "conf.number_of_hosts" | "conf.use_https" | "conf.hm_http_port"
            )
    };
    let kept = of_upstream.iter().filter(|(name, _)| !is_address(name));
    let own = own
        .iter()
        .filter(|(name, _)| is_address(name) || *name == "version.kjob");
    kept.chain(own)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemInfo;

    #[test]
    fn what_is_between_neighbours_goes_no_further() {
        let mut request = Request::post("http://h/x/../y?z=%2e").body(()).unwrap();
        for (name, value) in [
            ("host", "kjob"),
            ("connection", "keep-alive, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("authorization", "Basic x"),
            ("x-kinetica-group", "REPL_SYNC"),
        ] {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        let passing = Passing::of(&request.into_parts().0).unwrap();
        let names: Vec<&str> = passing.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.contains(&"authorization") && names.contains(&"x-kinetica-group"));
        assert_eq!(passing.path(), "/x/../y?z=%2e", "as it came");
        let mut headers = passing.headers;
        note_source(&mut headers, [10, 0, 0, 1].into());
        note_source(&mut headers, [10, 0, 0, 2].into());
        assert_eq!(headers[FORWARDED_FOR], "10.0.0.1, 10.0.0.2");
    }

    #[test]
    fn clients_are_told_of_no_other_address() {
        let of_upstream = StringMap::from_iter([
            ("version.gpudb_core_version", "7.2.2.0.20240101000000"),
            ("conf.number_of_hosts", "2"),
            ("conf.host0_public_urls", "http://db0:9191"),
            ("conf.host1_public_urls", "http://db1:9191"),
            ("conf.host_something", "kept"),
            ("conf.enable_ha", "TRUE"),
            ("conf.ha_ring_head_nodes", "http://db0:9191"),
            (
                "conf.ha_ring_head_nodes_full",
                "http://db0:9191;http://db2:9191",
            ),
            ("conf.worker_http_server_urls", "http://db0:9191"),
            ("conf.enable_worker_http_servers", "TRUE"),
        ]);
        let system = SystemInfo::new(Some("https://kjob:1"));
        let own = system.properties(None).property_map;
        let told = with_own_addresses(&of_upstream, &own);
        let value = |name: &str| told.get(name).map(Text::as_str);
        for (name, expected) in [
            ("version.gpudb_core_version", Some("7.2.2.0.20240101000000")),
            ("conf.number_of_hosts", Some("1")),
            ("conf.host0_public_urls", Some("https://kjob:1")),
            ("conf.host1_public_urls", None),
            ("conf.host_something", Some("kept")),
            ("conf.enable_ha", Some("FALSE")),
            ("conf.ha_ring_head_nodes", None),
            ("conf.ha_ring_head_nodes_full", None),
            ("conf.worker_http_server_urls", Some("https://kjob:1")),
            ("conf.enable_worker_http_servers", Some("FALSE")),
            ("conf.use_https", Some("TRUE")),
        ] {
            assert_eq!(value(name), expected, "{name}");
        }
        assert!(!told.iter().any(|(_, value)| value.contains("db")));
    }
}
