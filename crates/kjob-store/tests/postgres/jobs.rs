//! Jobs for tests.

use kjob_core::{
    Finish, Header, JobId, JobOptions, NewJob, Output, Owner, QueryId, Store, TagReuse, Timestamp,
};
use kjob_proto::{Encoding, Text};

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

/// A job of this owner's with this tag, of which its payload tells.
pub(crate) fn job(id: JobId, tag: &str, owner: &str) -> NewJob {
    NewJob {
        header: Header {
            id,
            tag: tag.parse().unwrap(),
            owner: Owner::new(owner),
            endpoint: Text::from("/demo/echo"),
            encoding: Encoding::Binary,
            query_id: QueryId::from_bytes([7; 16]).unwrap(),
            parent_span: 0,
            received_at: at(0),
            source_ip: Text::new(),
            options: JobOptions::default(),
        },
        payload: format!("payload of {tag}").into(),
        tag_reuse: TagReuse::Never,
    }
}

pub(crate) async fn id(store: &dyn Store) -> JobId {
    store.reserve_ids(1).await.unwrap().take().unwrap()
}

pub(crate) fn done() -> Finish {
    Finish::Complete(Output::binary(&b"done"[..]))
}
