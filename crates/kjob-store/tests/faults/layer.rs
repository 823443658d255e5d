//! The layer of layer.c under this process or another: built, put in place, and told what to do.
//!
//! Nothing here is `unsafe`: the layer maps its control file, and a test writes to that file.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "passed on from the other process"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIRECTORY: &str = "KJOB_FAULTS_DIRECTORY";
const CONTROL: &str = "KJOB_FAULTS_CONTROL";
const JOURNAL: &str = "KJOB_FAULTS_JOURNAL";

/// Words of the control file: the rule, then counts. The order of layer.c.
const RULE_WORDS: u64 = 8;
const PRETEND_TO_SYNC: u64 = 8;
const ROOM_IS_LIMITED: u64 = 9;
const ROOM: u64 = 10;
const ROOM_ERROR: u64 = 11;
const ROOM_MISSES: u64 = 12;
const CALLS: u64 = 16;
const INJECTED: u64 = 32;
const WORDS: usize = 64;

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// An open that makes a file.
    Create,
    Read,
    Write,
    Sync,
    SyncDirectory,
    Truncate,
    Rename,
    Unlink,
    MakeDirectory,
    RemoveDirectory,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::SyncDirectory,
        Self::Truncate,
        Self::Rename,
        Self::Unlink,
        Self::MakeDirectory,
        Self::RemoveDirectory,
    ];
}

/// What happens to a call that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Fault {
    /// Nothing is done, and the error told.
    Fail = 1,
    /// Half is done, and told so.
    Short = 2,
    /// Half is done, and the error told.
    Torn = 3,
}

/// Errors of the system, by their numbers in Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Errno {
    Interrupted = 4,
    Io = 5,
    NoSpace = 28,
    Quota = 122,
}

/// Which files.
pub const LOGS: u64 = 1;
pub const INDEXES: u64 = 2;
pub const DATABASES: u64 = 4;
pub const OTHERS: u64 = 8;
pub const ALL_FILES: u64 = 15;

/// Which calls are hit, and how.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    pub kinds: &'a [Kind],
    pub files: u64,
    /// Calls that pass first.
    pub skip: u64,
    /// Calls that are hit then.
    pub times: u64,
    pub fault: Fault,
    pub error: Errno,
}

/// The layer as a test sees it.
#[derive(Debug)]
pub struct Layer {
    control: File,
    /// What is watched.
    pub directory: PathBuf,
    pub journal: PathBuf,
}

impl Layer {
    /// Makes a layer's files in `home` for a directory in it, which is made too.
    pub fn make(home: &Path) -> Self {
        let directory = home.join("watched");
        fs::create_dir(&directory).unwrap();
        let control = home.join("control");
        let mut options = File::options();
        let control = options
            .create_new(true)
            .read(true)
            .write(true)
            .open(control);
        let control = control.unwrap();
        control.set_len(WORDS as u64 * 8).unwrap();
        Self {
            control,
            directory,
            journal: home.join("journal"),
        }
    }

    /// Puts the layer under a program that is to be started.
    pub fn put_under(&self, command: &mut Command, library: &Path, with_journal: bool) {
        let home = self.directory.parent().unwrap();
        command
            .env("LD_PRELOAD", library)
            .env(DIRECTORY, &self.directory)
            .env(CONTROL, home.join("control"));
        if with_journal {
            command.env(JOURNAL, &self.journal);
        }
    }

    /// The layer under this process, if there is one.
    fn here() -> Option<Self> {
        let directory = PathBuf::from(std::env::var_os(DIRECTORY)?);
        let control = std::env::var_os(CONTROL).unwrap();
        let control = File::options().read(true).write(true).open(control);
        let journal = directory.with_file_name("journal");
        Some(Self {
            control: control.unwrap(),
            directory,
            journal,
        })
    }

    /// Follows a rule from now on.
    pub fn follow(&self, rule: Rule<'_>) {
        self.obey();
        let kinds = rule
            .kinds
            .iter()
            .fold(0, |set, kind| set | 1 << *kind as u64);
        let words = [
            rule.files,
            rule.skip,
            rule.times,
            rule.fault as u64,
            rule.error as u64,
            0,
            0,
        ];
        for (word, value) in (1..RULE_WORDS).zip(words) {
            self.put(word, value);
        }
        // Last: from here on it counts.
        self.put(0, kinds);
    }

    /// Lets everything pass from now on.
    pub fn obey(&self) {
        self.put(0, 0);
    }

    /// Says that syncs are done without doing them: where the journal stands for the disk, or
    /// nobody takes its power away.
    pub fn pretend_to_sync(&self) {
        self.put(PRETEND_TO_SYNC, 1);
    }

    /// Lets files grow by so many bytes from now on, and by those that others give back.
    pub fn limit_room(&self, bytes: u64, error: Errno) {
        self.put(ROOM, bytes);
        self.put(ROOM_ERROR, error as u64);
        self.put(ROOM_IS_LIMITED, 1);
    }

    /// Lets files grow as they like.
    pub fn lift_limit(&self) {
        self.put(ROOM_IS_LIMITED, 0);
    }

    /// Writes that found no room.
    pub fn misses(&self) -> u64 {
        self.word(ROOM_MISSES)
    }

    /// Calls that the rule has hit.
    pub fn hits(&self) -> u64 {
        self.word(7)
    }

    /// Calls of a kind so far, whatever the rule.
    pub fn calls(&self, kind: Kind) -> u64 {
        self.word(CALLS + kind as u64)
    }

    /// And those of them that were hit.
    pub fn injected(&self, kind: Kind) -> u64 {
        self.word(INJECTED + kind as u64)
    }

    fn put(&self, word: u64, value: u64) {
        let written = self.control.write_all_at(&value.to_ne_bytes(), word * 8);
        written.unwrap();
    }

    fn word(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, word * 8).unwrap();
        u64::from_ne_bytes(bytes)
    }
}

/// Runs `test` in a process of its own that has the layer under it: this test program, started
/// anew for the test called `name`.
pub fn under_the_layer(name: &str, with_journal: bool, test: impl FnOnce(Layer)) {
    if let Some(layer) = Layer::here() {
        return test(layer);
    }
    let home = home();
    let library = build(home.path());
    let layer = Layer::make(home.path());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]);
    layer.put_under(&mut command, &library, with_journal);
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    println!("{out}");
    eprintln!("{err}");
    // A name that no test has would pass.
    let one = out.contains("test result: ok. 1 passed");
    assert!(output.status.success() && one, "{}", output.status);
}

/// A directory of its own, in memory where the system has such: what is synced does not matter.
fn home() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let home = tempfile::tempdir_in(memory);
    home.unwrap_or_else(|_| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

/// Compiles the layer into `home`, with the C compiler that the store's SQLite needs too.
pub fn build(home: &Path) -> PathBuf {
    // From each crate that has tests over it.
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = source.join("../kjob-store/tests/faults/layer.c");
    let library = home.join("layer.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(&compiler)
        .args([
            "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o",
        ])
        .args([&library, &source])
        .arg("-lpthread")
        .output()
        .unwrap_or_else(|error| panic!("the C compiler {}: {error}", compiler.display()));
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{said}");
    library
}
