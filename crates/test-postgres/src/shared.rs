//! One server for all tests of a process, or of many: that which they are told of, or one of their own.

use std::sync::{Mutex, PoisonError};

use crate::{Cluster, Settings, is_installed};

/// The variable that has the URL of a server for tests, as its owner.
pub const URL_VARIABLE: &str = "KJOB_TEST_POSTGRES";

/// The URL of a server for tests: what [`URL_VARIABLE`] says, or that of a cluster which this process
/// starts once and which ends with it.
///
/// # Panics
/// There is neither: tests that need a server fail without one, and say so.
pub fn url() -> String {
    static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);
    if let Ok(url) = std::env::var(URL_VARIABLE) {
        return url;
    }
    let mut cluster = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = cluster.get_or_insert_with(|| {
        assert!(
            is_installed(),
            "these tests need PostgreSQL: install it (Debian: apt install postgresql), or say in \
             {URL_VARIABLE} how a server is reached"
        );
        match Cluster::start(&Settings::for_tests()) {
            Ok(cluster) => cluster,
            Err(error) => panic!("these tests need PostgreSQL, which does not start: {error:#}"),
        }
    });
    cluster.url()
}
