//! Results in files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Writes beside the file first, so that whoever looks sees the old one or the new one, whole. What is no
/// file, such as /dev/null, is written to as it is.
///
/// # Errors
/// Those of the operating system, without the name of the file that was written first.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) if !target.is_file() => return File::create(target)?.write_all(bytes),
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let dir = match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        // As any program's new file, less what the umask says; or as the file was.
        let mode = fs::metadata(&target).map(|metadata| metadata.permissions().mode());
        options.mode(mode.unwrap_or(0o666));
    }
    // tempfile adds to errors the name of its file, which means nothing to anybody: they are taken before that.
    let mut said = None;
    let made = tempfile::Builder::new().make_in(dir, |path| {
        let opened = options.open(path);
        opened.inspect_err(|error| said = error.raw_os_error())
    });
    let mut file = made.map_err(|error| said.map_or(error, io::Error::from_raw_os_error))?;
    file.as_file_mut().write_all(bytes)?;
    file.persist(&target).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode_and_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result");
        replace(&path, b"first").unwrap();
        let mut old = File::open(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::{PermissionsExt, symlink};
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let link = dir.path().join("link");
            symlink(&path, &link).unwrap();
            replace(&link, b"second").unwrap();
            assert!(link.is_symlink());
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o640);
        }
        #[cfg(not(unix))]
        replace(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first", "who had it open sees no mixture");
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1 + usize::from(cfg!(unix)));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_written_to_and_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::read(pipe).unwrap())
        };
        replace(&pipe, b"through").unwrap();
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(reader.join().unwrap(), b"through");
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = replace(&dir.path().join("no/such"), b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        // It told the name of the file that is written first.
        assert_eq!(error.raw_os_error(), Some(2), "{error}");
    }
}
