//! Another node at the same URL.

use std::time::Duration;

use tokio::time::Instant;

use crate::Node;

/// Notices that two nodes say they are reached at the same URL: clients take them for one, and do not fail over
/// from one to the other. Behind a load balancer that is meant; elsewhere it is a slip that nothing else shows.
#[derive(Debug, Default)]
pub(super) struct Twin {
    since: Option<Instant>,
    is_told: bool,
}

impl Twin {
    /// Takes in which nodes there are; whether somebody is to be told, which is once.
    ///
    /// The node that was here before a restart is taken for alive until its lease ends, so a twin is one that is
    /// there for longer.
    pub(super) fn look(&mut self, url: &str, nodes: &[Node], lease_time: Duration) -> bool {
        if nodes.iter().filter(|node| node.url == *url).count() < 2 {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let tells = !self.is_told && since.elapsed() > 2 * lease_time;
        self.is_told |= tells;
        tells
    }
}

#[cfg(test)]
mod tests {
    use kjob_proto::Text;
    use tokio::time::advance;

    use super::*;
    use crate::NodeId;

    const LEASE_TIME: Duration = Duration::from_secs(10);

    fn nodes(urls: &[&'static str]) -> Vec<Node> {
        let node = |(number, url): (usize, &&'static str)| Node {
            id: NodeId(number as i64),
            url: Text::from_static(url),
        };
        urls.iter().enumerate().map(node).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stays_at_the_same_url_is_told_of_once() {
        let mut twin = Twin::default();
        let (two, others) = (
            nodes(&["http://a", "http://a"]),
            nodes(&["http://a", "http://b"]),
        );
        let mut look = |nodes: &[Node]| twin.look("http://a", nodes, LEASE_TIME);
        // One that was restarted.
        assert!(!look(&two));
        advance(LEASE_TIME).await;
        assert!(!look(&two) && !look(&others));
        advance(2 * LEASE_TIME).await;
        assert!(!look(&two), "it is another one");
        advance(3 * LEASE_TIME).await;
        assert!(look(&two) && !look(&two));
    }
}
