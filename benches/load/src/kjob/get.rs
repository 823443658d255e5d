//! Asks for the results of jobs that are done, in any order.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use kjob_proto::{GetJobRequest, GetJobResponse, Record, StringMap};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::answers::Expected;
use super::put_long;
use crate::generator::{Conversation, Heard};
use crate::http;

/// Asks for one job after the other.
#[derive(Debug)]
pub(crate) struct Get {
    ids: Arc<[i64]>,
    request: Request,
    random: SmallRng,
    expected: Expected,
}

impl Get {
    /// `ids` are those of jobs with this result.
    pub(crate) fn new(ids: Arc<[i64]>, result: Bytes) -> Self {
        let mut get = Self {
            ids,
            request: Request::new(StringMap::new()),
            random: rand::make_rng(),
            expected: Expected::done(result),
        };
        get.choose();
        get
    }

    fn choose(&mut self) {
        let place = self.random.random_range(0..self.ids.len().max(1));
        if let Some(id) = self.ids.get(place) {
            self.request.ask_for(*id);
        }
    }
}

impl Conversation for Get {
    fn request(&self) -> &[u8] {
        self.request.bytes()
    }

    fn hear(&mut self, input: &[u8]) -> Result<Heard> {
        let Some(answer) = http::answer(input)? else {
            return Ok(Heard::Part);
        };
        self.expected.check::<GetJobResponse>(answer.body)?;
        self.choose();
        Ok(Heard::Answer {
            len: answer.len,
            ends: true,
        })
    }
}

/// A request for one job, written over for the next.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    head: Vec<u8>,
    id: Vec<u8>,
    /// The record after the id.
    options: Bytes,
}

impl Request {
    pub(crate) fn new(options: StringMap) -> Self {
        let request = GetJobRequest { job_id: 0, options };
        Self {
            bytes: Vec::new(),
            head: http::head("/get/job"),
            id: Vec::new(),
            // An id of 0 is one byte.
            options: request.encode_to_bytes().slice(1..),
        }
    }

    pub(crate) fn ask_for(&mut self, id: i64) {
        self.id.clear();
        put_long(id, &mut self.id);
        self.bytes.clear();
        self.bytes.extend_from_slice(&self.head);
        http::end_head(&mut self.bytes, self.id.len() + self.options.len());
        self.bytes.extend_from_slice(&self.id);
        self.bytes.extend_from_slice(&self.options);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_that_of_the_protocol() {
        let options = StringMap::from_iter([("wait_ms", "60000")]);
        let mut request = Request::new(options.clone());
        for job_id in [1, 64, 1 << 30, 5] {
            request.ask_for(job_id);
            let options = options.clone();
            let body = GetJobRequest { job_id, options }.encode_to_bytes();
            assert_eq!(request.bytes(), http::post("/get/job", &body));
        }
    }
}
