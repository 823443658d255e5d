//! Who takes over the jobs of an endpoint that not every node serves.

use kjob_core::{JobId, SharedStore};
use kjob_proto::Text;
use kjob_store::postgres::PostgresStore;

use crate::sharing::{Cluster, join, running};

/// A job of a node whose lease has ended so long ago.
async fn orphan(cluster: &Cluster, ago: &str, tag: &str) -> JobId {
    let gone = &cluster.nodes[0];
    let number = join(gone, 0).await;
    let (id, _) = running(gone, tag).await;
    end(cluster, number, ago).await;
    id
}

async fn end(cluster: &Cluster, number: i64, ago: &str) {
    let end = "UPDATE kjob_nodes SET alive_until = now() - interval";
    let end = format!("{end} '{ago}' WHERE id = {number}");
    cluster.schema.execute(&end).await;
}

async fn taken_over(node: &PostgresStore, patterns: &[&str]) -> Vec<JobId> {
    let patterns: Vec<Text> = patterns
        .iter()
        .map(|it| Text::from((*it).to_owned()))
        .collect();
    node.serve(&patterns).await.unwrap();
    let orphans = node.take_over(9).await.unwrap();
    orphans.iter().map(|orphan| orphan.header.id).collect()
}

#[tokio::test]
async fn those_take_over_who_serve_the_endpoint() {
    let cluster = Cluster::of(2).await;
    let other = &cluster.nodes[1];
    for (tag, pattern) in [("a", "/demo/echo"), ("b", "/demo/*"), ("c", "*")] {
        let id = orphan(&cluster, "1 second", tag).await;
        let others = ["/other", "/demo/ech", "/demo/echo/*", "/demo/f*"];
        assert_eq!(taken_over(other, &others).await, []);
        assert_eq!(taken_over(other, &[]).await, []);
        assert_eq!(
            taken_over(other, &["/other", pattern]).await,
            [id],
            "{pattern}"
        );
    }
}

#[tokio::test]
async fn anybody_takes_over_what_nobody_serves() {
    let cluster = Cluster::of(2).await;
    let id = orphan(&cluster, "2 minutes", "a").await;
    assert_eq!(taken_over(&cluster.nodes[1], &["/other"]).await, [id]);
}
