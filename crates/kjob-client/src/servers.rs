//! How the servers of a ring are.

use std::time::{Duration, Instant};

use kjob_proto::{
    ShowSystemPropertiesRequest, ShowSystemPropertiesResponse, ShowSystemStatusRequest,
    ShowSystemStatusResponse, StringMap, Text,
};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::answer::Failed;
use crate::{Client, Error};

/// A server of a ring.
#[derive(Debug)]
#[non_exhaustive]
pub struct Server {
    /// Its URL.
    pub url: String,
    /// Whether calls begin with it.
    pub is_current: bool,
    /// How it is, or why that is not known.
    pub health: Result<Health, Error>,
    /// What it is, such as `kjob 0.1.0`, if it says so.
    pub version: Option<Text>,
    /// How long it took to answer, or to fail.
    pub took: Duration,
}

/// How a server is (docs/protocol.md section 8).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It takes jobs.
    Running,
    /// It takes no new jobs.
    Draining,
    /// It says something else, such as `failed`.
    Other(Text),
}

impl Client {
    /// Asks each server how it is, once and all at the same time, in the order of the ring. It changes
    /// nothing about which server calls begin with.
    pub async fn servers(&self) -> Vec<Server> {
        let current = self.ring.current();
        let mut asked = JoinSet::new();
        for (n, base) in self.ring.bases().iter().enumerate() {
            let (client, url) = (self.clone(), base.clone());
            asked.spawn(async move { (n, client.server(url, n == current).await) });
        }
        let mut servers = asked.join_all().await;
        servers.sort_by_key(|(n, _)| *n);
        servers.into_iter().map(|(_, server)| server).collect()
    }

    async fn server(&self, url: String, is_current: bool) -> Server {
        let begin = Instant::now();
        let request = self.transport.encode(&ShowSystemStatusRequest::default());
        let endpoint = "/show/system/status";
        let status = self.transport.post(&url, endpoint, request, self.timeout);
        let status: Result<ShowSystemStatusResponse, Failed> = status.await;
        let took = begin.elapsed();
        let health = match status {
            Ok(status) => health(&status.status_map),
            Err(Failed { error, .. }) => Err(error.at_server(&url)),
        };
        let version = match &health {
            Ok(_) => self.version(&url).await,
            Err(_) => None,
        };
        Server {
            url,
            is_current,
            health,
            version,
            took,
        }
    }

    async fn version(&self, url: &str) -> Option<Text> {
        let request = self
            .transport
            .encode(&ShowSystemPropertiesRequest::default());
        let endpoint = "/show/system/properties";
        let answer = self.transport.post(url, endpoint, request, self.timeout);
        let answer: ShowSystemPropertiesResponse = answer.await.ok()?;
        let property = |name| answer.property_map.get(name);
        match property("version.kjob") {
            Some(version) => Some(Text::from(format!("kjob {version}"))),
            None => property("version.gpudb_core_version").cloned(),
        }
    }
}

/// JSON texts in a map: `system` has a `status`, `ha_status` what is `drained`.
fn health(map: &StringMap) -> Result<Health, Error> {
    let word = |name: &str, member: &str| {
        let text = map.get(name)?;
        let value: Value = serde_json::from_str(text).ok()?;
        value.get(member)?.as_str().map(str::to_owned)
    };
    let system = word("system", "status")
        .ok_or_else(|| Error::odd("the status of the system is missing".to_owned()))?;
    if system != "running" {
        return Ok(Health::Other(Text::from(system)));
    }
    Ok(match word("ha_status", "drained").as_deref() {
        Some("draining") => Health::Draining,
        _ => Health::Running,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_read_from_texts_in_texts() {
        let running = r#"{"status":"running"}"#;
        for (map, expected) in [
            (vec![("system", running)], Health::Running),
            (
                vec![
                    ("system", running),
                    ("ha_status", r#"{"drained":"not_drained"}"#),
                ],
                Health::Running,
            ),
            (
                vec![
                    ("system", running),
                    ("ha_status", r#"{"drained":"draining"}"#),
                ],
                Health::Draining,
            ),
            (
                vec![("system", r#"{"status":"failed"}"#)],
                Health::Other(Text::from("failed")),
            ),
        ] {
            assert_eq!(health(&StringMap::from_iter(map)).unwrap(), expected);
        }
        for map in [vec![], vec![("system", "running")], vec![("system", "{}")]] {
            assert!(health(&StringMap::from_iter(map)).unwrap_err().is_odd());
        }
    }
}
