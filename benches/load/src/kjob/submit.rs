//! Submits and nothing else: the jobs wait for a day, so none runs while others are submitted.

use anyhow::Result;
use bytes::Bytes;
use kjob_proto::{CreateJobRequest, CreateJobResponse, Record, StringMap, Text};

use super::answers::{Expected, job_id};
use super::{ENDPOINT, TOMORROW};
use crate::generator::{Conversation, Heard};
use crate::http;
use crate::uuids::{PLACE, Uuids};

/// Who gives jobs their tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    /// The server.
    Server,
    /// The client: random UUIDs.
    Client,
}

/// Submits one job after the other.
#[derive(Debug)]
pub(crate) struct Submit {
    request: Vec<u8>,
    /// Gives the request a new tag each time.
    tags: Option<Uuids>,
    expected: Expected,
    /// Of all that were accepted.
    pub(crate) ids: Vec<i64>,
}

impl Submit {
    pub(crate) fn new(payload: &Bytes, tags: Tags) -> Result<Self> {
        let mut options = StringMap::from_iter([("delay_ms", TOMORROW.as_millis().to_string())]);
        if tags == Tags::Client {
            options.insert("job_tag", PLACE);
        }
        let mut request = http::post("/create/job", &body(payload, options));
        let tags = match tags {
            Tags::Server => None,
            Tags::Client => Some(Uuids::in_place(&mut request)?),
        };
        Ok(Self {
            request,
            tags,
            expected: Expected::submitted(),
            ids: Vec::new(),
        })
    }
}

impl Conversation for Submit {
    fn request(&self) -> &[u8] {
        &self.request
    }

    fn hear(&mut self, input: &[u8]) -> Result<Heard> {
        let Some(answer) = http::answer(input)? else {
            return Ok(Heard::Part);
        };
        let id = job_id(self.expected.check::<CreateJobResponse>(answer.body)?)?;
        self.ids.push(id);
        if let Some(tags) = &mut self.tags {
            tags.draw(&mut self.request);
        }
        Ok(Heard::Answer {
            len: answer.len,
            ends: true,
        })
    }
}

/// The body of a submit.
pub(crate) fn body(payload: &Bytes, options: StringMap) -> Bytes {
    let request = CreateJobRequest {
        endpoint: Text::from_static(ENDPOINT),
        request_encoding: Text::from_static("binary"),
        data: payload.clone(),
        options,
        ..Default::default()
    };
    request.encode_to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kjob::payload;
    use kjob_proto::Limits;

    fn request_of(submit: &Submit) -> CreateJobRequest {
        let text = submit.request();
        let end = b"\r\n\r\n";
        let head = text.windows(4).position(|part| part == end).unwrap();
        let body = Bytes::copy_from_slice(&text[head + 4..]);
        CreateJobRequest::decode_binary(body, &Limits::default()).unwrap()
    }

    #[test]
    fn tags_are_new_each_time() {
        let payload = payload(256);
        let mut submit = Submit::new(&payload, Tags::Client).unwrap();
        let first = request_of(&submit);
        submit.tags.as_mut().unwrap().draw(&mut submit.request);
        let second = request_of(&submit);
        let tags = [&first, &second].map(|request| request.options.get("job_tag").unwrap());
        assert_ne!(tags[0], tags[1]);
        assert_eq!(second.data, payload);
        let untagged = request_of(&Submit::new(&payload, Tags::Server).unwrap());
        assert!(!untagged.options.contains_key("job_tag"));
    }
}
