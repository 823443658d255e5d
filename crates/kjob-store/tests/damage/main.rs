//! Damage to any file of a store: each answer is right, or an error that names what is damaged.
//! Never a wrong answer, never one that silently lacks something, never a panic, and never a job
//! that is run again.
//!
//! A store with everything in it is damaged at one place, checked, opened, asked for all it has in
//! every way, told to expire, opened again and asked again. `KJOB_FLIP_EVERY=n` flips every nth bit
//! of every file instead of a sample. With 1 that takes many hours for the store that has everything;
//! [`every_bit`] has a small one for that.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "the table is what people read")]

mod every_bit;
mod found;
mod image;
mod naming;
mod stores;
#[path = "../embedded/trial.rs"]
mod trial;

use std::fs;

use kjob_core::{Store, StoreError};
use kjob_store::embedded::check;

use image::{ALL, Case, Image, Wrong, block_on, flip, is_log};
use stores::everything;
use trial::{Trial, at, by_count};

const PAGE: usize = 4096;

#[test]
fn a_flipped_bit_anywhere_gives_the_right_answer_or_an_error_that_names_it() {
    let images = [
        block_on(async { Image::closed(everything().await).await }),
        block_on(async { Image::killed(everything().await).await }),
    ];
    let tried = images.iter().map(|image| {
        let every: Option<usize> = std::env::var("KJOB_FLIP_EVERY")
            .ok()
            .map(|every| every.parse().unwrap());
        let mut cases = Vec::new();
        for (name, bytes) in &image.files {
            let bits = bytes.len() * 8;
            match every {
                Some(every) => cases.extend((0..bits).step_by(every).map(|bit| flip(name, bit))),
                // Most of a page is empty: more of what is not.
                None => {
                    let used: Vec<usize> =
                        (0..bytes.len()).filter(|byte| bytes[*byte] != 0).collect();
                    let is_database = name.extension().is_some_and(|e| e == "sqlite");
                    let (samples, spread) = match (is_database, is_log(name)) {
                        (true, _) => (80, 10),
                        (_, true) => (30, 10),
                        _ => (6, 2),
                    };
                    for number in 0..samples.min(used.len()) {
                        let place = used[number * used.len() / samples.min(used.len())];
                        cases.push(flip(name, place * 8 + number % 8));
                    }
                    cases.extend((0..spread).map(|n| flip(name, n * bits / spread)));
                }
            }
        }
        image.try_all(&cases)
    });
    Wrong::fail_if_any(tried);
}

#[test]
fn lost_and_misplaced_pages_are_found() {
    let image = block_on(async { Image::closed(everything().await).await });
    let mut cases = Vec::new();
    for (name, bytes) in &image.files {
        let pages = bytes.len() / PAGE;
        for page in 0..pages {
            cases.push(Case::new(name, format!("page {page} zeroed"), {
                move |bytes| bytes[page * PAGE..(page + 1) * PAGE].fill(0)
            }));
            cases.push(Case::new(name, format!("cut off at page {page}"), {
                move |bytes| bytes.truncate(page * PAGE + 7)
            }));
            let other = (page + 1) % pages;
            cases.push(Case::new(
                name,
                format!("pages {page} and {other} swapped"),
                {
                    move |bytes| {
                        let first = bytes[page * PAGE..(page + 1) * PAGE].to_vec();
                        bytes.copy_within(other * PAGE..(other + 1) * PAGE, page * PAGE);
                        bytes[other * PAGE..(other + 1) * PAGE].copy_from_slice(&first);
                    }
                },
            ));
        }
    }
    Wrong::fail_if_any([image.try_all(&cases)]);
}

#[tokio::test]
async fn a_settled_segments_file_that_is_another_is_found() {
    let mut trial = Trial::new(by_count(4));
    let mut ids = Vec::new();
    for number in 0..9 {
        let tag = format!("job-{number}");
        let id = trial.submit(&tag).await;
        if number != 3 {
            trial.finish(id, &tag, at(0)).await;
        }
        ids.push(id);
    }
    trial.close().await;
    let file = trial.segment_files().remove(0);
    let older = fs::read(&file).unwrap();
    let anothers = fs::read(trial.segment_files().remove(1)).unwrap();
    trial.open();
    trial.finish(ids[3], "job-3", at(0)).await;
    trial.settled().await;
    trial.close().await;
    let right = fs::read(&file).unwrap();
    assert_ne!(older, right);
    for (contents, is_right) in [(right, true), (older, false), (anothers, false)] {
        fs::write(&file, contents).unwrap();
        assert_eq!(
            check(trial.dir.path()).unwrap().findings.is_empty(),
            is_right
        );
        trial.open();
        for id in &ids[..4] {
            let got = trial.store().get(*id, ALL, at(1)).await;
            match got {
                Ok(Some(_)) if is_right => {}
                Err(StoreError::Corrupt { what }) if !is_right => {
                    assert!(
                        what.contains("segment 1") || what.contains("00000001-0"),
                        "{what}"
                    );
                }
                other => panic!("job {id}: {:?}", other.map(|job| job.map(|job| job.state))),
            }
        }
        assert!(trial.get(ids[5], at(1)).await.is_some());
        trial.close().await;
    }
}
