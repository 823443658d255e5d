//! Submits and nothing else: the jobs wait for a day, so none runs while others are submitted.

use anyhow::{Context, Result};
use bytes::Bytes;
use kjob_proto::{CreateJobRequest, CreateJobResponse, Record, StringMap, Text};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::ENDPOINT;
use super::answers::{Expected, job_id};
use crate::generator::{Conversation, Heard};
use crate::http;

/// So that no job starts while the load goes on.
const DELAY_MILLIS: &str = "86400000";

/// Where the tag will stand, as long as it will be.
const PLACE: &str = "00000000-0000-4000-8000-000000000000";

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
    /// Where in the request a new tag goes each time.
    tag_at: Option<usize>,
    random: SmallRng,
    expected: Expected,
}

impl Submit {
    pub(crate) fn new(payload: &Bytes, tags: Tags) -> Result<Self> {
        let mut options = StringMap::from_iter([("delay_ms", DELAY_MILLIS)]);
        if tags == Tags::Client {
            options.insert("job_tag", PLACE);
        }
        let request = http::post("/create/job", &body(payload, options));
        let tag_at = match tags {
            Tags::Server => None,
            Tags::Client => Some(place_of(&request).context("the request has no tag")?),
        };
        let mut submit = Self {
            request,
            tag_at,
            random: rand::make_rng(),
            expected: Expected::submitted(),
        };
        submit.draw_tag();
        Ok(submit)
    }

    fn draw_tag(&mut self) {
        let Some(at) = self.tag_at else { return };
        let Some(tag) = self.request.get_mut(at..at + PLACE.len()) else {
            return;
        };
        let mut bits: u128 = self.random.random();
        for (byte, form) in tag.iter_mut().zip(PLACE.bytes()) {
            // Dashes, the version and the variant stay.
            if form == b'0' {
                *byte = b"0123456789abcdef"[(bits & 15) as usize];
                bits >>= 4;
            }
        }
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
        job_id(self.expected.check::<CreateJobResponse>(answer.body)?)?;
        self.draw_tag();
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

fn place_of(request: &[u8]) -> Option<usize> {
    let place = PLACE.as_bytes();
    request.windows(place.len()).position(|part| part == place)
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
    fn tags_are_new_each_time_and_uuids() {
        let payload = payload(256);
        let mut submit = Submit::new(&payload, Tags::Client).unwrap();
        let first = request_of(&submit);
        submit.draw_tag();
        let second = request_of(&submit);
        let tags = [&first, &second].map(|request| request.options.get("job_tag").unwrap());
        assert_ne!(tags[0], tags[1]);
        for tag in tags {
            assert_eq!(tag.len(), 36);
            assert_eq!((&tag[14..15], &tag[19..20]), ("4", "8"), "{tag}");
        }
        assert_eq!(second.data, payload);
        let untagged = request_of(&Submit::new(&payload, Tags::Server).unwrap());
        assert!(!untagged.options.contains_key("job_tag"));
    }
}
