//! The data directory: whether it can be used, on what kind of file system it is, and the room there.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytesize::ByteSize;

use crate::file_mode::too_open;

use super::report::Finding;

/// Below this no store can begin: it keeps a reserve of 4 MiB, and a segment takes a little.
const ROOM_MIN: u64 = 16 << 20;

/// The directory itself, or the nearest one above it that is there: the others are made by the server.
pub(super) fn existing(dir: &Path) -> PathBuf {
    let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let found = whole.ancestors().find(|dir| dir.exists());
    found.map_or_else(|| whole.clone(), Path::to_owned)
}

/// `place` is what is there of it.
pub(super) fn usable(dir: &Path, place: &Path) -> Finding {
    let shown = dir.display();
    let expected = "a directory of the server's user, that nobody else can read";
    let finding = |found: String| Finding::new("data_dir", found, expected);
    let is_there = dir.exists();
    let metadata = match fs::metadata(place) {
        Ok(metadata) => metadata,
        Err(error) => return finding(format!("{shown}: {error}")).fail("set data_dir"),
    };
    if !metadata.is_dir() {
        let place = place.display();
        return finding(format!("{shown}: {place} is no directory"))
            .fail("set data_dir to a directory");
    }
    // It has no name where the file system can do that, and is removed at once where not.
    if let Err(error) = tempfile::tempfile_in(place) {
        let place = place.display();
        return finding(format!("{shown}: no file can be made in {place}: {error}"))
            .fail("let the server's user write there, or set data_dir");
    }
    if !is_there {
        let place = place.display();
        return finding(format!("{shown} is not there yet, and is made in {place}")).ok();
    }
    owned(finding, dir, &metadata)
}

/// Whether lines can be added to the audit log, which need not be there yet.
pub(super) fn audit_log(path: &Path) -> Finding {
    let expected = "a file that the server's user can write to";
    let tried = match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty());
            tempfile::tempfile_in(above.unwrap_or(Path::new("."))).map(|_| "can be made")
        }
        opened => opened.map(|_| "can be written to"),
    };
    let path = path.display();
    match tried {
        Ok(can) => Finding::new("audit_log", format!("{path} {can}"), expected).ok(),
        Err(error) => Finding::new("audit_log", format!("{path}: {error}"), expected)
            .fail("let the server's user write there, or set audit_log"),
    }
}

#[cfg(unix)]
fn owned(finding: impl Fn(String) -> Finding, dir: &Path, metadata: &Metadata) -> Finding {
    use std::os::unix::fs::MetadataExt;
    let (owner, user) = (metadata.uid(), rustix::process::geteuid());
    let mode = metadata.mode() & 0o777;
    let found = finding(format!(
        "{} is user {owner}'s, with mode {mode:03o}",
        dir.display()
    ));
    if too_open(metadata, 0o022).is_some() {
        return found.fail("others may change jobs: chmod 700 it");
    }
    if too_open(metadata, 0o055).is_some() {
        return found.warn("others may read payloads and results: chmod 700 it");
    }
    // Root looks at what is another's all the time, and may.
    if !user.is_root() && owner != user.as_raw() {
        let user = user.as_raw();
        return found.warn(format!(
            "you are user {user}: run this as the server's user"
        ));
    }
    found.ok()
}

#[cfg(not(unix))]
fn owned(finding: impl Fn(String) -> Finding, dir: &Path, _: &Metadata) -> Finding {
    finding(format!("{} can be written to", dir.display())).ok()
}

/// The kind of file system that a directory which is there is on.
#[cfg(target_os = "linux")]
pub(super) fn file_system(place: &Path) -> Option<Finding> {
    let place = place.canonicalize().ok()?;
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
    // Of several mounts in one place the last is what is seen.
    let mounts = mounts.0.into_iter();
    let on = mounts.filter(|mount| place.starts_with(&mount.mount_point));
    let mount = on.max_by_key(|mount| mount.mount_point.components().count())?;
    Some(judged(&mount.fs_type, &mount.mount_point))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn file_system(_: &Path) -> Option<Finding> {
    None
}

/// What a kind of file system means for a store.
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "other systems do not tell")
)]
fn judged(kind: &str, mounted: &Path) -> Finding {
    let found = format!("{kind}, mounted at {}", mounted.display());
    let finding = Finding::new("file_system", found, "one on a disk of this machine");
    let finding = finding.figure("kind", kind);
    let own = "give the data directory one on a disk of this machine (ext4, xfs and the like)";
    match kind {
        "tmpfs" | "ramfs" | "devtmpfs" | "rootfs" => {
            finding.warn(format!("it is in memory, and jobs are gone with the next boot: {own}"))
        }
        "overlay" | "aufs" => finding.warn(
            "a container's own layer goes with the container: mount a volume for the data directory",
        ),
        "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "9p" | "ceph" | "glusterfs" | "lustre" | "afs"
        | "fuse.sshfs" | "fuse.glusterfs" | "fuse.ceph" => finding.warn(format!(
            "it is another machine's: locks and syncs are only as good as that keeps them, and each sync \
             goes over the network: {own}"
        )),
        _ => finding.ok(),
    }
}

