//! One bash that commands of a page are run in, as a reader would run them.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::transcript;
use crate::process;

/// Ports that pages name. Others may use them on this machine, so each stands for one that is free.
const PORTS: [&str; 3] = ["9191", "9192", "8080"];

/// How long a command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(120);

/// What the shell says once a command is over.
const END: &str = "\u{1}end of the command:";

/// A bash in a directory of its own. All that it started ends when this is dropped.
pub(crate) struct Shell {
    bash: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    home: PathBuf,
    /// What pages say, and what is meant here.
    ports: Vec<(&'static str, String)>,
}

impl Shell {
    /// Starts it in an empty directory, which is made; it looks for programs in `programs` first. What it runs is
    /// of `page`.
    pub(crate) fn start(home: &Path, programs: &Path, page: &str) -> Result<Self> {
        process::empty_dir(home)?;
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc"])
            .current_dir(home)
            .env_clear()
            .env("PATH", process::path_with(programs)?)
            .env("HOME", home)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // A group of its own, so that all of it can be ended.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut bash = command.spawn().context("could not start bash")?;
        let mut input = bash.stdin.take().context("its input")?;
        let output = bash.stdout.take().context("its output")?;
        writeln!(input, "exec 2>&1")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let ports = free_ports(page)?;
        let mut shell = Self {
            bash,
            input,
            lines,
            home: home.to_owned(),
            ports,
        };
        // The defaults of our programs are such a port, too.
        let usual = "export KJOB_LISTEN=127.0.0.1:9191 KJOB_URL=http://127.0.0.1:9191";
        shell.run(usual)?;
        Ok(shell)
    }

    /// Runs a command to its end: what it printed, line by line, and its exit code.
    pub(crate) fn run(&mut self, command: &str) -> Result<(Vec<String>, i32)> {
        // From a file, so that nothing reads the commands that are to come from its input.
        let file = self.home.with_extension("command");
        fs::write(&file, self.here(command) + "\n")?;
        let file = file.display();
        // What the command left in `$?` is there for the next.
        writeln!(
            self.input,
            ". '{file}' </dev/null; code=$?; printf '\\n%s%s\\n' '{END}' $code; (exit $code)"
        )?;
        let until = Instant::now() + COMMAND_TIME_MAX;
        let mut printed = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(code) = line.strip_prefix(END) {
                        transcript::trim_end(&mut printed);
                        return Ok((printed, code.parse().context("an exit code")?));
                    }
                    if !is_notice(&line) {
                        printed.push(self.there(line.trim_end()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "not over after {COMMAND_TIME_MAX:?}; so far:\n{}",
                        printed.join("\n")
                    );
                }
                Err(RecvTimeoutError::Disconnected) => bail!("bash has ended"),
            }
        }
    }

    /// Writes a file that the page shows.
    pub(crate) fn write(&self, name: &str, text: &[String]) -> Result<()> {
        let text = self.here(&text.join("\n")) + "\n";
        fs::write(self.home.join(name), text).with_context(|| name.to_owned())
    }

    fn here(&self, text: &str) -> String {
        let ports = self.ports.iter();
        ports.fold(text.to_owned(), |text, (said, meant)| {
            with_number(&text, said, meant)
        })
    }

    fn there(&self, text: &str) -> String {
        let ports = self.ports.iter();
        ports.fold(text.to_owned(), |text, (said, meant)| {
            with_number(&text, meant, said)
        })
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = format!("-{}", self.bash.id());
        // There is nothing to do about it if that fails.
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.bash.wait();
    }
}

/// The text with one number for another, where its digits are not a part of more.
fn with_number(text: &str, number: &str, other: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut left = text;
    while let Some(at) = left.find(number) {
        let (before, after) = (&left[..at], &left[at + number.len()..]);
        let ends_in_digit = |text: &str| text.ends_with(|c: char| c.is_ascii_digit());
        let is_part = ends_in_digit(before)
            || (before.is_empty() && ends_in_digit(&result))
            || after.starts_with(|c: char| c.is_ascii_digit());
        result += before;
        result += if is_part { number } else { other };
        left = after;
    }
    result + left
}

