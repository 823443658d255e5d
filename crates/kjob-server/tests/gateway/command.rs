//! `kind = "command"`: real processes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kjob_core::engine::{Caller, JobKey};
use kjob_core::{Ending, Owner, Payload};
use kjob_proto::Encoding;
use kjob_server::gateway::{CommandRoute, OutputForm, Route, RouteKind};

use crate::support::{Bed, in_time, json};

fn route(command: &[&str], change: impl FnOnce(&mut CommandRoute)) -> Route {
    let command = command.iter().map(|text| (*text).to_owned()).collect();
    let mut route = CommandRoute::new(command);
    change(&mut route);
    Route::new("/run", RouteKind::Command(route))
}

fn shell(script: &str) -> Route {
    route(&["sh", "-c", script], |_| {})
}

/// Whether a process is there, and is no zombie.
fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with('Z'))
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(what, wait).await;
}

async fn written(path: &Path) -> String {
    until("a file that is written", || {
        fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn the_payload_goes_in_and_the_output_comes_out() {
    let bed = Bed::with(&[route(&["cat"], |_| {})]).await;
    let large = Payload::binary(vec![7; 3_000_000]);
    assert_eq!(bed.done("/run", large.clone()).await, large);
    let text = json("{\"a\": [1, 2]}");
    assert_eq!(bed.done("/run", text.clone()).await, text);
    let bed = Bed::with(&[route(&["wc", "-c"], |_| {})]).await;
    let result = bed.done("/run", json("\"x\"")).await;
    assert_eq!(
        (result.encoding, &result.data[..]),
        (Encoding::Json, &b"3\n"[..])
    );
}

#[tokio::test]
async fn arguments_are_no_shells_words() {
    let arguments = ["printf", "%s|", "a b", "$HOME", "*", "`id`", ";", "--", ""];
    let bed = Bed::with(&[route(&arguments, |_| {})]).await;
    let result = bed.done("/run", Payload::binary("")).await;
    assert_eq!(result.data, "a b|$HOME|*|`id`|;|--||");
}

#[tokio::test]
async fn output_is_what_the_route_says() {
    let of = |output| route(&["echo", "hello"], |command| command.output = output);
    let bed = Bed::with(&[of(OutputForm::Auto)]).await;
    let result = bed.done("/run", json("{}")).await;
    assert_eq!(
        (result.encoding, &result.data[..]),
        (Encoding::Binary, &b"hello\n"[..])
    );
    let bed = Bed::with(&[of(OutputForm::Json)]).await;
    let message = bed.failed("/run", json("{}")).await;
    assert_eq!(message, "the command's output is not JSON");
    let number = route(&["echo", "7"], |command| command.output = OutputForm::Json);
    let bed = Bed::with(&[number]).await;
    let result = bed.done("/run", Payload::binary("")).await;
    assert_eq!(result.encoding, Encoding::Json);
}

#[tokio::test]
async fn the_environment_is_what_it_is_told_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let route = route(&["sh", "-c", "env; echo DIR=$(pwd)"], |command| {
        command.env = vec![("OWN".into(), "a b".into())];
        command.directory = Some(dir.path().to_owned());
    });
    let bed = Bed::with(&[route]).await;
    let id = bed.submit("/run", Payload::binary("")).await;
    let job = bed.ended(id).await;
    let Some(Ending::Done(result)) = job.ending else {
        panic!("{job:?}");
    };
    let text = String::from_utf8(result.payload.data.to_vec()).unwrap();
    let of_shell = ["PWD", "SHLVL", "_", "OLDPWD"];
    let expected = [
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "OWN",
        "DIR",
        "TRACEPARENT",
        "KJOB_JOB_ID",
        "KJOB_JOB_TAG",
        "KJOB_ENDPOINT",
        "KJOB_QUERY_ID",
        "KJOB_ATTEMPT",
        "KJOB_ENCODING",
    ];
    for line in text.lines() {
        let (name, _) = line.split_once('=').unwrap();
        assert!(
            expected.contains(&name) || of_shell.contains(&name),
            "{line}"
        );
    }
    for line in [
        format!("KJOB_JOB_ID={id}"),
        format!("KJOB_JOB_TAG={}", job.header.tag),
        format!("KJOB_QUERY_ID={}", job.header.query_id),
        "KJOB_ENDPOINT=/run".to_owned(),
        "KJOB_ATTEMPT=1".to_owned(),
        "KJOB_ENCODING=binary".to_owned(),
        "OWN=a b".to_owned(),
        format!("DIR={}", dir.path().canonicalize().unwrap().display()),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    }
}

#[tokio::test]
async fn the_error_output_has_progress_and_what_went_wrong() {
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    let script = format!(
        "echo progress: 42 >&2; until [ -e {} ]; do sleep 0.01; done; echo oh >&2; printf 'no\\033[2J' >&2; exit 3",
        open.display()
    );
    let bed = Bed::with(&[shell(&script)]).await;
    let id = bed.submit("/run", Payload::binary("")).await;
    let progress = async {
        let caller = Caller::user(Owner::new("ann"));
        loop {
            let job = bed.engine.get(&caller, &JobKey::Id(id)).await.unwrap();
            if job.unwrap().state.progress == 42 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time("progress", progress).await;
    fs::write(open, "").unwrap();
    let message = bed.failure(id).await;
    assert_eq!(
        message,
        "the command ended with exit code 3: oh\nno\\u{1b}[2J"
    );
}

#[tokio::test]
async fn ends_of_other_kinds_are_told() {
    let bed = Bed::with(&[shell("kill -9 $$")]).await;
    let message = bed.failed("/run", Payload::binary("")).await;
    assert_eq!(message, "the command ended with signal 9");
    let bed = Bed::with(&[route(&["no-such-program"], |_| {})]).await;
    let message = bed.failed("/run", Payload::binary("")).await;
    let told =
        "the command ended with exit code 127: cannot be started: no-such-program: No such file";
    assert!(message.starts_with(told), "{message}");
    let nowhere = route(&["true"], |command| {
        command.directory = Some("/no/such".into())
    });
    let bed = Bed::with(&[nowhere]).await;
    let message = bed.failed("/run", Payload::binary("")).await;
    assert!(
        message.starts_with("the command cannot be started: "),
        "{message}"
    );
}

#[tokio::test]
async fn one_that_asks_for_another_try_gets_it_on_a_retry_route() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "if [ $KJOB_ATTEMPT = 3 ]; then echo done; else echo $KJOB_ATTEMPT >> {}/tries; exit 75; fi",
        dir.path().display()
    );
    let mut again = shell(&script);
    again.options = again.options.retry(5);
    let bed = Bed::with(&[again]).await;
    assert_eq!(bed.done("/run", Payload::binary("")).await.data, "done\n");
    let tries = fs::read_to_string(dir.path().join("tries")).unwrap();
    assert_eq!(tries, "1\n2\n");
    let bed = Bed::with(&[shell(&script)]).await;
    let message = bed.failed("/run", Payload::binary("")).await;
    assert_eq!(message, "the command ended with exit code 75");
}

#[tokio::test]
async fn one_that_takes_no_input_or_closes_its_output_ends_as_it_does() {
    let large = || Payload::binary(vec![7; 3_000_000]);
    let bed = Bed::with(&[shell("echo hello")]).await;
    assert_eq!(bed.done("/run", large()).await.data, "hello\n");
    let bed = Bed::with(&[shell("exec >&- 2>&-; sleep 0.1; exit 5")]).await;
    let message = bed.failed("/run", large()).await;
    assert_eq!(message, "the command ended with exit code 5");
}

#[tokio::test]
async fn too_much_output_ends_the_command() {
    let mut yes = shell("yes; sleep 1000");
    yes.max_result = Some(100_000);
    let bed = Bed::with(&[yes]).await;
    let message = bed.failed("/run", Payload::binary("")).await;
    assert_eq!(
        message,
        "result too large: more than the limit of 100000 bytes"
    );
}

#[tokio::test]
async fn limits_hold() {
    let bed = Bed::with(&[route(
        &["sh", "-c", "ulimit -n; ulimit -c; ulimit -t"],
        |_| {},
    )])
    .await;
    let result = bed.done("/run", Payload::binary("")).await;
    assert_eq!(result.data, "1024\n0\nunlimited\n");
    let spin = route(&["sh", "-c", "while :; do :; done"], |command| {
        command.limits.cpu_seconds = Some(1);
    });
    let bed = Bed::with(&[spin]).await;
    let message = bed.failed("/run", Payload::binary("")).await;
    assert!(
        message.starts_with("the command ended with signal "),
        "{message}"
    );
    let dir = tempfile::tempdir().unwrap();
    let write = route(&["sh", "-c", "head -c 5000 /dev/zero > file"], |command| {
        command.limits.file_size = Some(1000);
        command.directory = Some(dir.path().to_owned());
    });
    let bed = Bed::with(&[write]).await;
    bed.failed("/run", Payload::binary("")).await;
    assert_eq!(fs::metadata(dir.path().join("file")).unwrap().len(), 1000);
}

/// A leader with a child, whose ids are written to a file; `trap` is what they do on SIGTERM.
fn family(dir: &Path, trap: &str) -> Route {
    let script = format!(
        "trap {trap} TERM; sh -c 'trap {trap} TERM; while :; do sleep 0.05; done' & echo $$ $! > {}/pids; while :; do sleep 0.05; done",
        dir.display()
    );
    shell(&script)
}

#[tokio::test]
async fn a_cancel_asks_the_whole_group_to_end_and_then_makes_it() {
    for trap in ["\"exit 0\"", "\"\""] {
        let dir = tempfile::tempdir().unwrap();
        let bed = Bed::configured(&[family(dir.path(), trap)], |config| {
            config.stop_grace = Duration::from_millis(500);
        })
        .await;
        let id = bed.submit("/run", Payload::binary("")).await;
        let pids = written(&dir.path().join("pids")).await;
        assert!(pids.split_whitespace().all(is_alive), "{pids}");
        bed.cancel(id).await;
        assert_eq!(bed.ended(id).await.ending, Some(Ending::Cancelled));
        until("the end of the group", || {
            !pids.split_whitespace().any(is_alive)
        })
        .await;
    }
}

#[tokio::test]
async fn a_deadline_and_a_shutdown_end_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let mut route = family(dir.path(), "\"exit 0\"");
    route.options = route.options.timeout(Duration::from_secs(1));
    let bed = Bed::with(&[route]).await;
    let message = bed.failed("/run", Payload::binary("")).await;
    assert_eq!(message, "deadline: not done within 1000 ms");
    let pids = fs::read_to_string(dir.path().join("pids")).unwrap();
    until("the end of the group", || {
        !pids.split_whitespace().any(is_alive)
    })
    .await;

    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::configured(&[family(dir.path(), "\"\"")], |config| {
        config.stop_grace = Duration::from_millis(100);
    })
    .await;
    bed.submit("/run", Payload::binary("")).await;
    let pids = written(&dir.path().join("pids")).await;
    bed.engine.shut_down(Duration::ZERO).await.unwrap();
    until("the end of the group", || {
        !pids.split_whitespace().any(is_alive)
    })
    .await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "sleep 1000 & echo $! > {}/pids; echo done",
        dir.path().display()
    );
    let bed = Bed::with(&[shell(&script)]).await;
    // The sleeper holds the output open, too.
    assert_eq!(bed.done("/run", Payload::binary("")).await.data, "done\n");
    let pids = fs::read_to_string(dir.path().join("pids")).unwrap();
    until("the end of the group", || !is_alive(&pids)).await;
}

/// A daemon that a command has started in a group of its own is not the command: its output is whole.
#[tokio::test]
async fn one_that_leaves_the_group_holds_up_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}; exec sleep 1000' & while ! [ -s {0} ]; do sleep 0.01; done; echo done",
        pids.display()
    );
    let bed = Bed::with(&[shell(&script)]).await;
    assert_eq!(bed.done("/run", Payload::binary("")).await.data, "done\n");
    let pid = fs::read_to_string(&pids).unwrap();
    assert!(is_alive(&pid), "it is nobody's to end");
    let id = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn one_that_is_stopped_ends_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "trap 'exit 0' TERM; echo $$ > {}/pids; kill -STOP $$; sleep 1000",
        dir.path().display()
    );
    let bed = Bed::configured(&[shell(&script)], |config| {
        config.stop_grace = Duration::from_secs(3600);
    })
    .await;
    let id = bed.submit("/run", Payload::binary("")).await;
    let pid = written(&dir.path().join("pids")).await;
    until("a stopped process", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.is_ok_and(|stat| stat.rsplit(") ").next().unwrap().starts_with('T'))
    })
    .await;
    bed.cancel(id).await;
    assert_eq!(bed.ended(id).await.ending, Some(Ending::Cancelled));
}
