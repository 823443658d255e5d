//! The directory of a store: who has it, who may look into it, and what is none.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use kjob_store::embedded::OpenError;

use crate::trial::open;

const DIRECTORY: &str = "KJOB_TEST_DIRECTORY";

#[test]
fn a_directory_in_use_is_refused_with_the_process_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(
        matches!(&refused, OpenError::Locked { dir: named, pid: Some(pid) }
            if *pid == std::process::id() && named == dir.path()),
        "{refused:?}"
    );
    assert!(
        refused
            .to_string()
            .contains(&std::process::id().to_string())
    );
    drop(store);
    open(dir.path()).unwrap();
}

#[test]
fn a_directory_in_use_by_another_process_is_refused_until_that_one_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "directory::the_process_that_holds_a_directory",
        ])
        .env(DIRECTORY, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "open\n");
    let refused = open(dir.path()).unwrap_err();
    assert!(
        matches!(refused, OpenError::Locked { pid: Some(pid), .. } if pid == child.id()),
        "{refused:?}"
    );
    // Not asked to let go, and without the time to.
    child.kill().unwrap();
    child.wait().unwrap();
    open(dir.path()).unwrap();
}

#[test]
#[ignore = "started by the other test"]
fn the_process_that_holds_a_directory() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let _store = open(Path::new(&dir)).unwrap();
    std::io::stderr().write_all(b"open\n").unwrap();
    // Ends with the other process, if that one does not end it.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[cfg(unix)]
#[test]
fn a_directory_that_is_made_is_its_users_alone() {
    use std::os::unix::fs::PermissionsExt;

    let mode = |dir: &Path| fs::metadata(dir).unwrap().permissions().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("above").join("store");
    drop(open(&path).unwrap());
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
    // One that is there is as it was meant to be.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    drop(open(&path).unwrap());
    assert_eq!(mode(&path), 0o750);
}

#[test]
fn a_file_is_not_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"mine").unwrap();
    for path in [file.clone(), file.join("below")] {
        let refused = open(&path).unwrap_err();
        assert!(
            matches!(refused, OpenError::NotADirectory { .. }),
            "{refused:?}"
        );
    }
    assert_eq!(fs::read(file).unwrap(), b"mine");
}
