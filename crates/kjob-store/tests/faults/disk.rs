//! What a disk may hold once power is lost, by the layer's journal.
//!
//! What was synced is there. Of what was written since, any pieces may be there, in any mixture; of
//! names made, moved and removed since their directory was synced, any may be. What a failed sync
//! was over is there or not, and no later sync helps it: the system has dropped it from its memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::work::Random;

/// A disk, at a moment of the journal.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: Vec<Stored>,
    /// Open files, by handle: a file, or a directory's path.
    open: BTreeMap<u64, Handle>,
    /// Names as they are, and as they are on the disk.
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Changes of names that are not durable, oldest first.
    pending: Vec<Change>,
    /// What is on the disk of that which a failed sync was over.
    failed: Luck,
}

#[derive(Clone, Debug, Default)]
struct Stored {
    bytes: Vec<u8>,
    pending: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    File(usize),
    Directory,
}

#[derive(Clone, Debug)]
enum Handle {
    File(usize),
    Directory(PathBuf),
}

#[derive(Clone, Debug)]
enum Change {
    Put(PathBuf, Node),
    Remove(PathBuf),
    /// Both or nothing.
    Move(PathBuf, PathBuf, Node),
}

/// How much of what was not synced got to the disk.
#[derive(Clone, Copy, Debug)]
pub enum Luck {
    None,
    All,
    /// Each piece of so many bytes, or not.
    Pieces(usize),
}

impl Default for Luck {
    /// Of the pieces of a disk.
    fn default() -> Self {
        Self::Pieces(512)
    }
}

/// One line of a journal, with the bytes that belong to it.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    words: Vec<&'a str>,
    rest: &'a str,
    data: &'a [u8],
    /// Where it ends in the journal.
    pub end: u64,
}

/// The records of a journal.
pub fn records(journal: &[u8]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    let mut at = 0;
    let line = |at: &mut usize| {
        let len = journal[*at..]
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap();
        let line = std::str::from_utf8(&journal[*at..*at + len]).unwrap();
        *at += len + 1;
        line
    };
    while at < journal.len() {
        let words: Vec<_> = line(&mut at).splitn(4, ' ').collect();
        let mut data: &[u8] = &[];
        let mut rest = "";
        match words[0] {
            "write" => {
                let len: usize = words[3].parse().unwrap();
                data = &journal[at..at + len];
                at += len;
            }
            "rename" => rest = line(&mut at),
            _ => {}
        }
        let end = at as u64;
        records.push(Record {
            words,
            rest,
            data,
            end,
        });
    }
    records
}

impl Disk {
    /// A new one, which holds so much of what failed syncs were over.
    pub fn new(failed: Luck) -> Self {
        Self {
            failed,
            ..Self::default()
        }
    }

    /// Takes in what happened next. `random` decides about what a failed sync was over.
    pub fn take(&mut self, record: &Record<'_>, random: &mut Random) {
        let number = |at: usize| -> usize { record.words[at].parse().unwrap() };
        let path = |at: usize| PathBuf::from(record.words[at]);
        match record.words[0] {
            "open" => self.open(number(1) as u64, record.words[2] == "1", path(3)),
            "write" => {
                let (at, data) = (number(2), record.data.to_vec());
                self.file(number(1)).pending.push(Piece::Bytes(at, data));
            }
            "truncate" => {
                let len = number(2);
                self.file(number(1)).pending.push(Piece::Length(len));
            }
            "sync" => match self.open[&(number(1) as u64)].clone() {
                Handle::File(file) => self.files[file].settle(Luck::All, random),
                Handle::Directory(path) => self.sync_names(&path),
            },
            "unsynced" => match self.open[&(number(1) as u64)].clone() {
                Handle::File(file) => self.files[file].settle(self.failed, random),
                Handle::Directory(_) => {}
            },
            "mkdir" => self.put(path(1), Node::Directory),
            "remove" => {
                self.names.remove(&path(1));
                self.pending.push(Change::Remove(path(1)));
            }
            "rename" => {
                let (from, to) = (path(1), PathBuf::from(record.rest));
                let node = self.names.remove(&from).unwrap();
                self.names.insert(to.clone(), node);
                self.pending.push(Change::Move(from, to, node));
            }
            other => panic!("the journal says {other}"),
        }
    }

