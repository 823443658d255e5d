//! Payloads and results as handlers have them.

use kjob_proto::{Encoding, Limits, Text, snappy};

use crate::Payload;

/// The payload without its packing.
pub(super) fn unpack(payload: &Payload, limits: &Limits) -> Result<Payload, Text> {
    if payload.encoding != Encoding::Snappy {
        return Ok(payload.clone());
    }
    snappy::decompress(&payload.data, limits)
        .map(Payload::binary)
        .map_err(|error| Text::from(error.to_string()))
}

/// How many bytes that makes; a packing that is damaged or too large is found out when it is
/// unpacked.
pub(super) fn unpacked_len(payload: &Payload, limits: &Limits) -> usize {
    let len = payload.data.len();
    match payload.encoding {
        Encoding::Snappy => snappy::decompressed_len(&payload.data, limits)
            .map_or(len, |unpacked| unpacked.max(len)),
        Encoding::Binary | Encoding::Json => len,
    }
}

/// Whether bytes that are to be JSON are a text at all.
pub(super) fn is_text(payload: &Payload) -> bool {
    std::str::from_utf8(&payload.data).is_ok()
}
