//! Whole lives: submit, wait for the end, fetch the result with it, and check it.

use anyhow::Result;
use bytes::Bytes;
use kjob_proto::{CreateJobResponse, GetJobResponse, StringMap};

use super::answers::{Expected, job_id};
use super::get::Request;
use super::submit::body;
use crate::generator::{Conversation, Heard};
use crate::http;

/// How long a job may take.
const WAIT_MILLIS: &str = "60000";

/// Lives one life after the other.
#[derive(Debug)]
pub(crate) struct Life {
    submit: Vec<u8>,
    get: Request,
    is_submitted: bool,
    submitted: Expected,
    done: Expected,
    /// Of the jobs that are done.
    pub(crate) ids: Vec<i64>,
    id: i64,
}

impl Life {
    pub(crate) fn new(payload: &Bytes) -> Self {
        Self {
            submit: http::post("/create/job", &body(payload, StringMap::new())),
            get: Request::new(StringMap::from_iter([("wait_ms", WAIT_MILLIS)])),
            is_submitted: false,
            submitted: Expected::submitted(),
            done: Expected::done(payload.clone()),
            ids: Vec::new(),
            id: 0,
        }
    }
}

impl Conversation for Life {
    fn request(&self) -> &[u8] {
        match self.is_submitted {
            false => &self.submit,
            true => self.get.bytes(),
        }
    }

    fn hear(&mut self, input: &[u8]) -> Result<Heard> {
        let Some(answer) = http::answer(input)? else {
            return Ok(Heard::Part);
        };
        if self.is_submitted {
            self.done.check::<GetJobResponse>(answer.body)?;
            self.ids.push(self.id);
        } else {
            self.id = job_id(self.submitted.check::<CreateJobResponse>(answer.body)?)?;
            self.get.ask_for(self.id);
        }
        let ends = self.is_submitted;
        self.is_submitted = !ends;
        Ok(Heard::Answer {
            len: answer.len,
            ends,
        })
    }
}
