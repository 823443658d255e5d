//! Which steps a store began and ended: what was under way when its process was killed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

/// A kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A job is stored.
    Submit,
    /// A job is started, by itself or with its submit.
    Start,
    /// A report of progress is stored.
    Progress,
    /// A run is ended.
    Finish,
    /// A cancel is stored.
    Cancel,
    /// A try of a callback is noted.
    Callback,
    /// Space of expired jobs is given back: segments are sealed, dropped, rewritten.
    Expire,
    /// A block of ids is set aside.
    Reserve,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 8] = [
        Step::Submit,
        Step::Start,
        Step::Progress,
        Step::Finish,
        Step::Cancel,
        Step::Callback,
        Step::Expire,
        Step::Reserve,
    ];

    /// Those that a trial must have killed a server in.
    pub const REQUIRED: [Step; 7] = [
        Step::Submit,
        Step::Start,
        Step::Finish,
        Step::Cancel,
        Step::Callback,
        Step::Expire,
        Step::Reserve,
    ];

    fn letter(self) -> u8 {
        match self {
            Step::Submit => b's',
            Step::Start => b't',
            Step::Progress => b'p',
            Step::Finish => b'f',
            Step::Cancel => b'c',
            Step::Callback => b'n',
            Step::Expire => b'x',
            Step::Reserve => b'r',
        }
    }

    fn of_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.letter() == letter)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::Submit => "submit",
            Step::Start => "start",
            Step::Progress => "progress",
            Step::Finish => "finish",
            Step::Cancel => "cancel",
            Step::Callback => "callback",
            Step::Expire => "expire",
            Step::Reserve => "reserve",
        })
    }
}

/// Where a store's steps are marked.
#[derive(Debug)]
pub struct Writer {
    file: File,
    next: AtomicU64,
}

impl Writer {
    /// Makes the file anew.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            file: File::create(path).with_context(|| path.display().to_string())?,
            next: AtomicU64::new(0),
        })
    }

    /// Marks the beginning of a step; its end is marked when what is given back is dropped.
    pub fn begin(&self, step: Step) -> Mark<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.write(b'+', step, number);
        Mark {
            writer: self,
            step,
            number,
        }
    }

    fn write(&self, sign: u8, step: Step, number: u64) {
        let line = format!("{}{}{number}\n", sign as char, step.letter() as char);
        // A mark that cannot be written is one step less that is counted.
        let _ = (&self.file).write_all(line.as_bytes());
    }
}

/// A step under way.
#[derive(Debug)]
pub struct Mark<'a> {
    writer: &'a Writer,
    step: Step,
    number: u64,
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.writer.write(b'-', self.step, self.number);
    }
}

/// Reads the marks of a process, while it lives and after.
#[derive(Debug)]
pub struct Reader {
    file: File,
    rest: Vec<u8>,
    open: BTreeMap<u64, Step>,
}

impl Reader {
    /// Reads this file from its beginning.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            file: File::open(path).with_context(|| path.display().to_string())?,
            rest: Vec::new(),
            open: BTreeMap::new(),
        })
    }

    /// How many steps of each kind have begun and not ended, by what is written so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn under_way(&mut self) -> Result<BTreeMap<Step, u64>> {
        self.file.read_to_end(&mut self.rest)?;
        let end = self.rest.iter().rposition(|byte| *byte == b'\n');
        let whole: Vec<u8> = self.rest.drain(..end.map_or(0, |at| at + 1)).collect();
        for line in whole.split(|byte| *byte == b'\n') {
            let [sign, letter, number @ ..] = line else {
                continue;
            };
            let number = std::str::from_utf8(number)
                .ok()
                .and_then(|text| text.parse().ok());
            let (Some(step), Some(number)) = (Step::of_letter(*letter), number) else {
                continue;
            };
            match sign {
                b'+' => drop(self.open.insert(number, step)),
                _ => drop(self.open.remove(&number)),
            }
        }
        let mut counts = BTreeMap::new();
        for step in self.open.values() {
            *counts.entry(*step).or_default() += 1;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_and_not_ended_is_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let writer = Writer::create(&path).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let one = writer.begin(Step::Submit);
        let two = writer.begin(Step::Submit);
        let three = writer.begin(Step::Expire);
        let counts = reader.under_way().unwrap();
        assert_eq!(
            counts,
            BTreeMap::from([(Step::Submit, 2), (Step::Expire, 1)])
        );
        drop((one, three));
        let counts = reader.under_way().unwrap();
        assert_eq!(counts, BTreeMap::from([(Step::Submit, 1)]));
        drop(two);
        assert!(reader.under_way().unwrap().is_empty());
    }

    #[test]
    fn each_step_has_a_letter_of_its_own() {
        for step in Step::ALL {
            assert_eq!(Step::of_letter(step.letter()), Some(step));
        }
    }
}
