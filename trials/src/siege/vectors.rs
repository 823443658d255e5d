//! Requests of the genuine client, as the protocol's tests keep them.

use anyhow::{Context, Result};
use kjob_proto::Encoding;
use serde::Deserialize;

const REQUESTS: &str = include_str!("../../../crates/kjob-proto/tests/vectors/requests.json");

/// A body and where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) endpoint: String,
    pub(crate) encoding: Encoding,
    pub(crate) body: Vec<u8>,
}

/// As they stand in the file; big ones are there by their hashes only, and left out.
#[derive(Deserialize)]
struct Written {
    endpoint: String,
    encoding: String,
    hex: Option<String>,
    text: Option<String>,
}

/// All requests that are there whole.
pub(crate) fn load() -> Result<Vec<Vector>> {
    let written: Vec<Written> = serde_json::from_str(REQUESTS)?;
    let mut vectors = Vec::with_capacity(written.len());
    for written in written {
        let body = match (written.hex, written.text) {
            (Some(hex), _) => unhex(&hex).with_context(|| hex.clone())?,
            (None, Some(text)) => text.into_bytes(),
            (None, None) => continue,
        };
        vectors.push(Vector {
            endpoint: written.endpoint,
            encoding: written.encoding.parse()?,
            body,
        });
    }
    Ok(vectors)
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}
