//! Opening a directory: what is there, what a crash left, and which jobs live.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kjob_core::{JobId, StoreError};
use rusqlite::Connection;

use super::blobs;
use super::callback_row;
use super::catalogue::{Catalogue, CatalogueError};
use super::catalogue_rows::SegmentRecord;
use super::counts::Meta;
use super::error::{file, in_catalogue, in_segment, sql};
use super::filter::Filter;
use super::layout::{self, Layout, ignore_missing};
use super::ledger::Ledger;
use super::packs;
use super::query::Segment;
use super::schema::FORMAT;
use super::segment::{self, Access};
use super::shared::Shared;
use super::tag_moves::SharedTag;
use super::totals::{self, Totals};
use super::{OpenError, convert, counts, header, log_file, summary, tags, take_up};

/// What was found.
pub(crate) struct Opened {
    pub(crate) catalogue: Catalogue,
    pub(crate) segments: BTreeMap<u32, Ledger>,
    pub(crate) connections: BTreeMap<u32, Connection>,
    /// How many segment files had to be opened for it.
    pub(crate) files_opened: usize,
    /// Tags of live jobs that older segments may know as well.
    pub(crate) shared_tags: Vec<SharedTag>,
    /// Files of segments whose rewriting was cut off, or just done: some of their packs may be left over.
    pub(crate) rewritten: BTreeMap<PathBuf, u32>,
}

