//! Query ids: the id under which a job appears in logs and traces.

use std::fmt;

use rand::Rng;

/// A W3C trace id, written as 32 lower-case hex digits, never all zero.
///
/// The protocol calls it `query_id`, "an id for telemetry" (docs/protocol.md section 4,
/// `/create/job`). It is the trace id of the submitting request's `traceparent`, else random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId([u8; 16]);

/// What a `traceparent` header says: the trace and the span that submitted the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace id.
    pub query_id: QueryId,
    /// The submitting span's id, never zero.
    pub span_id: u64,
    /// Whether the caller records the trace.
    pub sampled: bool,
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl QueryId {
    /// A random id from `rng`.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        // All zero means "no trace" to everyone who reads trace ids.
        bytes[15] |= u8::from(bytes == [0; 16]);
        Self(bytes)
    }

    /// The id with these bytes; `None` if all are zero.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl TraceParent {
    /// Reads a `traceparent` header: `VERSION-TRACE_ID-PARENT_ID-FLAGS` in lower-case hex.
    ///
    /// As W3C Trace Context asks, version `ff` and all-zero ids are invalid, version `00` has
    /// exactly four parts, and later versions may have more.
    ///
    /// ```
    /// use kjob_core::TraceParent;
    /// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let parent = TraceParent::parse(header).expect("a valid header");
    /// assert_eq!(parent.query_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    /// assert!(parent.sampled);
    /// ```
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let version = hex(parts.next()?, 2)?;
        let trace = hex(parts.next()?, 32)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        if version == 0xff || (version == 0 && parts.next().is_some()) || span_id == 0 {
            return None;
        }
        let query_id = QueryId::from_bytes(trace.to_be_bytes())?;
        Some(Self {
            query_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }
}

/// `text` as exactly `digits` lower-case hex digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != digits || !text.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

impl std::str::FromStr for QueryId {
    type Err = BadQueryId;

    fn from_str(text: &str) -> Result<Self, BadQueryId> {
        hex(text, 32)
            .and_then(|id| Self::from_bytes(id.to_be_bytes()))
            .ok_or(BadQueryId)
    }
}

/// The text is not 32 lower-case hex digits with one that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a query id is 32 lower-case hex digits, not all zero")]
pub struct BadQueryId;

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each answer about a job has it, and the formatter of numbers takes longer.
        let mut text = [0; 32];
        for (two, byte) in text.chunks_exact_mut(2).zip(self.0) {
            two[0] = DIGITS[usize::from(byte >> 4)];
            two[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryId({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn bad_headers_are_refused() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let span = "00f067aa0ba902b7";
        for header in [
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}"),
            String::new(),
        ] {
            assert_eq!(TraceParent::parse(&header), None, "{header}");
        }
        assert!(TraceParent::parse(&format!("01-{trace}-{span}-00-more")).is_some());
    }

    proptest! {
        #[test]
        fn text_and_id_are_the_same_thing(seed: u64) {
            let id = QueryId::random(&mut rand::rngs::StdRng::seed_from_u64(seed));
            prop_assert_eq!(id.to_string().parse::<QueryId>(), Ok(id));
            prop_assert_eq!(id.to_string().len(), 32);
        }
    }
}
