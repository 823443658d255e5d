//! A terminal that `kjob` draws on.

use std::fs::File;
use std::io::Read;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::{guard, interrupt};

const COLUMNS: u16 = 100;

/// A run of `kjob` whose stdout and stderr are a terminal; killed when dropped, or when it goes on for too
/// long.
pub(crate) struct Terminal {
    _guarded: Sender<()>,
    child: Child,
    /// The side of those who look at the terminal.
    master: File,
    parser: vt100::Parser,
}

impl Terminal {
    pub(crate) fn start(mut command: Command, rows: u16) -> Self {
        let (master, slave) = pair(rows);
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.stdout(Stdio::from(slave.try_clone().unwrap()));
        let child = command.stderr(Stdio::from(slave)).spawn().unwrap();
        // Here the command, and with it our own hold on the slave, is dropped: what is read ends with the program.
        drop(command);
        Self {
            _guarded: guard(&child),
            child,
            master: File::from(master),
            parser: vt100::Parser::new(size(rows), size(COLUMNS), 0),
        }
    }

    /// What the terminal shows, without blanks at its end and those of its lines.
    pub(crate) fn shown(&self) -> String {
        // Row by row: a bar fills its row, so that what follows is on the next, which as a text would be one line.
        let rows = self.parser.screen().rows(0, COLUMNS);
        let rows: Vec<_> = rows.map(|row| row.trim_end().to_owned()).collect();
        rows.join("\n").trim_end().to_owned()
    }

    /// Reads what is drawn, and gives what is shown each time, until this says so.
    pub(crate) fn wait_shown(&mut self, mut is_it: impl FnMut(&str) -> bool) {
        loop {
            let shown = self.shown();
            if is_it(&shown) {
                return;
            }
            assert!(self.read(), "the program ended with this shown:\n{shown}");
        }
    }

    pub(crate) fn interrupt(&self) {
        interrupt(&self.child);
    }

    /// Reads to the end, and gives what is shown each time: the exit code.
    pub(crate) fn end(mut self, mut see: impl FnMut(&str)) -> i32 {
        while self.read() {
            see(&self.shown());
        }
        self.child.wait().unwrap().code().unwrap()
    }

    /// Whether there was more.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // Without a program at the other side Linux gives an error, others an end.
        match self.master.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(len) => {
                self.parser.process(&buffer[..len]);
                true
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).unwrap()
}

fn pair(rows: u16) -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: rows,
        ws_col: COLUMNS,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // Not the terminal of this process, whatever it has.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(ptsname(&master, Vec::new()).unwrap(), flags, Mode::empty());
    let slave = slave.unwrap();
    tcsetwinsize(&slave, size).unwrap();
    // Else programs that other tests start meanwhile would hold it too.
    rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC).unwrap();
    (master, slave)
}
