//! gearmand: background jobs, whose results nobody is given.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Task, in_both_modes};
use crate::cases::{Case, SMALL};
use crate::generator::{Conversation, Heard, Pace};
use crate::process::{Server, free_address, listening, program};
use crate::sample::{Sample, sample};
use crate::uuids::{PLACE, Uuids};

pub(crate) const NAME: &str = "gearmand";

/// What is called.
const FUNCTION: &[u8] = b"bench";

/// Types of packets.
mod kind {
    pub(super) const CAN_DO: u32 = 1;
    pub(super) const JOB_CREATED: u32 = 8;
    pub(super) const GRAB_JOB: u32 = 9;
    pub(super) const NO_JOB: u32 = 10;
    pub(super) const JOB_ASSIGN: u32 = 11;
    pub(super) const WORK_COMPLETE: u32 = 13;
    pub(super) const GET_STATUS: u32 = 15;
    pub(super) const SUBMIT_JOB_BG: u32 = 18;
    pub(super) const STATUS_RES: u32 = 20;
}

pub(crate) fn cases(_: &Path) -> Vec<Case> {
    in_both_modes(NAME, "queue in SQLite", measure)
}

fn measure(home: &Path, stored: bool, task: Task, count: usize, pace: Pace) -> Result<Sample> {
    let server = start(home, stored)?;
    let workers = (0..count).map(|_| Worker::new(task));
    sample(&server, workers.collect::<Result<_>>()?, pace)
}

fn start(home: &Path, stored: bool) -> Result<Server> {
    let address = free_address()?;
    let mut command = program(NAME);
    command
        .args(["--listen", "127.0.0.1", "--log-file", "stderr"])
        .args(["--port", &address.port().to_string()])
        .arg("--pid-file")
        .arg(home.join("pid"));
    if stored {
        command
            .args(["--queue-type", "libsqlite3", "--libsqlite3-db"])
            .arg(home.join("queue.sqlite"));
    }
    listening(command, home, address)
}

/// Where in a life a connection is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Submit,
    Grab,
    /// Says that the job is done, and asks whether it still is known.
    Complete,
}

/// Submits jobs and, in lives, takes one for each and completes it.
#[derive(Debug)]
struct Worker {
    task: Task,
    step: Step,
    submit: Vec<u8>,
    /// Jobs of one name are one job, so each has another.
    names: Uuids,
    grab: Vec<u8>,
    complete: Vec<u8>,
    data: Vec<u8>,
}

impl Worker {
    fn new(task: Task) -> Result<Self> {
        let data = vec![b'j'; SMALL];
        let mut submit = Vec::new();
        put(
            kind::SUBMIT_JOB_BG,
            &[FUNCTION, PLACE.as_bytes(), &data],
            &mut submit,
        );
        // What nobody answers can stand before what is answered.
        let mut grab = Vec::new();
        put(kind::CAN_DO, &[FUNCTION], &mut grab);
        put(kind::GRAB_JOB, &[], &mut grab);
        Ok(Self {
            task,
            step: Step::Submit,
            names: Uuids::in_place(&mut submit)?,
            submit,
            grab,
            complete: Vec::new(),
            data,
        })
    }

    fn assigned(&mut self, body: &[u8]) -> Result<()> {
        let mut parts = body.splitn(3, |byte| *byte == 0);
        let mut part = || parts.next().context("a job without all of its parts");
        let (handle, _function, data) = (part()?, part()?, part()?);
        if data != self.data {
            bail!("a job with other data");
        }
        self.complete.clear();
        put(kind::WORK_COMPLETE, &[handle, data], &mut self.complete);
        put(kind::GET_STATUS, &[handle], &mut self.complete);
        Ok(())
    }
}

impl Conversation for Worker {
    fn request(&self) -> &[u8] {
        match self.step {
            Step::Submit => &self.submit,
            Step::Grab => &self.grab,
            Step::Complete => &self.complete,
        }
    }

    fn hear(&mut self, input: &[u8]) -> Result<Heard> {
        let Some((kind, body)) = take(input)? else {
            return Ok(Heard::Part);
        };
        let mut ends = false;
        match (self.step, kind) {
            (Step::Submit, kind::JOB_CREATED) => {
                self.names.draw(&mut self.submit);
                match self.task {
                    Task::Submits => ends = true,
                    Task::Lives => self.step = Step::Grab,
                }
            }
            (Step::Grab, kind::NO_JOB) => {}
            (Step::Grab, kind::JOB_ASSIGN) => {
                self.assigned(body)?;
                // Once is enough.
                self.grab.clear();
                put(kind::GRAB_JOB, &[], &mut self.grab);
                self.step = Step::Complete;
            }
            (Step::Complete, kind::STATUS_RES) => {
                let known = body.split(|byte| *byte == 0).nth(1);
                if known != Some(b"0") {
                    bail!("a job is still known after its end");
                }
                ends = true;
                self.step = Step::Submit;
            }
            (step, kind) => bail!("{step:?} was answered by a packet of type {kind}"),
        }
        Ok(Heard::Answer {
            len: HEAD + body.len(),
            ends,
        })
    }
}

/// Bytes before a packet's data.
const HEAD: usize = 12;

/// Appends a packet to a server: parts are separated by zeros.
fn put(kind: u32, parts: &[&[u8]], out: &mut Vec<u8>) {
    let data = parts.join(&0);
    out.extend_from_slice(b"\0REQ");
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(&data);
}

/// The packet from a server at the beginning, once all of it is there: its type and its data.
fn take(input: &[u8]) -> Result<Option<(u32, &[u8])>> {
    let Some((head, rest)) = input.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let [b'\0', b'R', b'E', b'S', k0, k1, k2, k3, n0, n1, n2, n3] = *head else {
        bail!("no packet: {head:?}");
    };
    let len = u32::from_be_bytes([n0, n1, n2, n3]) as usize;
    let kind = u32::from_be_bytes([k0, k1, k2, k3]);
    Ok(rest.get(..len).map(|body| (kind, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u32, parts: &[&[u8]]) -> Vec<u8> {
        let mut packet = Vec::new();
        put(kind, parts, &mut packet);
        packet[..4].copy_from_slice(b"\0RES");
        packet
    }

    #[test]
    fn a_life_is_a_submit_a_grab_and_an_end_that_is_known() {
        let mut worker = Worker::new(Task::Lives).unwrap();
        let first = worker.submit.clone();
        let data = [b'j'; SMALL];
        let answers = [
            (answer(kind::JOB_CREATED, &[b"H:1"]), false),
            (answer(kind::NO_JOB, &[]), false),
            (answer(kind::JOB_ASSIGN, &[b"H:2", FUNCTION, &data]), false),
            (
                answer(kind::STATUS_RES, &[b"H:2", b"0", b"0", b"0", b"0"]),
                true,
            ),
        ];
        for (answer, ends) in answers {
            for cut in 0..answer.len() {
                assert_eq!(worker.hear(&answer[..cut]).unwrap(), Heard::Part);
            }
            let len = answer.len();
            assert_eq!(worker.hear(&answer).unwrap(), Heard::Answer { len, ends });
        }
        assert_ne!(worker.submit, first, "another name");
        assert!(worker.hear(&answer(kind::NO_JOB, &[])).is_err());
    }
}