/// Whether what may be stored fits beside what is stored. `None` where the system does not tell.
#[cfg(unix)]
pub(super) fn room(dir: &Path, place: &Path, max_stored_bytes: u64) -> Option<Finding> {
    let found = rustix::fs::statvfs(place).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    Some(room_judged(free, stored(dir), max_stored_bytes))
}

#[cfg(not(unix))]
pub(super) fn room(_: &Path, _: &Path, _: u64) -> Option<Finding> {
    None
}

#[cfg_attr(not(unix), allow(dead_code, reason = "other systems do not tell"))]
fn room_judged(free: u64, stored: u64, max_stored_bytes: u64) -> Finding {
    let size = |bytes| ByteSize(bytes).to_string();
    let found = format!("{} are free, beside {} of jobs", size(free), size(stored));
    let needed = max_stored_bytes.saturating_sub(stored);
    let expected = format!(
        "{}, so that max_stored_bytes ({}) is reached before the disk is full",
        size(needed),
        size(max_stored_bytes)
    );
    let finding = Finding::new("disk_space", found, expected)
        .figure("free_bytes", free)
        .figure("stored_bytes", stored)
        .figure("max_stored_bytes", max_stored_bytes);
    if free < ROOM_MIN {
        let least = size(ROOM_MIN);
        return finding.fail(format!("make room: a store needs {least} to begin with"));
    }
    if free < needed {
        return finding.warn(
            "submits are refused once the disk is full, and whoever shares it is then without room too: \
             lower max_stored_bytes, or give a larger disk",
        );
    }
    finding.ok()
}

/// The bytes in files of a store. What cannot be read counts as nothing.
#[cfg_attr(not(unix), allow(dead_code, reason = "other systems do not tell"))]
fn stored(dir: &Path) -> u64 {
    let files = files(dir, DEPTH_MAX);
    files.iter().map(Metadata::len).fold(0, u64::saturating_add)
}

/// When something in a store was changed last.
pub(super) fn newest_change(dir: &Path) -> Option<SystemTime> {
    let files = files(dir, DEPTH_MAX);
    files.iter().filter_map(|file| file.modified().ok()).max()
}

/// Directories below a store's own: blobs, and those of each segment. There are no more.
const DEPTH_MAX: usize = 2;

fn files(dir: &Path, depth: usize) -> Vec<Metadata> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => found.push(metadata),
            Ok(metadata) if metadata.is_dir() && depth > 0 => {
                found.extend(files(&entry.path(), depth - 1));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn what_is_not_there_is_looked_for_above() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b/c");
        assert_eq!(existing(&below), dir.path());
        assert_eq!(existing(dir.path()), dir.path());
        assert_eq!(usable(&below, dir.path()).verdict(), Verdict::Ok);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "1234").unwrap();
        assert_eq!(
            usable(&file.join("a"), &existing(&file.join("a"))).verdict(),
            Verdict::Fail
        );
        assert_eq!(stored(dir.path()), 4);
        assert!(newest_change(dir.path()).is_some());
    }

    #[test]
    fn an_audit_log_is_there_or_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        assert_eq!(audit_log(&path).verdict(), Verdict::Ok);
        assert!(!path.exists());
        fs::write(&path, "a line\n").unwrap();
        assert_eq!(audit_log(&path).verdict(), Verdict::Ok);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a line\n");
        for path in [dir.path().to_owned(), dir.path().join("none/audit.log")] {
            assert_eq!(audit_log(&path).verdict(), Verdict::Fail, "{path:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn others_are_to_be_kept_out() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (mode, verdict) in [
            (0o700, Verdict::Ok),
            (0o750, Verdict::Warn),
            (0o755, Verdict::Warn),
            (0o770, Verdict::Fail),
            (0o707, Verdict::Fail),
        ] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let finding = usable(dir.path(), dir.path());
            assert_eq!(finding.verdict(), verdict, "{finding:?}");
        }
    }

    #[test]
    fn file_systems_of_memory_and_of_others_are_told() {
        for (kind, verdict) in [
            ("ext4", Verdict::Ok),
            ("xfs", Verdict::Ok),
            ("btrfs", Verdict::Ok),
            ("tmpfs", Verdict::Warn),
            ("nfs4", Verdict::Warn),
            ("overlay", Verdict::Warn),
        ] {
            assert_eq!(judged(kind, "/".as_ref()).verdict(), verdict, "{kind}");
        }
    }

    #[test]
    fn room_is_for_what_may_come_beside_what_is_there() {
        let gib = 1 << 30;
        for (free, stored, max, verdict) in [
            (64 * gib, 0, 64 * gib, Verdict::Ok),
            (64 * gib - 1, 0, 64 * gib, Verdict::Warn),
            (4 * gib, 60 * gib, 64 * gib, Verdict::Ok),
            (ROOM_MIN, gib, gib, Verdict::Ok),
            (ROOM_MIN - 1, gib, gib, Verdict::Fail),
        ] {
            let finding = room_judged(free, stored, max);
            assert_eq!(finding.verdict(), verdict, "{finding:?}");
        }
    }
}
