//! Every single bit of every file of a store, which is as small as one can be.
//!
//! All of them take more than an hour: they are flipped with `KJOB_FLIP_EVERY=1`. Without it, all of the small
//! files, and one in a thousand of the others.

use crate::image::{Image, block_on, flip};
use crate::stores::smallest;

/// A prime, so that every bit of a byte has its turn.
const ONE_IN: usize = 997;

#[test]
fn a_flipped_bit_of_the_smallest_store_gives_the_right_answer_or_an_error_that_names_it() {
    for image in [
        block_on(async { Image::closed(smallest().await).await }),
        block_on(async { Image::killed(smallest().await).await }),
    ] {
        let every = std::env::var("KJOB_FLIP_EVERY").ok();
        let mut bits = Vec::new();
        for (name, bytes) in &image.files {
            let every = match &every {
                Some(every) => every.parse().unwrap(),
                None if bytes.len() < 1_000 => 1,
                None => ONE_IN,
            };
            bits.extend((0..bytes.len() * 8).step_by(every).map(|bit| (name, bit)));
        }
        image.try_each(bits.len(), |number| {
            let (name, bit) = bits[number];
            flip(name, bit)
        });
    }
}
