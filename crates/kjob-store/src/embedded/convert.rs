//! Making a directory of an older format one of this format.
//!
//! Each segment is converted in a transaction of its own, the catalogue in the last one. Until then
//! the directory is of the old format, and opening it again goes on where it was left: a segment
//! says itself of which format it is. No row is written anew, so it takes no longer for many.

use std::ops::RangeInclusive;
use std::path::Path;

use kjob_core::StoreError;
use rusqlite::Connection;

use super::OpenError;
use super::catalogue::{Catalogue, CatalogueError};
use super::counts::PAGES;
use super::error::{in_segment, opening, sql};
use super::header;
use super::layout::Layout;
use super::open::{open_error, refuse_damaged_log};
use super::schema::{self, FORMAT, Schema};
use super::segment::{self, Access};
use super::totals::Totals;

const DOING: &str = "convert a segment";

/// The formats that are converted.
pub(crate) const OLD_FORMATS: RangeInclusive<i64> = 2..=3;

/// Converts the directory, whose catalogue is of one of these formats, and opens that.
pub(crate) fn directory(
    layout: &Layout,
    format: i64,
    accept_damaged_logs: bool,
) -> Result<Result<Catalogue, CatalogueError>, OpenError> {
    let mut catalogue = match Catalogue::open_old(&layout.catalogue(), format) {
        Ok(catalogue) => catalogue,
        other => return Ok(other),
    };
    for record in catalogue.segments() {
        let path = layout.segment(record.number, record.generation);
        if !accept_damaged_logs {
            refuse_damaged_log(&path)?;
        }
        convert_segment(&path)
            .map_err(in_segment(record.number))
            .map_err(|error| open_error(layout, error))?;
    }
    let done = catalogue.set_current();
    done.map_err(|error| open_error(layout, error))?;
    Ok(Ok(catalogue))
}

/// Converts a segment, unless it is of this format already.
fn convert_segment(path: &Path) -> Result<(), StoreError> {
    let doing = || sql(DOING);
    if !path.is_file() {
        let what = "its file is missing".to_owned();
        return Err(StoreError::Corrupt { what });
    }
    header::verify(path)?;
    let connection = segment::connect(path, Access::Older).map_err(opening(DOING))?;
    let schema = Schema::read(&connection).map_err(opening(DOING))?;
    let format = schema.format();
    if format == FORMAT {
        // What was converted by a process that was killed may not be synced yet, and the catalogue
        // must not say so before it is.
        return segment::settle(&connection);
    }
    let is_of = |make: fn(&Connection) -> rusqlite::Result<()>| {
        let right = Schema::of(make).map_err(doing())?;
        Ok(schema.is(&right, &PAGES.map(|(table, _)| table)))
    };
    let convert = match format {
        2 if is_of(segment::make_tables_of_2)? => from_2,
        3 if is_of(segment::make_tables_of_3)? => from_3,
        _ => {
            let what = format!("its tables are not those of a segment of format {format}");
            return Err(StoreError::Corrupt { what });
        }
    };
    let change = connection.unchecked_transaction().map_err(doing())?;
    convert(&change).map_err(doing())?;
    change.commit().map_err(doing())
}

fn from_2(change: &Connection) -> rusqlite::Result<()> {
    segment::make_current(change)?;
    segment::note_pages(change)?;
    Totals::write_added(change)
}