/// Makes the directories that are not there.
pub(crate) fn prepare(layout: &Layout) -> Result<(), OpenError> {
    let root = layout.root();
    if root.exists() && !root.is_dir() {
        return Err(OpenError::NotADirectory {
            path: root.to_owned(),
        });
    }
    for dir in [root.to_owned(), layout.segments(), layout.blobs()] {
        let made = match layout::make_dirs(&dir) {
            Ok(()) => dir.parent().map_or(Ok(()), |parent| {
                // A relative path of one name has an empty parent.
                let here = Path::new(".");
                layout::sync_dir(if parent.as_os_str().is_empty() {
                    here
                } else {
                    parent
                })
            }),
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(OpenError::NotADirectory { path: dir });
            }
            Err(source) => {
                return Err(OpenError::Io {
                    doing: "make",
                    path: dir,
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Reads the catalogue and the segments that may hold live jobs, and publishes both.
pub(crate) fn open(shared: &Shared) -> Result<Opened, OpenError> {
    let layout = &shared.layout;
    let dir = layout.root().to_owned();
    let is_empty = is_empty(layout).map_err(|source| OpenError::Io {
        doing: "read",
        path: dir.clone(),
        source,
    })?;
    let accept = shared.options.accept_damaged_logs;
    if !accept {
        refuse_damaged_log(&layout.catalogue())?;
    }
    header::verify(&layout.catalogue()).map_err(|error| open_error(layout, in_catalogue(error)))?;
    let found = match Catalogue::open(&layout.catalogue(), is_empty) {
        Err(CatalogueError::Version(format)) if convert::OLD_FORMATS.contains(&format) => {
            convert::directory(layout, format, accept)?
        }
        found => found,
    };
    let catalogue = match found {
        Ok(catalogue) => catalogue,
        Err(CatalogueError::Version(found)) => {
            return Err(OpenError::UnknownVersion {
                dir,
                found,
                supported: FORMAT,
            });
        }
        Err(CatalogueError::Foreign) => {
            let what = "catalogue.sqlite is not a kjob catalogue".to_owned();
            return Err(OpenError::Corrupt { dir, what });
        }
        // Without it nobody knows which files are in use, and left-over ones are deleted.
        Err(CatalogueError::Missing) => {
            let what = "catalogue.sqlite is missing or empty, but there are jobs".to_owned();
            return Err(OpenError::Corrupt { dir, what });
        }
        Err(CatalogueError::Store(error)) => return Err(open_error(layout, error)),
    };
    // Others belong to files that are being made, and need not be whole.
    for record in catalogue.segments().iter().filter(|_| !accept) {
        refuse_damaged_log(&layout.segment(record.number, record.generation))?;
    }
    read(shared, catalogue).map_err(|error| open_error(layout, error))
}

/// Before SQLite looks at it, and cuts it off.
pub(crate) fn refuse_damaged_log(database: &Path) -> Result<(), OpenError> {
    let path = layout::log_of(database);
    match log_file::verify(&path) {
        Ok(None) => Ok(()),
        Ok(Some(damage)) => Err(OpenError::DamagedLog {
            path,
            offset: damage.offset,
            what: damage.how,
        }),
        Err(source) => Err(OpenError::Io {
            doing: "read",
            path,
            source,
        }),
    }
}

/// Whether there are no segments and no blobs.
fn is_empty(layout: &Layout) -> io::Result<bool> {
    for dir in [layout.segments(), layout.blobs()] {
        if fs::read_dir(dir)?.next().transpose()?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn open_error(layout: &Layout, error: StoreError) -> OpenError {
    let dir = layout.root().to_owned();
    match error {
        StoreError::Corrupt { what } => OpenError::Corrupt { dir, what },
        source => OpenError::Store { dir, source },
    }
}

fn read(shared: &Shared, mut catalogue: Catalogue) -> Result<Opened, StoreError> {
    let layout = &shared.layout;
    let mut records = catalogue.segments();
    let rewritten = remove_left_over(layout, &records, catalogue.next_number())?;
    if records.is_empty() {
        // The catalogue's own entry: a directory with segments and without it counts as damaged.
        layout::sync_names(layout.root(), "make the catalogue")?;
        let (number, first_id) = (catalogue.next_number(), JobId::FIRST.get());
        segment::create(layout, number, 0)?;
        layout::sync_names(&layout.segments(), "begin a segment")?;
        catalogue.begin_segment(number, first_id)?;
        records = catalogue.segments();
    }
    let mut opened = Opened {
        catalogue,
        segments: BTreeMap::new(),
        connections: BTreeMap::new(),
        files_opened: 0,
        shared_tags: Vec::new(),
        rewritten,
    };
    let mut damaged = BTreeMap::new();
    for record in records {
        let number = record.number;
        let known = settled(&opened.catalogue, &record)?;
        let ledger = match known {
            Some(ledger) => ledger,
            None => {
                let (ledger, connection) = read_segment(shared, &mut opened, &record, &mut damaged)
                    .map_err(in_segment(number))?;
                opened.files_opened += 1;
                // Only the newest is certain to be written to.
                if !ledger.sealed {
                    opened.connections.insert(number, connection);
                }
                ledger
            }
        };
        for (owner, usage) in &ledger.usage {
            shared.count(owner, usage.jobs.cast_signed(), usage.bytes.cast_signed());
        }
        let next_id = ledger.first_id.max(ledger.max_id.saturating_add(1));
        opened.catalogue.skip_ids(next_id);
        opened.segments.insert(number, ledger);
    }
    shared.set_damaged(damaged);
    // The last who closed a file removed its log, perhaps one that ends with a commit that failed, as its sync did. Were
    // the log back once power is lost, so would be what was just found not to have happened.
    for dir in [layout.root(), layout.segments().as_path()] {
        layout::sync_names(dir, "open the store")?;
    }
    Ok(opened)
}

/// Deletes files that the catalogue does not name: of a segment that was about to begin, or to
/// go, when the process ended. Gives those that say that there may be packs left over as well, with their segments: they
/// are to go after these.
fn remove_left_over(
    layout: &Layout,
    records: &[SegmentRecord],
    next_number: u32,
) -> Result<BTreeMap<PathBuf, u32>, StoreError> {
    let doing = "remove left-over files";
    let mut rewritten = BTreeMap::new();
    let mut names = HashSet::new();
    for record in records {
        let path = layout.segment(record.number, record.generation);
        if !path.is_file() {
            let what = format!("the file of segment {} is missing", record.number);
            return Err(StoreError::Corrupt { what });
        }
        names.insert(path);
    }
    for entry in fs::read_dir(layout.segments()).map_err(file(doing))? {
        let path = entry.map_err(file(doing))?.path();
        let Some(database) = layout::database_of(&path) else {
            continue;
        };
        if names.contains(&database) {
            continue;
        }
        if database == path {
            refuse_unknown(&path, next_number)?;
        }
        // Also a log alone: whoever opened the database while it was being deleted made it anew.
        if database == path || !database.exists() {
            let number = Layout::parse_segment(&database).map(|(number, _)| number);
            match number.filter(|number| records.iter().any(|record| record.number == *number)) {
                Some(number) if !packs::numbers(&layout.blobs_of(number))?.is_empty() => {
                    rewritten.insert(database, number);
                }
                _ => layout::remove_database(&database).map_err(file(doing))?,
            }
        }
    }
    let numbers: HashSet<_> = records.iter().map(|r| layout.blobs_of(r.number)).collect();
    for entry in fs::read_dir(layout.blobs()).map_err(file(doing))? {
        let path = entry.map_err(file(doing))?.path();
        let is_ours = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
        if is_ours && !numbers.contains(&path) {
            ignore_missing(fs::remove_dir_all(&path)).map_err(file(doing))?;
        }
    }
    Ok(rewritten)
}

/// Fails if a file that is about to be deleted holds jobs of a segment that the catalogue has yet
/// to begin: then the catalogue is an old one, and the file is not left over.
fn refuse_unknown(path: &Path, next_number: u32) -> Result<(), StoreError> {
    let Some((name, number)) = path.file_name().and_then(|name| {
        let name = name.to_str()?;
        Some((name, name.split_once('-')?.0.parse::<u32>().ok()?))
    }) else {
        return Ok(());
    };
    if number < next_number {
        return Ok(());
    }
    // Also one of another format.
    let has_jobs = segment::connect(path, Access::Read).is_ok_and(|connection| {
        connection
            .query_row("SELECT EXISTS (SELECT 1 FROM jobs)", [], |row| row.get(0))
            .unwrap_or(false)
    });
    if has_jobs {
        let what = format!("{name} holds jobs, but catalogue.sqlite is older than that file");
        return Err(StoreError::Corrupt { what });
    }
    Ok(())
}

/// The ledger of a segment that has no live job, from the catalogue alone.
fn settled(catalogue: &Catalogue, record: &SegmentRecord) -> Result<Option<Ledger>, StoreError> {
    let mut ledger = new_ledger(record);
    let Some(summary) = catalogue.summary(record)? else {
        return Ok(None);
    };
    if summary::decode(&summary, &mut ledger).is_none() {
        return Ok(None);
    }
    ledger.summary_stored = true;
    let known = take_filter(catalogue, &mut ledger)?;
    Ok(known.then_some(ledger))
}

fn new_ledger(record: &SegmentRecord) -> Ledger {
    Ledger {
        generation: record.generation,
        sealed: record.sealed,
        ..Ledger::new(record.number, record.first_id)
    }
}

/// Takes the filter that the catalogue has, if it is that of the segment's tags as they are.
fn take_filter(catalogue: &Catalogue, ledger: &mut Ledger) -> Result<bool, StoreError> {
    let stored = catalogue.filter(ledger.number)?;
    let Some((filter, of)) = stored.as_deref().and_then(Filter::decode) else {
        return Ok(false);
    };
    if of != ledger.filter_of() {
        return Ok(false);
    }
    ledger.filter = Arc::new(filter);
    ledger.filter_stored = true;
    Ok(true)
}

fn read_segment(
    shared: &Shared,
    opened: &mut Opened,
    record: &SegmentRecord,
    damaged: &mut BTreeMap<JobId, String>,
) -> Result<(Ledger, Connection), StoreError> {
    let path = shared.layout.segment(record.number, record.generation);
    let access = if record.sealed {
        Access::Older
    } else {
        Access::Newest
    };
    header::verify(&path)?;
    let connection = segment::open(&path, access)?;
    let mut ledger = new_ledger(record);
    read_counts(&connection, &mut ledger)?;
    if !take_filter(&opened.catalogue, &mut ledger)? {
        let (filter, tags) =
            tags::scan(&connection, "tags").map_err(sql("read a segment's tags"))?;
        totals::same(record.number, "tags", tags, ledger.totals.tags)?;
        ledger.tags_whole.set_known();
        ledger.filter = Arc::new(filter);
    }
    let due = callback_row::due(&connection, record.number, ledger.totals.callbacks_due)?;
    {
        let mut queue = shared.callbacks();
        for (id, at) in due {
            queue.set(id, Some(at));
        }
    }
    let older = &opened.segments;
    let found = take_up::live(&connection, &mut ledger, |header| {
        let tag = SharedTag::of(header, record.number, older);
        opened.shared_tags.extend(tag);
    })?;
    shared.live_mut().extend(found.live);
    remove_orphans(shared, &connection, record.number, &found.damaged)?;
    let named = |(id, what)| (id, format!("segment {}: {what}", record.number));
    damaged.extend(found.damaged.into_iter().map(named));
    // What was read here counts as committed. A process that was killed may not have synced it yet,
    // and after a failed sync it may be in the system's memory only, where no later sync looks for
    // it. Copied from the log to the file, it is written and synced anew.
    segment::settle(&connection)?;
    Ok((ledger, connection))
}

fn read_counts(connection: &Connection, ledger: &mut Ledger) -> Result<(), StoreError> {
    let number = ledger.number;
    ledger.totals = Totals::read(connection, number)?;
    let (usage, sum) = counts::read_usage(connection, number)?;
    totals::same(number, "usage", sum, ledger.totals.usage)?;
    ledger.usage = usage;
    ledger.jobs = ledger.usage.values().map(|usage| usage.jobs).sum();
    let (expiries, sum) = counts::read_seconds(connection, number)?;
    totals::same(number, "expiry_seconds", sum, ledger.totals.expiry_seconds)?;
    ledger.expiries = expiries;
    let meta = Meta::read(connection, &format!("segment {number}"))?;
    ledger.low_water = meta.low_water;
    ledger.opened_at = meta.opened_at;
    let max_id = "SELECT coalesce(max(id), 0) FROM jobs";
    ledger.max_id = connection
        .query_row(max_id, [], |row| row.get(0))
        .map_err(sql("find a segment's last job"))?;
    Ok(())
}

/// Deletes blob files that no commit names.
fn remove_orphans(
    shared: &Shared,
    connection: &Connection,
    number: u32,
    damaged: &BTreeMap<JobId, String>,
) -> Result<(), StoreError> {
    let segment = Segment {
        connection,
        layout: &shared.layout,
        number,
    };
    let dir = shared.layout.blobs_of(number);
    // What a damaged row said of the file is unknown, so the file stays.
    blobs::prune(&dir, |name| {
        Ok(damaged.contains_key(&name.id) || segment.names_blob(name)?)
    })
}
