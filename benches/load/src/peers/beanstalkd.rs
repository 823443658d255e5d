//! beanstalkd: jobs are bytes in a tube, and gone once they are done.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Task, in_both_modes};
use crate::cases::{Case, SMALL};
use crate::generator::{Conversation, Heard, Pace};
use crate::process::{Server, free_address, listening, program};
use crate::sample::{Sample, sample};

pub(crate) const NAME: &str = "beanstalkd";

/// How long a job may take until another worker gets it, in seconds.
const TIME_TO_RUN: u32 = 60;

pub(crate) fn cases(_: &Path) -> Vec<Case> {
    in_both_modes(NAME, "a sync for each write", measure)
}

fn measure(home: &Path, synced: bool, task: Task, count: usize, pace: Pace) -> Result<Sample> {
    let server = start(home, synced)?;
    let worker = || Worker::new(task);
    sample(
        &server,
        std::iter::repeat_with(worker).take(count).collect(),
        pace,
    )
}

fn start(home: &Path, synced: bool) -> Result<Server> {
    let address = free_address()?;
    let mut command = program(NAME);
    command.args(["-l", "127.0.0.1", "-p", &address.port().to_string()]);
    if synced {
        command.arg("-b").arg(home).arg("-f0");
    }
    listening(command, home, address)
}

/// Where in a life a connection is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Put,
    Reserve,
    Delete,
}

/// Puts jobs and, in lives, takes one for each and deletes it.
#[derive(Debug)]
struct Worker {
    task: Task,
    step: Step,
    put: Vec<u8>,
    /// What a reserved job holds.
    data: Vec<u8>,
    delete: Vec<u8>,
}

impl Worker {
    fn new(task: Task) -> Self {
        let data = vec![b'j'; SMALL];
        let mut put = format!("put 1024 0 {TIME_TO_RUN} {}\r\n", data.len()).into_bytes();
        put.extend_from_slice(&data);
        put.extend_from_slice(b"\r\n");
        Self {
            task,
            step: Step::Put,
            put,
            data,
            delete: Vec::new(),
        }
    }
}

impl Conversation for Worker {
    fn request(&self) -> &[u8] {
        match self.step {
            Step::Put => &self.put,
            Step::Reserve => b"reserve\r\n",
            Step::Delete => &self.delete,
        }
    }

    fn hear(&mut self, input: &[u8]) -> Result<Heard> {
        let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(Heard::Part);
        };
        let line = std::str::from_utf8(input.get(..end).unwrap_or_default())?;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut len = end + 2;
        let mut ends = false;
        match (self.step, word) {
            (Step::Put, "INSERTED") if self.task == Task::Submits => ends = true,
            (Step::Put, "INSERTED") => self.step = Step::Reserve,
            (Step::Reserve, "RESERVED") => {
                let (id, size) = rest.split_once(' ').context("RESERVED without a size")?;
                let size: usize = size.parse()?;
                let Some(data) = input.get(len..len + size + 2) else {
                    return Ok(Heard::Part);
                };
                if data.strip_suffix(b"\r\n") != Some(&self.data) {
                    bail!("a job with other data");
                }
                len += data.len();
                self.delete.clear();
                self.delete.extend_from_slice(b"delete ");
                self.delete.extend_from_slice(id.as_bytes());
                self.delete.extend_from_slice(b"\r\n");
                self.step = Step::Delete;
            }
            (Step::Delete, "DELETED") => {
                ends = true;
                self.step = Step::Put;
            }
            (step, _) => bail!("{step:?} was answered {line:?}"),
        }
        Ok(Heard::Answer { len, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_put_a_reserve_and_a_delete() {
        let mut worker = Worker::new(Task::Lives);
        let reserved = [b"RESERVED 7 256\r\n", &[b'j'; 256][..], b"\r\n"].concat();
        let answers: [(&[u8], bool); 3] = [
            (b"INSERTED 7\r\n", false),
            (&reserved, false),
            (b"DELETED\r\n", true),
        ];
        for (answer, ends) in answers {
            for cut in 0..answer.len() {
                assert_eq!(worker.hear(&answer[..cut]).unwrap(), Heard::Part);
            }
            let len = answer.len();
            assert_eq!(worker.hear(answer).unwrap(), Heard::Answer { len, ends });
        }
        assert_eq!(worker.delete, b"delete 7\r\n");
        assert!(worker.hear(b"OUT_OF_MEMORY\r\n").is_err());
    }
}