fn from_3(change: &Connection) -> rusqlite::Result<()> {
    schema::mark(change, FORMAT)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use kjob_core::{Filter, Job, Parts, Store, Timestamp};

    use super::super::layout::log_of;
    use super::super::{EmbeddedOptions, EmbeddedStore, check};
    use super::*;

    fn sample(format: i64) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/format/{format}/data"))
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &target);
            } else if path.extension().is_none_or(|e| e != "sqlite-shm") {
                fs::copy(&path, &target).unwrap();
            }
        }
    }

    /// Every job, after opening the store twice and having it checked.
    fn jobs(dir: &Path) -> Vec<Job> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let all = Parts {
            payload: true,
            result: true,
        };
        let filter = Filter::ALL;
        let now = Timestamp::from_millis(1_700_000_000_100);
        let read = || {
            let store = EmbeddedStore::open(dir, EmbeddedOptions::default()).unwrap();
            runtime.block_on(async {
                let page = store.list(&filter, now).await.unwrap();
                let mut jobs = Vec::new();
                for job in page.jobs {
                    jobs.extend(store.get(job.header.id, all, now).await.unwrap());
                }
                store.close().await.unwrap();
                jobs
            })
        };
        let jobs = read();
        assert_eq!(check(dir).unwrap().findings, []);
        assert_eq!(read(), jobs);
        jobs
    }

    fn segments(layout: &Layout, format: i64) -> Vec<PathBuf> {
        let catalogue = Catalogue::open_old(&layout.catalogue(), format).unwrap();
        let segments = catalogue.segments().into_iter();
        let paths = segments.map(|record| layout.segment(record.number, record.generation));
        paths.collect()
    }

    #[test]
    fn a_conversion_cut_off_between_two_segments_goes_on() {
        for format in OLD_FORMATS {
            let whole = tempfile::tempdir().unwrap();
            copy(&sample(format), whole.path());
            let expected = jobs(whole.path());
            assert!(expected.len() >= 15, "{}", expected.len());
            let dir = tempfile::tempdir().unwrap();
            copy(&sample(format), dir.path());
            let paths = segments(&Layout::new(dir.path()), format);
            for path in &paths {
                convert_segment(path).unwrap();
                let killed = tempfile::tempdir().unwrap();
                copy(dir.path(), killed.path());
                let found = jobs(killed.path());
                assert_eq!(found, expected, "{format}, after {}", path.display());
            }
            assert!(paths.len() >= 4);
        }
    }

    /// A crash leaves any part of a segment's log.
    #[test]
    fn a_conversion_cut_off_within_a_segment_begins_that_anew() {
        for (format, pages) in [(2, 4), (3, 1)] {
            let whole = tempfile::tempdir().unwrap();
            copy(&sample(format), whole.path());
            let expected = jobs(whole.path());
            let dir = tempfile::tempdir().unwrap();
            copy(&sample(format), dir.path());
            let layout = Layout::new(dir.path());
            let path = segments(&layout, format).remove(0);
            // While somebody reads it, the log stays.
            let reader = segment::connect(&path, Access::Older).unwrap();
            let before = fs::metadata(log_of(&path)).unwrap().len();
            convert_segment(&path).unwrap();
            let after = fs::metadata(log_of(&path)).unwrap().len();
            assert!(after > before + pages * 4096, "{before}, {after}");
            let (mut old, mut new) = (0, 0);
            for len in (before..after).step_by(1030).chain([after]) {
                let killed = tempfile::tempdir().unwrap();
                copy(dir.path(), killed.path());
                let cut = Layout::new(killed.path()).segment(1, 1);
                let log = fs::OpenOptions::new().write(true).open(log_of(&cut));
                log.unwrap().set_len(len).unwrap();
                let is_old = {
                    let found = segment::connect(&cut, Access::Check).unwrap();
                    Schema::read(&found).unwrap().format() == format
                };
                *(if is_old { &mut old } else { &mut new }) += 1;
                assert_eq!(jobs(killed.path()), expected, "log cut at {len}");
            }
            assert!(old > 3 && new >= 1, "{old}, {new}");
            drop(reader);
        }
    }

    #[test]
    fn a_segment_that_is_not_as_it_was_is_not_converted() {
        for format in OLD_FORMATS {
            let dir = tempfile::tempdir().unwrap();
            copy(&sample(format), dir.path());
            let path = segments(&Layout::new(dir.path()), format).remove(0);
            let connection = segment::connect(&path, Access::Older).unwrap();
            connection.execute_batch("CREATE TABLE more (id)").unwrap();
            drop(connection);
            let refused = EmbeddedStore::open(dir.path(), EmbeddedOptions::default());
            let Err(OpenError::Corrupt { what, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert!(what.contains(&format!("format {format}")), "{what}");
        }
    }
}
