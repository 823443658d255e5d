//! Which records an error may name: those of the file that is damaged, and no others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kjob_core::{JobId, StoreError};
use kjob_store::embedded::OpenError;

/// Where the damage is.
#[derive(Clone, Debug)]
pub struct Place {
    file: PathBuf,
    kind: Kind,
    /// The one job whose bytes are damaged, if that is known.
    pub record: Option<JobId>,
    /// The segment of each job that the store has.
    segments: BTreeMap<JobId, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Catalogue,
    Segment(u32),
    Blob(u32),
    /// A file that no answer depends on.
    Other,
}

impl Place {
    /// Somewhere in this file of a store whose jobs are in these segments.
    pub fn of(file: &Path, segments: &BTreeMap<JobId, u32>) -> Self {
        let name = file.file_name().unwrap().to_string_lossy();
        let number = |text: &str| text.parse::<u32>().unwrap();
        let mut record = None;
        let parent = file.parent().unwrap();
        let kind = if name.starts_with("catalogue.sqlite") {
            Kind::Catalogue
        } else if parent == Path::new("segments") {
            Kind::Segment(number(name.split_once('-').unwrap().0))
        } else if parent.starts_with("blobs") {
            // A pack has the bytes of many.
            if !name.ends_with(".pack") {
                record = JobId::new(name.split_once('.').unwrap().0.parse().unwrap());
            }
            Kind::Blob(number(&parent.file_name().unwrap().to_string_lossy()))
        } else {
            Kind::Other
        };
        Self {
            file: file.to_owned(),
            kind,
            record,
            segments: segments.clone(),
        }
    }

    /// `None` for damage that is reported as that of this place; any other error is wrong. `asked` is
    /// the job that was asked for, if it was one.
    pub fn corrupt<T>(
        &self,
        asked: Option<JobId>,
        answer: Result<T, StoreError>,
    ) -> Result<Option<T>, String> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Corrupt { what }) => self.names(asked, &what).map(|()| None),
            Err(error) => Err(format!("an error that names nothing: {error}")),
        }
    }

    /// Whether the store may be refused with this.
    pub fn refused(&self, error: &OpenError) -> Result<(), String> {
        match error {
            OpenError::Corrupt { what, .. } => self.names(None, what),
            OpenError::DamagedLog { path, .. } if path.ends_with(&self.file) => Ok(()),
            OpenError::UnknownVersion { .. } if self.kind == Kind::Catalogue => Ok(()),
            error => Err(format!("an error that names nothing: {error} {error:?}")),
        }
    }

    /// Whether a message names what is damaged, and nothing that is not.
    pub fn names(&self, asked: Option<JobId>, what: &str) -> Result<(), String> {
        let named = Named::by(what);
        let wrong = |why: &str| Err(format!("an error that {why}: {what}"));
        let at = match self.kind {
            Kind::Segment(number) | Kind::Blob(number) => Some(number),
            Kind::Catalogue | Kind::Other => None,
        };
        // The catalogue has rows of segments.
        let is_other = |number: &&u32| at.is_some_and(|at| at != **number);
        if let Some(other) = named.segments.iter().find(is_other) {
            return wrong(&format!("names segment {other}"));
        }
        let known = named.jobs.iter().filter_map(|id| {
            let segment = self.segments.get(id)?;
            Some((*id, *segment))
        });
        let known: Vec<_> = known.collect();
        // Where the file is named, a number that was read in a wrong place of it may be any.
        let is_other = |(_, segment): &&(JobId, u32)| Some(*segment) != at;
        if let (true, Some((id, _))) = (named.segments.is_empty(), known.iter().find(is_other)) {
            return wrong(&format!("names job {id} of another segment"));
        }
        let other = |of: Option<JobId>| {
            let of = of?;
            known.iter().map(|(id, _)| *id).find(|id| *id != of)
        };
        if let Some(id) = other(self.record).or(other(asked)) {
            return wrong(&format!("names job {id}, which is another"));
        }
        let is_named = match self.kind {
            Kind::Catalogue => what.contains("catalogue"),
            Kind::Segment(_) => !named.segments.is_empty() || !known.is_empty(),
            Kind::Blob(_) => !known.is_empty(),
            Kind::Other => false,
        };
        if is_named {
            Ok(())
        } else {
            wrong("names nothing that is damaged")
        }
    }
}

/// What a message names.
#[derive(Debug, Default)]
struct Named {
    segments: Vec<u32>,
    jobs: Vec<JobId>,
}

impl Named {
    fn by(what: &str) -> Self {
        let mut named = Self::default();
        let numbers = |word: &'static str| {
            what.split(word).skip(1).filter_map(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_digit());
                rest[..end.unwrap_or(rest.len())].parse::<i64>().ok()
            })
        };
        // As the name of a file begins too.
        for word in ["segment ", "segment file "] {
            let found = numbers(word).filter_map(|number| u32::try_from(number).ok());
            named.segments.extend(found);
        }
        for word in ["job ", "blob file ", "that of id "] {
            named.jobs.extend(numbers(word).filter_map(JobId::new));
        }
        named
    }
}

#[test]
fn a_message_that_names_another_record_is_not_taken() {
    let id = |id| JobId::new(id).unwrap();
    let segments = BTreeMap::from([(id(1), 1), (id(2), 1), (id(9), 2)]);
    let place = |file: &str| Place::of(Path::new(file), &segments);
    let segment = place("segments/00000001-3.sqlite");
    let log = place("segments/00000001-3.sqlite-wal");
    let blob = place("blobs/00000001/2.0.result");
    let pack = place("blobs/00000001/2.pack");
    let catalogue = place("catalogue.sqlite");
    for (place, asked, what, is_right) in [
        (&segment, None, "segment 1: the row of job 1", true),
        (
            &pack,
            Some(1),
            "segment 1: the Result of job 1, 3 bytes",
            true,
        ),
        (
            &pack,
            Some(2),
            "segment 1: the Result of job 1, 3 bytes",
            false,
        ),
        (&pack, None, "the Result of job 9, 3 bytes", false),
        (&pack, None, "segment 1: a pack", false),
        (&log, None, "segment 1: the row of job 1", true),
        (&segment, Some(1), "the end of job 1 is out of reach", true),
        (&segment, Some(2), "the end of job 1 is out of reach", false),
        (&segment, None, "segment 2: its tables", false),
        (&segment, None, "the row of job 9", false),
        (&segment, None, "segment 1: the row of job 9", true),
        (
            &segment,
            None,
            "segment file 00000001-3.sqlite: it is that",
            true,
        ),
        (
            &segment,
            None,
            "segment file 00000002-0.sqlite: it is that",
            false,
        ),
        (&segment, None, "the row of job 77", false),
        (&segment, None, "catalogue.sqlite: the row of ids", false),
        (&segment, None, "database disk image is malformed", false),
        (
            &blob,
            None,
            "segment 1: blob file 2.0.result: missing",
            true,
        ),
        (
            &blob,
            None,
            "segment 1: blob file 1.0.result: missing",
            false,
        ),
        (&blob, None, "segment 1: its tables", false),
        (
            &catalogue,
            None,
            "catalogue.sqlite: the row of segment 1",
            true,
        ),
        (&catalogue, None, "segment 1: the row of job 1", false),
        (&catalogue, None, "catalogue.sqlite: the row of ids", true),
    ] {
        let named = place.names(asked.and_then(JobId::new), what);
        assert_eq!(named.is_ok(), is_right, "{place:?}: {what}: {named:?}");
    }
}
