//! kjob-server under load: what is asked of it, in Avro binary, and what it has to answer.

mod answers;
mod get;
mod life;
mod server;
mod submit;

pub(crate) use get::{Get, Request};
pub(crate) use life::Life;
pub(crate) use server::{start, start_nodes};
pub(crate) use submit::{Submit, Tags};

use std::time::Duration;

use bytes::Bytes;

/// What is called: it answers with the bytes of its payload.
pub(crate) const ENDPOINT: &str = "/demo/echo";

/// How long jobs wait that are not to start while a load goes on.
pub(crate) const TOMORROW: Duration = Duration::from_secs(24 * 60 * 60);

/// A payload of so many bytes, at least 128, for [`ENDPOINT`]: one string, and no options.
pub(crate) fn payload(len: usize) -> Bytes {
    // The string's length takes two bytes or more, and the end of the options one.
    let mut prefix = Vec::new();
    let mut message = len.saturating_sub(3);
    loop {
        prefix.clear();
        put_long(message as i64, &mut prefix);
        match (prefix.len() + message + 1).cmp(&len) {
            std::cmp::Ordering::Greater => message -= 1,
            _ => break,
        }
    }
    let text = (0..message).map(|at| b'a' + (at * 7 % 26) as u8);
    prefix.iter().copied().chain(text).chain([0]).collect()
}

/// A long as Avro has it.
fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// The long at the beginning of `input`, and what follows it.
fn take_long(input: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0_u64;
    for (place, byte) in input.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let sign = (value & 1).cast_signed().wrapping_neg();
            return Some(((value >> 1).cast_signed() ^ sign, input.get(place + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use kjob_proto::{GetJobRequest, Record};

    #[test]
    fn longs_are_those_of_the_protocol() {
        for value in [0, 1, -1, 63, 64, 8191, 8192, 1 << 40, i64::MAX, i64::MIN] {
            let mut ours = Vec::new();
            put_long(value, &mut ours);
            let request = GetJobRequest {
                job_id: value,
                ..Default::default()
            };
            let theirs = request.encode_to_bytes();
            assert_eq!(ours, theirs[..theirs.len() - 1], "{value}");
            assert_eq!(take_long(&ours), Some((value, &[][..])));
            assert_eq!(take_long(&ours[..ours.len() - 1]), None);
        }
    }

    #[test]
    fn payloads_have_their_lengths_and_are_one_string() {
        for len in [128, 256, 64 << 10] {
            let payload = payload(len);
            assert_eq!(payload.len(), len);
            let (message, rest) = take_long(&payload).unwrap();
            assert_eq!(rest.len(), message as usize + 1);
        }
    }
}
