//! The moving picture of the README: a real session in a terminal, drawn as an SVG.

mod screen;
mod svg;

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::build;
use crate::metadata::Workspace;
use crate::process;

use screen::Screen;
use svg::Frame;

/// Where the picture is.
const PICTURE: &str = "docs/session.svg";

/// What is shown: a command, and how it is run here. Most are run as they are shown.
const SESSION: [(&str, Option<&str>); 7] = [
    (
        "kjob-server 2> server.log &",
        Some("kjob-server 2> server.log & until kjob status > status.log 2>&1; do sleep 0.1; done"),
    ),
    (
        "kjob submit /demo/primes --tag primes --data '{\"limit\": 3000000000}'",
        None,
    ),
    ("kjob wait primes", None),
    ("kjob result primes", None),
    // What bash says of it depends on how it was started.
    ("kill -9 %1", Some("{ kill -9 %1; wait %1; } 2> kill.log")),
    (
        "kjob-server 2> server.log &",
        Some("kjob-server 2> server.log & until kjob status > status.log 2>&1; do sleep 0.1; done"),
    ),
    ("kjob result primes", None),
];

/// Stands before a command in what the session prints.
const PROMPT: char = '\u{1}';

/// How long a word of a command takes to be typed, and how long one looks before the next.
const WORD: Duration = Duration::from_millis(220);
const LOOK: Duration = Duration::from_millis(900);

/// How often the picture may change while a command prints.
const FRAME_MIN: Duration = Duration::from_millis(200);

/// `cargo xtask picture`: plays the session, and draws what the terminal showed.
pub(crate) fn draw(workspace: &Workspace) -> Result<()> {
    let programs = build::both_programs(false)?;
    let home = workspace.target.join("picture");
    process::empty_dir(&home)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    fs::write(home.join("session.sh"), script(port))?;
    let frames = play(&home, &programs, &port.to_string())?;
    let picture = svg::draw(&frames);
    println!(
        "{PICTURE}: {} frames, {} bytes",
        frames.len(),
        picture.len()
    );
    fs::write(workspace.root.join(PICTURE), picture)?;
    Ok(())
}

fn script(port: u16) -> String {
    let mut script = format!(
        "stty cols {} rows 40\nexport KJOB_LISTEN=127.0.0.1:{port} KJOB_URL=http://127.0.0.1:{port}\n\
        trap 'kill -9 $(jobs -p)' EXIT\n",
        screen::COLUMNS
    );
    for (shown, run) in SESSION {
        let run = run.unwrap_or(shown);
        script.push_str(&format!("printf '\\001%s\\n' {}\n{run}\n", quoted(shown)));
    }
    // Nothing that the end brings is to be seen.
    script.push_str("exec > end.log 2>&1\n");
    script
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Runs it on a terminal: `script` makes one.
fn play(home: &Path, programs: &Path, port: &str) -> Result<Vec<Frame>> {
    let mut command = Command::new("script");
    command
        .args(["-qefc", "bash --noprofile --norc session.sh", "end.txt"])
        .current_dir(home)
        .env_clear()
        .env("PATH", process::path_with(programs)?)
        .env("HOME", home)
        .env("TERM", "xterm")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut session = command
        .spawn()
        .context("could not start script (Debian: apt install bsdutils)")?;
    let mut output = session.stdout.take().context("its output")?;
    let begin = Instant::now();
    let (mut film, mut bytes) = (Film::default(), vec![0; 4096]);
    let mut pending = Vec::new();
    loop {
        let count = output.read(&mut bytes)?;
        if count == 0 {
            break;
        }
        pending.extend_from_slice(&bytes[..count]);
        // A letter may come in two parts.
        let whole = match std::str::from_utf8(&pending) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = pending.split_off(whole);
        let text = String::from_utf8_lossy(&pending).replace(port, "9191");
        film.take(&text, begin.elapsed());
        pending = rest;
    }
    if !session.wait()?.success() {
        bail!("{} failed", process::shown(&command));
    }
    Ok(film.end())
}

/// Frames as they come.
#[derive(Default)]
struct Film {
    screen: Screen,
    frames: Vec<Frame>,
    /// The time that typing and looking take, which the session did not.
    added: Duration,
    /// The command that is being read, if one is.
    command: Option<String>,
}

impl Film {
    fn take(&mut self, text: &str, now: Duration) {
        for letter in text.chars() {
            match (&mut self.command, letter) {
                (None, PROMPT) => self.command = Some(String::new()),
                (Some(command), '\n') => {
                    let command = std::mem::take(command);
                    self.command = None;
                    self.typed(command.trim_end(), now);
                }
                (Some(command), letter) => command.push(letter),
                (None, letter) => self.screen.write(letter),
            }
        }
        let at = now + self.added;
        let is_due = self
            .frames
            .last()
            .is_none_or(|last| at >= last.at + FRAME_MIN);
        if is_due && self.command.is_none() {
            self.frame(at);
        }
    }

    fn typed(&mut self, command: &str, now: Duration) {
        self.frame(now + self.added);
        self.added += LOOK;
        self.screen.write_all("$ ");
        for word in command.split_inclusive(' ') {
            self.screen.write_all(word);
            self.added += WORD;
            self.frame(now + self.added);
        }
        self.screen.write_all("\r\n");
    }

    fn frame(&mut self, at: Duration) {
        let rows = self.screen.rows();
        if self.frames.last().is_none_or(|last| last.rows != rows) {
            self.frames.push(Frame { at, rows });
        }
    }

    fn end(mut self) -> Vec<Frame> {
        let last = self.frames.last().map_or(Duration::ZERO, |last| last.at);
        self.frame(last + FRAME_MIN);
        self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_typed_word_by_word_and_take_their_time() {
        let mut film = Film::default();
        film.take("\u{1}a 'b c'\r\nout\r\n", Duration::from_secs(1));
        let frames = film.end();
        let last = frames.last().unwrap();
        assert_eq!(last.rows, ["$ a 'b c'", "out"]);
        let firsts: Vec<_> = frames.iter().map(|frame| frame.rows.join("|")).collect();
        assert_eq!(firsts[..4], ["", "$ a", "$ a 'b", "$ a 'b c'"]);
        assert!(last.at >= Duration::from_secs(1) + LOOK + 3 * WORD);
    }

    #[test]
    fn what_is_shown_reaches_bash_as_it_is() {
        assert_eq!(quoted("a 'b'"), "'a '\\''b'\\'''");
        assert!(script(4711).contains("KJOB_URL=http://127.0.0.1:4711"));
    }
}
