//! Every single bit of every file of a store, which is as small as one can be.
//!
//! All of them take two hours of a processor. `KJOB_FLIP_EVERY=1` flips them in one run; `KJOB_FLIP_EVERY=12` with
//! `KJOB_FLIP_FIRST` from 0 to 11 does it in twelve. Without either, all of the small files, and one in a thousand
//! of the others.

use crate::image::{Image, Wrong, block_on, flip};
use crate::stores::smallest;

/// A prime, so that every bit of a byte has its turn.
const ONE_IN: usize = 997;

#[test]
fn a_flipped_bit_of_the_smallest_store_gives_the_right_answer_or_an_error_that_names_it() {
    let images = [
        block_on(async { Image::closed(smallest().await).await }),
        block_on(async { Image::killed(smallest().await).await }),
    ];
    let tried = images.iter().map(|image| {
        let every = number("KJOB_FLIP_EVERY");
        let first = number("KJOB_FLIP_FIRST").unwrap_or(0);
        let mut bits = Vec::new();
        for (name, bytes) in &image.files {
            let every = match every {
                Some(every) => every,
                None if bytes.len() < 1_000 => 1,
                None => ONE_IN,
            };
            bits.extend(
                (first..bytes.len() * 8)
                    .step_by(every)
                    .map(|bit| (name, bit)),
            );
        }
        image.try_each(bits.len(), |number| {
            let (name, bit) = bits[number];
            flip(name, bit)
        })
    });
    Wrong::fail_if_any(tried);
}

fn number(variable: &str) -> Option<usize> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap())
}
