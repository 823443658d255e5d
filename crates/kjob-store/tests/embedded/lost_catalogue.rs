//! A directory whose catalogue is gone or empty is refused, and nothing in it is deleted.
//!
//! Files that the catalogue does not name are what a crash left over, and are removed at the next
//! open. A new catalogue names none, so opening a directory that had lost its own deleted every
//! job in it, and gave their ids anew.

use std::fs;

use kjob_core::Store;
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};

#[tokio::test]
async fn a_directory_that_lost_its_catalogue_is_refused_and_kept() {
    for empty_file in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        store.reserve_ids(1).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        let files = || fs::read_dir(dir.path().join("segments")).unwrap().count();
        let before = files();
        assert!(before > 0);
        let catalogue = dir.path().join("catalogue.sqlite");
        fs::remove_file(&catalogue).unwrap();
        if empty_file {
            fs::write(&catalogue, b"").unwrap();
        }
        for _ in 0..2 {
            let refused = EmbeddedStore::open(dir.path(), EmbeddedOptions::default());
            assert!(
                matches!(refused, Err(OpenError::Corrupt { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(files(), before);
    }
}
