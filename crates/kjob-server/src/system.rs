//! What `/show/system/status` and `/show/system/properties` say (docs/protocol.md section 8).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kjob_core::Node;
use kjob_proto::{ShowSystemPropertiesResponse, ShowSystemStatusResponse, StringMap, Text};

/// The protocol version that is spoken: the generation of the clients that the server is held to.
const PROTOCOL_VERSION: &str = "7.2.3.0";

/// What a server says of itself to clients that connect. Clones share whether it drains.
///
/// ```
/// use kjob_server::SystemInfo;
///
/// let system = SystemInfo::new(Some("http://127.0.0.1:9191"));
/// let properties = system.properties(Some("conf.number_of_hosts")).property_map;
/// assert_eq!(properties.get("conf.number_of_hosts").map(|text| text.as_str()), Some("1"));
/// assert_eq!(properties.len(), 1);
///
/// system.drain();
/// let status = system.status().status_map;
/// assert_eq!(status.get("ha_status").map(|text| text.as_str()), Some(r#"{"drained":"draining"}"#));
/// ```
#[derive(Clone, Debug)]
pub struct SystemInfo {
    properties: Arc<[(&'static str, Text)]>,
    draining: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
}

impl SystemInfo {
    /// A server that clients reach at `public_url`, which has no path and no trailing slash.
    ///
    /// With `None` no URL is told: clients then stay with the one they were given, and warn that
    /// they found no other. The Java client does so only if it is told not to look for others.
    pub fn new(public_url: Option<&str>) -> Self {
        let word = |yes: bool| if yes { "TRUE" } else { "FALSE" };
        let is_https = public_url.is_some_and(|url| url.starts_with("https:"));
        let mut properties = vec![
            ("version.gpudb_core_version", Text::from(core_version())),
            ("version.kjob", Text::from_static(env!("CARGO_PKG_VERSION"))),
            ("conf.enable_ha", Text::from_static(word(false))),
            ("conf.enable_httpd_proxy", Text::from_static(word(false))),
            (
                "conf.enable_worker_http_servers",
                Text::from_static(word(false)),
            ),
            ("conf.use_https", Text::from_static(word(is_https))),
        ];
        if let Some(url) = public_url {
            properties.extend([
                ("conf.number_of_hosts", Text::from_static("1")),
                ("conf.host0_public_urls", Text::from(url.to_owned())),
                // The first rank is the head: the only one there is.
                ("conf.worker_http_server_urls", Text::from(url.to_owned())),
            ]);
        }
        Self {
            properties: properties.into(),
            draining: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// From now on says that the server drains, so that clients that connect go elsewhere.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on says that the server cannot work any more, so that clients that connect count it as
    /// down.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether [`fail`](Self::fail) was called.
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The answer to `/show/system/status`: JSON texts under `system` and `ha_status`. One of a server
    /// that has failed says under both that clients are to go elsewhere, as some look at one alone
    /// (docs/protocol.md section 8).
    pub fn status(&self) -> ShowSystemStatusResponse {
        let system = if self.is_failed() {
            r#"{"status":"failed"}"#
        } else {
            r#"{"status":"running"}"#
        };
        let ha_status = if self.is_draining() || self.is_failed() {
            r#"{"drained":"draining"}"#
        } else {
            r#"{"drained":"not_drained"}"#
        };
        ShowSystemStatusResponse {
            status_map: StringMap::from_iter([("system", system), ("ha_status", ha_status)]),
            info: StringMap::new(),
        }
    }

    /// The answer to `/show/system/properties`. `wanted` are the names asked for, separated by
    /// commas; names that there are none of are left out. `None`, or a text without names, asks
    /// for all.
    pub fn properties(&self, wanted: Option<&str>) -> ShowSystemPropertiesResponse {
        self.properties_among(&[], wanted)
    }

    /// As [`properties`](Self::properties), of one of several nodes that share their jobs: clients are told of
    /// all, as clusters of a ring, each of which answers for all jobs.
    pub fn properties_among(
        &self,
        nodes: &[Node],
        wanted: Option<&str>,
    ) -> ShowSystemPropertiesResponse {
        let ring = self.ring(nodes);
        let wanted: Vec<&str> = wanted
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        let own = self.properties.iter();
        let own = own.filter(|(name, _)| !ring.iter().any(|(known, _)| known == name));
        ShowSystemPropertiesResponse {
            property_map: own
                .chain(&ring)
                .filter(|(name, _)| wanted.is_empty() || wanted.contains(name))
                .cloned()
                .collect(),
            info: StringMap::new(),
        }
    }
}

impl SystemInfo {
    /// What is told of other nodes, in place of what is told by one alone (docs/protocol.md section 8).
    fn ring(&self, nodes: &[Node]) -> Vec<(&'static str, Text)> {
        let mut urls: Vec<&str> = Vec::with_capacity(nodes.len());
        for url in nodes.iter().map(|node| node.url.as_str()) {
            // A node that was restarted is there twice until its last lease ends.
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.len() < 2 {
            return Vec::new();
        }
        vec![
            ("conf.enable_ha", Text::from_static("TRUE")),
            ("conf.ha_ring_head_nodes_full", Text::from(urls.join(";"))),
            ("conf.ha_ring_head_nodes", Text::from(urls.join(","))),
        ]
    }
}

/// Five numbers, the last of them our own: the Java and Rust clients fail without a fifth.
fn core_version() -> String {
    let part = |text: &str| text.parse::<u64>().unwrap_or_default();
    let build = part(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
        + part(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
        + part(env!("CARGO_PKG_VERSION_PATCH"));
    format!("{PROTOCOL_VERSION}.{build}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(system: &SystemInfo, wanted: Option<&str>) -> Vec<String> {
        let map = system.properties(wanted).property_map;
        map.iter().map(|(name, _)| name.to_string()).collect()
    }

    /// docs/protocol.md section 11: four 32-bit numbers and one of 64 bits.
    #[test]
    fn the_version_has_five_numbers() {
        let map = SystemInfo::new(None).properties(None).property_map;
        let version = map.get("version.gpudb_core_version").unwrap();
        let parts: Vec<&str> = version.split('.').collect();
        let (fifth, four) = parts.split_last().unwrap();
        assert_eq!(four, ["7", "2", "3", "0"]);
        assert!(fifth.parse::<i64>().unwrap() > 0);
    }

    /// A trailing separator would keep official clients from finding the others.
    #[test]
    fn several_nodes_are_a_ring() {
        let system = SystemInfo::new(Some("http://127.0.0.1:1"));
        let node = |id, url| Node {
            id: kjob_core::NodeId(id),
            url: Text::from_static(url),
        };
        let nodes = [node(1, "http://127.0.0.1:1"), node(2, "http://127.0.0.2:2")];
        let map = system.properties_among(&nodes, None).property_map;
        let get = |name| map.get(name).map(|text| text.as_str());
        assert_eq!(get("conf.enable_ha"), Some("TRUE"));
        let ring = "http://127.0.0.1:1;http://127.0.0.2:2";
        assert_eq!(get("conf.ha_ring_head_nodes_full"), Some(ring));
        let restarted = [
            nodes[1].clone(),
            node(3, "http://127.0.0.2:2"),
            nodes[0].clone(),
        ];
        let map = system.properties_among(&restarted, None).property_map;
        let ring = "http://127.0.0.2:2;http://127.0.0.1:1";
        assert_eq!(
            map.get("conf.ha_ring_head_nodes_full")
                .map(|it| it.as_str()),
            Some(ring)
        );
        let map = system.properties_among(&restarted[..2], None).property_map;
        assert!(
            !map.contains_key("conf.ha_ring_head_nodes_full"),
            "one address alone"
        );
        assert_eq!(get("conf.host0_public_urls"), Some("http://127.0.0.1:1"));
        let alone = system.properties_among(&nodes[..1], None);
        assert_eq!(alone, system.properties(None));
        let narrow = system.properties_among(&nodes, Some("conf.enable_ha"));
        assert_eq!(narrow.property_map.len(), 1);
    }

    #[test]
    fn properties_are_narrowed_by_name() {
        let system = SystemInfo::new(Some("http://example.org:9191"));
        let all = names(&system, None);
        assert_eq!(names(&system, Some(" , ")), all);
        assert_eq!(
            names(&system, Some("conf.use_https, no.such.name,conf.enable_ha")),
            ["conf.enable_ha", "conf.use_https"]
        );
        assert_eq!(names(&system, Some("no.such.name")), [""; 0]);
    }

    #[test]
    fn the_url_is_told_or_left_out() {
        let told = SystemInfo::new(Some("https://example.org")).properties(None);
        let value = |name: &str| told.property_map.get(name).map(Text::as_str);
        assert_eq!(value("conf.host0_public_urls"), Some("https://example.org"));
        assert_eq!(
            value("conf.worker_http_server_urls"),
            Some("https://example.org")
        );
        assert_eq!(value("conf.use_https"), Some("TRUE"));

        let silent = SystemInfo::new(None).properties(None).property_map;
        assert!(!silent.contains_key("conf.host0_public_urls"));
        assert!(!silent.contains_key("conf.number_of_hosts"));
    }

    #[test]
    fn every_clone_says_that_it_drains() {
        let system = SystemInfo::new(None);
        let clone = system.clone();
        assert_eq!(
            clone.status().status_map.get("ha_status").map(Text::as_str),
            Some(r#"{"drained":"not_drained"}"#)
        );
        system.drain();
        assert!(clone.is_draining());
    }

    #[test]
    fn a_failed_server_counts_as_down() {
        let system = SystemInfo::new(None);
        let clone = system.clone();
        system.fail();
        assert!(clone.is_failed() && !clone.is_draining());
        let map = clone.status().status_map;
        let value = |name: &str| map.get(name).map(Text::as_str);
        assert_eq!(value("system"), Some(r#"{"status":"failed"}"#));
        assert_eq!(value("ha_status"), Some(r#"{"drained":"draining"}"#));
    }
}
