//! What people see: the bar, the table that stays, and results, drawn on a terminal.

use std::fs;

use crate::pty::Terminal;
use crate::support::{Server, kjob};

const ROWS: u16 = 24;

/// The percentages of bars in what is shown.
fn percent(shown: &str) -> Option<usize> {
    let before = shown.split(" %").next()?;
    (before.len() < shown.len()).then(|| before.rsplit(' ').next()?.parse().ok())?
}

#[test]
fn the_bar_rises_to_the_end_and_stays() {
    // On a machine that is busy for all of a short job, the middle of it is not seen.
    for millis in [1_500, 6_000, 24_000] {
        let server = Server::start();
        let data = format!(r#"{{"millis":{millis}}}"#);
        let submit = ["submit", "/demo/sleep", "--tag", "nap", "--wait", "--data"];
        let submit = server.kjob(submit.into_iter().chain([data.as_str()]));
        let (mut percents, mut widths, mut last) = (Vec::new(), Vec::new(), String::new());
        let code = Terminal::start(submit, ROWS).end(|shown| {
            if let Some(percent) = percent(shown) {
                percents.push(percent);
                widths.push(shown.matches('=').count());
            }
            shown.clone_into(&mut last);
        });
        assert_eq!(code, 0, "{last}");
        if !percents.iter().any(|percent| (1..100).contains(percent)) {
            continue;
        }
        assert!(percents.is_sorted(), "{percents:?}");
        assert!(widths.is_sorted(), "{widths:?}");
        let [bar, result] = &last.lines().collect::<Vec<_>>()[..] else {
            panic!("{last}")
        };
        let full = format!("job nap done       [{}] 100 % ", "=".repeat(30));
        assert!(bar.starts_with(&full), "{last}");
        let slept = format!(r#"{{"slept_millis":{millis},"#);
        assert!(result.starts_with(&slept), "{last}");
        return;
    }
    panic!("the bar never was between its ends");
}

#[test]
fn a_bar_gives_way_to_what_is_said() {
    let server = Server::start();
    server.sleeper("slow", 3_600_000);
    let mut terminal = Terminal::start(server.kjob(["wait", "slow"]), ROWS);
    terminal.wait_shown(|shown| shown.contains("job slow running    ["));
    terminal.interrupt();
    let mut last = String::new();
    assert_eq!(terminal.end(|shown| shown.clone_into(&mut last)), 130);
    assert_eq!(
        last,
        "kjob: the job goes on; kjob wait slow waits for it again"
    );
}

#[test]
fn a_job_that_has_ended_has_no_bar() {
    let server = Server::start();
    server.sleeper("nap", 1);
    server.done(["wait", "nap"]);
    let terminal = Terminal::start(server.kjob(["wait", "nap"]), ROWS);
    let mut last = String::new();
    assert_eq!(terminal.end(|shown| shown.clone_into(&mut last)), 0);
    assert_eq!(last, "DONE");
}

#[test]
fn a_watched_list_is_one_table_that_changes() {
    let server = Server::start();
    server.sleeper("first", 3_600_000);
    let mut terminal = Terminal::start(server.kjob(["list", "--watch", "20ms"]), ROWS);
    let is_table = |shown: &str, tags: &[&str]| {
        let lines: Vec<_> = shown.lines().collect();
        let [title, header, rows @ ..] = &lines[..] else {
            return false;
        };
        *title == format!("{} jobs, every 20ms", tags.len())
            && header.starts_with("ID  TAG")
            && rows.len() == tags.len()
            && rows.iter().zip(tags).all(|(row, tag)| row.contains(tag))
    };
    terminal.wait_shown(|shown| is_table(shown, &["first"]));
    server.sleeper("second", 3_600_000);
    terminal.wait_shown(|shown| is_table(shown, &["first", "second"]));
    server.done(["cancel", "first"]);
    terminal.wait_shown(|shown| is_table(shown, &["second"]));
    terminal.interrupt();
    assert_eq!(terminal.end(|_| ()), 130);
}

#[test]
fn a_watched_list_keeps_to_the_terminal() {
    let server = Server::start();
    for n in 1..=5 {
        server.sleeper(&format!("job-{n}"), 3_600_000);
    }
    let mut terminal = Terminal::start(server.kjob(["list", "--watch", "20ms"]), 6);
    terminal.wait_shown(|shown| {
        let lines: Vec<_> = shown.lines().collect();
        lines.len() == 5
            && lines[0] == "5 jobs, every 20ms, the first 2 not shown"
            && lines[1].starts_with("ID")
            && (3..=5)
                .zip(&lines[2..])
                .all(|(n, row)| row.contains(&format!("job-{n}")))
    });
    terminal.interrupt();
    assert_eq!(terminal.end(|_| ()), 130);
}

/// Text from a command came with the word that it was binary, and a hint that could not work.
#[test]
fn a_text_is_shown_and_what_acts_on_a_terminal_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    let route = |name: &str, text: &str| {
        format!(
            "[[route]]\nendpoint = '/tools/{name}'\nkind = 'command'\ncommand = ['printf', '{text}']\n"
        )
    };
    let routes = [
        route("text", r"one\ttwo\n"),
        route("open", "three"),
        route("clear", r"gone\033[2J"),
        route("over", r"one\rtwo"),
        route("bytes", r"\377"),
    ];
    fs::write(&config, routes.concat()).unwrap();
    let server = Server::with(&["--config", config.to_str().unwrap()]);
    let on_terminal = |arguments: &[&str]| {
        let mut command = kjob(arguments.iter().copied());
        command.env("KJOB_URL", &server.url);
        let (terminal, mut last) = (Terminal::start(command, ROWS), String::new());
        let code = terminal.end(|shown| shown.clone_into(&mut last));
        (code, last)
    };
    for (name, shown) in [("text", "one     two"), ("open", "three")] {
        let endpoint = format!("/tools/{name}");
        server.done(["submit", &endpoint, "--tag", name, "--wait"]);
        let told = on_terminal(&["result", name]);
        assert_eq!(told, (0, shown.to_owned()), "{name}");
    }
    for name in ["clear", "over", "bytes"] {
        let endpoint = format!("/tools/{name}");
        let file = dir.path().join(name);
        let wait = ["submit", &endpoint, "--tag", name, "--wait", "-o"];
        server.done(wait.into_iter().chain(file.to_str()));
        let (code, told) = on_terminal(&["result", name]);
        let expected =
            "kjob: a binary result is not shown on a terminal, which it might act on: use -o FILE";
        assert_eq!((code, told.as_str()), (1, expected), "{name}");
    }
    // Whoever names the terminal means it.
    let (code, told) = on_terminal(&["result", "clear", "-o", "-"]);
    assert_eq!((code, told.trim()), (0, ""));
}
