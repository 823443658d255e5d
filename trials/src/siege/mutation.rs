//! Mutations of bodies, by a seed.

use kjob_proto::{Encoding, snappy};
use rand::RngExt;
use rand::rngs::StdRng;

/// The longest body that comes of a mutation.
const LEN_MAX: usize = 256 << 10;

/// Numbers whose encodings are worth trying as lengths and counts: around nothing, around the
/// limits, and at the ends.
const NUMBERS: [&[u8]; 9] = [
    &[0],
    &[1],
    &[2],
    &[0x7f],
    &[0x80, 0x80, 0x04],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
];

/// Texts that something may trip over, JSON's and the clients'.
const TEXTS: [&str; 12] = [
    "null",
    "-0",
    "1e309",
    "9007199254740993",
    "\\ud800",
    "\\u0000",
    "[[[[",
    "{\"",
    "\"job_tag\"",
    "Connection reset",
    "\u{feff}",
    "\u{10ffff}",
];

/// One body made of another, in one to four steps. Half of the snappy ones are mutated inside, so
/// that what is unpacked is as bad as what is packed.
pub(crate) fn mutate(
    body: &[u8],
    other: &[u8],
    encoding: Encoding,
    random: &mut StdRng,
) -> Vec<u8> {
    if encoding == Encoding::Snappy
        && random.random_ratio(1, 2)
        && let Ok(plain) = snappy::decompress(body, &kjob_proto::Limits::default())
    {
        return snappy::compress(&mutate(&plain, other, Encoding::Binary, random));
    }
    let mut body = body.to_vec();
    for _ in 0..random.random_range(1..=4) {
        step(&mut body, other, random);
        body.truncate(LEN_MAX);
    }
    body
}

fn step(body: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    let at = random.random_range(0..=body.len());
    match random.random_range(0..9) {
        // A bit turned.
        0 | 1 => {
            if let Some(byte) = body.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        2 => body.truncate(at),
        // A length that lies.
        3 => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())];
            let end = (at + random.random_range(0..3)).min(body.len());
            body.splice(at..end, number.iter().copied());
        }
        // The rest of another.
        4 => {
            let from = random.random_range(0..=other.len());
            body.truncate(at);
            body.extend(&other[from..]);
        }
        // A part again.
        5 => {
            let end = random.random_range(at..=body.len());
            let part = body[at..end].repeat(random.random_range(1..50));
            body.splice(at..at, part);
        }
        6 => {
            let text = TEXTS[random.random_range(0..TEXTS.len())];
            body.splice(at..at, text.bytes());
        }
        // Something at random.
        7 => {
            let noise: Vec<u8> = (0..random.random_range(1..64))
                .map(|_| random.random())
                .collect();
            body.splice(at..at, noise);
        }
        _ => {
            let end = random.random_range(at..=body.len());
            body.drain(at..end);
        }
    }
}