    fn open(&mut self, handle: u64, is_new: bool, path: PathBuf) {
        if is_new {
            self.files.push(Stored::default());
            self.put(path.clone(), Node::File(self.files.len() - 1));
        }
        let handle_of = match self.names.get(&path) {
            Some(Node::File(file)) => Handle::File(*file),
            // The watched directory itself is not made under the layer.
            _ => Handle::Directory(path),
        };
        self.open.insert(handle, handle_of);
    }

    fn file(&mut self, handle: usize) -> &mut Stored {
        match &self.open[&(handle as u64)] {
            Handle::File(file) => &mut self.files[*file],
            Handle::Directory(path) => panic!("{} was written to", path.display()),
        }
    }

    fn put(&mut self, path: PathBuf, node: Node) {
        self.names.insert(path.clone(), node);
        self.pending.push(Change::Put(path, node));
    }

    fn sync_names(&mut self, directory: &Path) {
        let is_in = |path: &Path| path.parent() == Some(directory);
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Move(from, to, node) if is_in(&from) != is_in(&to) => {
                    // One side of it; the file may be under both names until the other is synced.
                    if is_in(&to) {
                        self.durable.insert(to, node);
                        left.push(Change::Remove(from));
                    } else {
                        left.push(Change::Move(from, to, node));
                    }
                }
                Change::Put(ref path, _)
                | Change::Remove(ref path)
                | Change::Move(_, ref path, _)
                    if is_in(path) =>
                {
                    change.apply(&mut self.durable);
                }
                other => left.push(other),
            }
        }
        self.pending = left;
    }

    /// Makes `target` what the directory `watched` may be once power is lost now.
    pub fn lose_power(&self, watched: &Path, target: &Path, luck: Luck, random: &mut Random) {
        let mut names = self.durable.clone();
        for change in &self.pending {
            if luck.has(random) {
                change.clone().apply(&mut names);
            }
        }
        fs::create_dir_all(target).unwrap();
        // A directory comes before what is in it; what is in one that was lost is lost.
        for (path, node) in names {
            let Ok(name) = path.strip_prefix(watched) else {
                continue;
            };
            let path = target.join(name);
            // The index of a log is memory, and made anew.
            if !path.parent().unwrap().is_dir() || path.to_string_lossy().ends_with("-shm") {
                continue;
            }
            match node {
                Node::Directory => fs::create_dir_all(path).unwrap(),
                Node::File(file) => {
                    let mut file = self.files[file].clone();
                    file.settle(luck, random);
                    fs::write(path, file.bytes).unwrap();
                }
            }
        }
    }
}

impl Luck {
    fn has(self, random: &mut Random) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Pieces(_) => random.one_in(2),
        }
    }
}

impl Stored {
    /// Puts what is pending on the disk, with so much luck.
    fn settle(&mut self, luck: Luck, random: &mut Random) {
        for piece in std::mem::take(&mut self.pending) {
            match piece {
                Piece::Length(len) if luck.has(random) => self.bytes.resize(len, 0),
                Piece::Length(_) => {}
                Piece::Bytes(at, data) => {
                    let size = match luck {
                        Luck::Pieces(size) => size,
                        _ => usize::MAX,
                    };
                    let mut from = 0;
                    while from < data.len() {
                        // Pieces of the disk, not of the write.
                        let to = (size - (at + from) % size).saturating_add(from);
                        let to = to.min(data.len());
                        if luck.has(random) {
                            let end = self.bytes.len().max(at + to);
                            self.bytes.resize(end, 0);
                            self.bytes[at + from..at + to].copy_from_slice(&data[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Put(path, node) => drop(names.insert(path, node)),
            Self::Remove(path) => drop(names.remove(&path)),
            Self::Move(from, to, node) => {
                names.remove(&from);
                names.insert(to, node);
            }
        }
    }
}
