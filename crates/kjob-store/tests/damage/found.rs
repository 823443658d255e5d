//! The places of the smallest store that every bit of it was flipped to find: what SQLite goes by to
//! get at a row, where an error once named nothing, or another record than the one that is damaged.
//!
//! Some thousands of the bits of `every_bit`, so that all runs of the tests hold them.

use std::fs;
use std::ops::Range;

use kjob_store::embedded::check;

use crate::PAGE;
use crate::image::{Image, Wrong, block_on, flip};
use crate::stores::smallest;

/// What says of a file that it may be written to, and read with a log.
const VERSIONS: Range<usize> = 18..20;
/// By which rules the definitions of the tables are to be read.
const SCHEMA_FORMAT: Range<usize> = 44..48;
/// What comes before the pages' own headers in the first page.
const FILE_HEADER: usize = 100;
/// The kinds of pages at the ends of trees: of an index or a table without row ids, and of a table.
const INDEX_LEAF: u8 = 10;
const TABLE_LEAF: u8 = 13;

#[test]
fn a_flipped_bit_on_the_way_to_a_row_gives_an_error_that_names_its_file() {
    let images = [
        (block_on(async { Image::closed(smallest().await).await }), 1),
        // Its jobs are in logs, whose frames have checksums.
        (block_on(async { Image::killed(smallest().await).await }), 0),
    ];
    let tried = images.iter().map(|(image, pages_with_jobs)| {
        let mut bits = Vec::new();
        let (mut jobs, mut notes) = (0, 0);
        for (name, bytes) in &image.files {
            if name
                .extension()
                .is_none_or(|extension| extension != "sqlite")
            {
                continue;
            }
            let mut places: Vec<Range<usize>> = vec![VERSIONS, SCHEMA_FORMAT];
            for page in pages(bytes) {
                places.push(page.header());
                if page.kind() == TABLE_LEAF && page.has(b"runs") {
                    // The id of a job, and how long its row is.
                    jobs += 1;
                    places.push(page.pointers());
                    places.extend(page.cells().map(|cell| cell..cell + 4));
                }
                if page.kind() == INDEX_LEAF && page.has(b"generation") {
                    // The names of a segment's notes about itself.
                    notes += 1;
                    places.push(page.pointers());
                    let name_ends = 5 + "generation".len();
                    places.extend(page.cells().map(|cell| cell..cell + name_ends));
                }
            }
            let bytes = places.into_iter().flatten();
            let of_bytes = bytes.flat_map(|byte| byte * 8..byte * 8 + 8);
            bits.extend(of_bytes.map(|bit| (name, bit)));
        }
        assert_eq!((jobs, notes), (*pages_with_jobs, 1));
        image.try_each(bits.len(), |number| {
            let (name, bit) = bits[number];
            flip(name, bit)
        })
    });
    Wrong::fail_if_any(tried);
}

#[tokio::test]
async fn a_check_leaves_a_file_with_a_damaged_header_as_it_is() {
    let mut trial = smallest().await.trial;
    trial.close().await;
    for path in [
        trial.dir.path().join("catalogue.sqlite"),
        trial.segment_files().remove(0),
    ] {
        let whole = fs::read(&path).unwrap();
        for at in VERSIONS {
            let mut damaged = whole.clone();
            damaged[at] = 0;
            fs::write(&path, &damaged).unwrap();
            let findings = check(trial.dir.path()).unwrap().findings;
            let files: Vec<_> = findings
                .iter()
                .map(|found| trial.dir.path().join(&found.file))
                .collect();
            assert_eq!(files, std::slice::from_ref(&path), "{findings:?}");
            assert!(fs::read(&path).unwrap() == damaged);
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(check(trial.dir.path()).unwrap().findings, []);
}

/// A page of a tree.
struct Page<'a> {
    file: &'a [u8],
    /// Where it begins in the file, and where its header does.
    begin: usize,
    header: usize,
}

/// The pages at the ends of trees: nothing else is read of a store as small as this.
fn pages(file: &[u8]) -> impl Iterator<Item = Page<'_>> {
    (0..file.len()).step_by(PAGE).filter_map(move |begin| {
        let header = if begin == 0 { FILE_HEADER } else { begin };
        let page = Page {
            file,
            begin,
            header,
        };
        [INDEX_LEAF, TABLE_LEAF]
            .contains(&page.kind())
            .then_some(page)
    })
}

impl Page<'_> {
    fn kind(&self) -> u8 {
        self.file[self.header]
    }

    /// Its kind, where its free bytes and its rows begin, and how many rows it has.
    fn header(&self) -> Range<usize> {
        self.header..self.header + 8
    }

    /// What leads to each row.
    fn pointers(&self) -> Range<usize> {
        let from = self.header().end;
        from..from + 2 * self.number(self.header + 3)
    }

    /// Where each row begins.
    fn cells(&self) -> impl Iterator<Item = usize> {
        self.pointers()
            .step_by(2)
            .map(|at| self.begin + self.number(at))
    }

    fn has(&self, text: &[u8]) -> bool {
        let page = &self.file[self.begin..self.begin + PAGE];
        page.windows(text.len()).any(|window| window == text)
    }

    fn number(&self, at: usize) -> usize {
        usize::from(u16::from_be_bytes([self.file[at], self.file[at + 1]]))
    }
}
