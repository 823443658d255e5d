//! `kjob get`, `kjob wait` and `kjob result`.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use kjob_client::{Encoding, Job, JobKey, Payload, Status};

use super::args::{Get, Output, ResultOf, Wait};
use super::document::JobDocument;
use super::failure::{Exit, Failure};
use super::follow::follow;
use super::session::{Session, print, print_json, print_line, say};
use super::text::{shown, status, time_short};

/// Exits with 0 however the job stands: it was asked for, and is shown.
pub(crate) async fn get(session: &Session, args: Get) -> Result<Exit, Failure> {
    let key = args.job.job;
    let job = session.client.get(&key).await?;
    match session.is_json {
        true => print_json(&JobDocument::new(&key, &job))?,
        false => {
            for (name, value) in described(&key, &job) {
                print_line(&format!("{name:10}{value}"))?;
            }
        }
    }
    Ok(Exit::Done)
}

pub(crate) async fn wait(session: &Session, args: Wait) -> Result<Exit, Failure> {
    let key = args.job.job;
    let Some(job) = follow(session, &key, &args.patience, true).await? else {
        return Ok(Exit::Interrupted);
    };
    match session.is_json {
        true => print_json(&JobDocument::new(&key, &job))?,
        false => {
            print_line(&job.status.to_string())?;
            tell_why(&job);
        }
    }
    Ok(Exit::from(&job.status))
}

pub(crate) async fn result(session: &Session, args: ResultOf) -> Result<Exit, Failure> {
    let key = args.job.job;
    let is_patient = args.patience.timeout.is_some() || args.patience.cancel_on_interrupt;
    if !args.wait && is_patient {
        return Err(Failure::Usage("there is a wait to bound only with --wait"));
    }
    let job = match args.wait {
        true => follow(session, &key, &args.patience, false).await?,
        false => Some(session.client.get(&key).await?),
    };
    match job {
        Some(job) => hand_over(session, &key, job, &args.output).await,
        None => Ok(Exit::Interrupted),
    }
}

/// Prints what came of a job, or writes it to a file.
pub(crate) async fn hand_over(
    session: &Session,
    key: &JobKey,
    mut job: Job,
    output: &Output,
) -> Result<Exit, Failure> {
    if let (Some(wanted), Some(found)) = (output.result_encoding, &job.result)
        && found.encoding != Encoding::from(wanted)
    {
        job = session.client.get_in(key, wanted.into()).await?;
    }
    let exit = Exit::from(&job.status);
    let to_file = output
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    if let Some(path) = to_file
        && let Some(result) = job.result.take()
    {
        replace(path, &result.data).map_err(Failure::file(path))?;
    }
    if session.is_json {
        print_json(&JobDocument::new(key, &job))?;
        return Ok(exit);
    }
    match &job.result {
        Some(result) => print_result(result, output.output.is_some())?,
        None if job.status == Status::Running => say("the job has not ended; --wait waits for it"),
        None => tell_why(&job),
    }
    Ok(exit)
}

/// Why a job has no result, on stderr.
fn tell_why(job: &Job) {
    match &job.status {
        Status::Error => {
            let message = job.error_message.as_deref().unwrap_or("no message");
            say(&format!("the job failed: {}", shown(message)));
        }
        Status::Cancelled => say("the job was cancelled"),
        _ => {}
    }
}

/// The bytes as they are; on a terminal with a line's end, if they are a text.
fn print_result(result: &Payload, is_stdout_named: bool) -> Result<(), Failure> {
    let is_terminal = io::stdout().is_terminal();
    if result.encoding != Encoding::Json && is_terminal && !is_stdout_named {
        return Err(Failure::BinaryToTerminal);
    }
    print(&result.data)?;
    match is_terminal && result.encoding == Encoding::Json {
        true => print(b"\n"),
        false => Ok(()),
    }
}

/// Writes beside the file first, so that whoever looks sees the old one or the new one, whole. What is no
/// file, such as /dev/null, is written to as it is.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
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
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any program's new file, less what the umask says; or as the file was.
        let permissions = match fs::metadata(&target) {
            Ok(metadata) => metadata.permissions(),
            Err(_) => fs::Permissions::from_mode(0o666),
        };
        builder.permissions(permissions);
    }
    let mut file = builder.tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.persist(&target)?;
    Ok(())
}

fn described(key: &JobKey, job: &Job) -> Vec<(&'static str, String)> {
    let info = |name: &str| job.info.get(name).map(ToString::to_string);
    let at = |name: &str| time_short(info(name)?.parse().ok()?);
    let id = match key {
        JobKey::Id(id) => Some(*id),
        JobKey::Tag(_) => job.id(),
    };
    let result = job
        .result
        .as_ref()
        .map(|result| format!("{} bytes, {}", result.data.len(), result.encoding));
    [
        ("id", id.map(|id| id.to_string())),
        ("tag", job.tag().map(str::to_owned)),
        ("endpoint", Some(job.endpoint.to_string())),
        ("status", Some(status(&job.status, job.phase()))),
        ("progress", Some(format!("{} %", job.progress))),
        ("attempt", info("attempt")),
        ("error", job.error_message.as_ref().map(ToString::to_string)),
        ("result", result),
        ("received", at("time_received")),
        ("started", at("time_started")),
        ("ended", at("time_ended")),
        ("expires", at("time_expires")),
        ("query id", info("query_id")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
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

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = replace(&dir.path().join("no/such"), b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