/// Whether it is bash's word that a process in the background was killed. An interactive bash has other words
/// for it, at another time.
fn is_notice(line: &str) -> bool {
    line.contains("line ") && line.contains(" Killed ")
}

/// Ports of as many digits as the ones they stand for, so that tables look the same.
fn free_ports(page: &str) -> Result<Vec<(&'static str, String)>> {
    // Not always the same first, as others may look at the same moment.
    let first = 2000 + std::process::id() % 7000;
    free_ports_from(first, page)
}

/// The first of at least `first` that the page has no other use for: its number of something else, printed by a
/// program, would be taken for the port.
fn free_ports_from(first: u32, page: &str) -> Result<Vec<(&'static str, String)>> {
    let numbers = (first..=9999).chain(2000..first);
    // All are held until each is known, so that none is given twice.
    let mut held = numbers.filter_map(|number| {
        let said = number.to_string();
        let is_free = !PORTS.contains(&said.as_str()) && !page.contains(&said);
        let listener = is_free.then(|| TcpListener::bind(format!("127.0.0.1:{number}")))?;
        listener.ok().map(|listener| (number, listener))
    });
    let held: Vec<_> = held.by_ref().take(PORTS.len()).collect();
    if held.len() < PORTS.len() {
        bail!("no port is free");
    }
    let ports = PORTS.into_iter().zip(&held);
    Ok(ports
        .map(|(said, (meant, _))| (said, meant.to_string()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_part_of_another_number() {
        let text = "http://127.0.0.1:4954/ 234954223 4954 49544954 14954";
        let there = "http://127.0.0.1:9191/ 234954223 9191 49544954 14954";
        assert_eq!(with_number(text, "4954", "9191"), there);
        assert_eq!(with_number("", "1", "2"), "");
    }

    #[test]
    fn a_port_is_no_number_that_the_page_names() {
        let page = "It prints 4711, 4712 and\n{\"orders\": 4714}.";
        let ports = free_ports_from(4711, page).unwrap();
        for (_, meant) in &ports {
            assert!(
                !page.contains(meant) && !PORTS.contains(&meant.as_str()),
                "{ports:?}"
            );
        }
    }

    fn shell(name: &str) -> Shell {
        let home = std::env::temp_dir().join(format!("kjob-shell-{name}-{}", std::process::id()));
        Shell::start(&home, Path::new("/no/programs"), "").unwrap()
    }

    fn said(shell: &mut Shell, command: &str) -> (String, i32) {
        let (lines, code) = shell.run(command).unwrap();
        (lines.join("|"), code)
    }

    #[test]
    fn commands_share_a_shell_and_a_directory() {
        let mut shell = shell("share");
        assert_eq!(
            said(&mut shell, "a=1; echo $a; echo b >&2"),
            ("1|b".to_owned(), 0)
        );
        assert_eq!(
            said(&mut shell, "printf $a > file; (exit 3)"),
            (String::new(), 3)
        );
        assert_eq!(
            said(&mut shell, "echo $?; cat file; cat"),
            ("3|1".to_owned(), 0)
        );
        shell.write("there", &["x 9191".to_owned()]).unwrap();
        assert_eq!(said(&mut shell, "cat there").0, "x 9191");
        let there = fs::read_to_string(shell.home.join("there")).unwrap();
        assert!(!there.contains("9191"), "{there}");
        fs::remove_dir_all(&shell.home).unwrap();
        fs::remove_file(shell.home.with_extension("command")).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_started_ends_with_the_shell() {
        let mut shell = shell("ends");
        let (pid, _) = said(&mut shell, "sleep 600 & echo $!");
        let home = shell.home.clone();
        drop(shell);
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let until = Instant::now() + Duration::from_secs(10);
        // A process that nobody has asked for its end yet is a zombie.
        while !state().is_empty() && !state().contains(") Z ") {
            assert!(Instant::now() < until, "{}", state());
            std::thread::yield_now();
        }
        fs::remove_dir_all(&home).unwrap();
        fs::remove_file(home.with_extension("command")).unwrap();
    }
}
