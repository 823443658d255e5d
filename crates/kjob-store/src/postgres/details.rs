//! What no statement looks at of a job, as the bytes of one column: the query id, the parent's span, a byte of
//! flags, numbers, and texts each after its length in four bytes. All numbers have their lowest byte first.
//!
//! What comes behind is passed over, so that a later version may add to it while this one works on.

use kjob_core::{Header, JobOptions, QueryId, Timestamp};
use kjob_proto::Text;

use crate::values::{duration, millis};

const REMOVE_ON_COMPLETE: u8 = 1;
const NOT_BEFORE: u8 = 2;
const TIMEOUT: u8 = 4;
const CALLBACK_URL: u8 = 8;

/// What [`decode`] finds; priority and retention have columns of their own.
#[derive(Debug, PartialEq)]
pub(crate) struct Details {
    pub(crate) query_id: QueryId,
    pub(crate) parent_span: u64,
    pub(crate) source_ip: Text,
    pub(crate) options: JobOptions,
}

pub(crate) fn encode(header: &Header) -> Vec<u8> {
    let options = &header.options;
    let not_before = options.not_before.map(Timestamp::as_millis);
    let timeout = options.timeout.map(millis);
    let mut flags = 0;
    for (is_set, flag) in [
        (options.remove_on_complete, REMOVE_ON_COMPLETE),
        (not_before.is_some(), NOT_BEFORE),
        (timeout.is_some(), TIMEOUT),
        (options.callback_url.is_some(), CALLBACK_URL),
    ] {
        flags |= if is_set { flag } else { 0 };
    }
    let mut bytes = Vec::with_capacity(64 + header.source_ip.len() + options.user_data.len());
    bytes.extend(header.query_id.to_bytes());
    bytes.extend(header.parent_span.to_le_bytes());
    bytes.push(flags);
    for number in [not_before, timeout].into_iter().flatten() {
        bytes.extend(number.to_le_bytes());
    }
    let texts = [Some(&header.source_ip), Some(&options.user_data)];
    for text in texts
        .into_iter()
        .chain([options.callback_url.as_ref()])
        .flatten()
    {
        // A text that long does not come in.
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend(len.to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// `None` where the bytes are not those of [`encode`].
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Details> {
    let bytes = &mut bytes;
    let query_id = QueryId::from_bytes(array(bytes)?)?;
    let parent_span = u64::from_le_bytes(array(bytes)?);
    let [flags] = array(bytes)?;
    let number = |flag: u8, bytes: &mut &[u8]| -> Option<Option<i64>> {
        if flags & flag == 0 {
            return Some(None);
        }
        array(bytes).map(|number| Some(i64::from_le_bytes(number)))
    };
    let not_before = number(NOT_BEFORE, bytes)?.map(Timestamp::from_millis);
    let timeout = number(TIMEOUT, bytes)?.map(duration);
    let source_ip = text(bytes)?;
    let user_data = text(bytes)?;
    let callback_url = match flags & CALLBACK_URL {
        0 => None,
        _ => Some(text(bytes)?),
    };
    let options = JobOptions {
        not_before,
        timeout,
        remove_on_complete: flags & REMOVE_ON_COMPLETE != 0,
        user_data,
        callback_url,
        ..JobOptions::default()
    };
    Some(Details {
        query_id,
        parent_span,
        source_ip,
        options,
    })
}

fn array<const LEN: usize>(bytes: &mut &[u8]) -> Option<[u8; LEN]> {
    let (array, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*array)
}

fn text(bytes: &mut &[u8]) -> Option<Text> {
    let len = usize::try_from(u32::from_le_bytes(array(bytes)?)).ok()?;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    std::str::from_utf8(text).ok().map(Text::copy_from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kjob_core::{JobId, Owner};
    use kjob_proto::Encoding;

    use super::*;

    fn header(options: JobOptions) -> Header {
        Header {
            id: JobId::FIRST,
            tag: "a".parse().unwrap(),
            owner: Owner::anonymous(),
            endpoint: Text::from("/a"),
            encoding: Encoding::Json,
            query_id: QueryId::from_bytes([9; 16]).unwrap(),
            parent_span: u64::MAX - 1,
            received_at: Timestamp::from_millis(0),
            source_ip: Text::from("::1"),
            options,
        }
    }

    #[test]
    fn what_was_written_comes_back_cut_off_or_longer() {
        let full = JobOptions {
            not_before: Some(Timestamp::from_millis(-5)),
            timeout: Some(Duration::from_millis(77)),
            remove_on_complete: true,
            user_data: Text::from("a \0 ä"),
            callback_url: Some(Text::from("http://a/")),
            ..JobOptions::default()
        };
        for options in [full, JobOptions::default()] {
            let header = header(options);
            let mut bytes = encode(&header);
            let found = decode(&bytes).unwrap();
            assert_eq!(found.options, header.options);
            assert_eq!(
                (found.query_id, found.parent_span, &found.source_ip),
                (header.query_id, header.parent_span, &header.source_ip)
            );
            for len in 0..bytes.len() {
                assert_eq!(decode(&bytes[..len]), None, "cut at {len}");
            }
            bytes.extend(b"of a later version");
            assert_eq!(decode(&bytes), Some(found));
        }
    }
}
