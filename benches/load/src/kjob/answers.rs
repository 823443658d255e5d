//! What answers have to be, byte by byte up to where they tell something new.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kjob_proto::{
    CreateJobResponse, Encoding, Envelope, GetJobResponse, Limits, Record, Reply, Text,
};

use super::{ENDPOINT, take_long};

/// The beginning of an envelope around a record, and of that record.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    envelope: Bytes,
    record: Bytes,
    /// Whether an answer was read by the protocol's own crate already.
    was_read: bool,
}

impl Expected {
    /// Of a submit.
    pub(crate) fn submitted() -> Self {
        Self {
            envelope: envelope::<CreateJobResponse>(),
            record: Bytes::new(),
            was_read: false,
        }
    }

    /// Of a get, once the job is done with this result.
    pub(crate) fn done(result: Bytes) -> Self {
        let response = GetJobResponse {
            endpoint: Text::from_static(ENDPOINT),
            job_status: Text::from_static("DONE"),
            progress: 100,
            successful: true,
            response_encoding: Text::from_static("binary"),
            job_response: result,
            ..Default::default()
        };
        Self {
            envelope: envelope::<GetJobResponse>(),
            record: without_end(&response, 1),
            was_read: false,
        }
    }

    /// What of the record follows its known beginning.
    ///
    /// # Errors
    /// The body is another.
    pub(crate) fn check<'a, R: Record>(&mut self, body: &'a [u8]) -> Result<&'a [u8]> {
        if !self.was_read {
            read::<R>(body)?;
            self.was_read = true;
        }
        match self.rest(body) {
            Some(rest) => Ok(rest),
            None => bail!("another answer than it has to be: {:?}", read::<R>(body)?),
        }
    }

    fn rest<'a>(&self, body: &'a [u8]) -> Option<&'a [u8]> {
        let (len, rest) = take_long(body.strip_prefix(self.envelope.as_ref())?)?;
        let record = rest.get(..usize::try_from(len).ok()?)?;
        record.strip_prefix(self.record.as_ref())
    }
}

/// The id that follows in the answer to a submit.
pub(crate) fn job_id(rest: &[u8]) -> Result<i64> {
    let (id, _) = take_long(rest).context("a submit's answer has no id")?;
    if id <= 0 {
        bail!("a job has the id {id}");
    }
    Ok(id)
}

fn read<R: Record>(body: &[u8]) -> Result<R> {
    let body = Bytes::copy_from_slice(body);
    let reply = Reply::<R>::decode(Encoding::Binary, body, &Limits::default())?;
    reply.context("the server answered with an error")
}

/// A success around an `R`, up to the record's length.
fn envelope<R: Record>() -> Bytes {
    let envelope = Envelope {
        status: Text::from_static(Envelope::OK),
        data_type: Text::from_static(R::NAME),
        ..Default::default()
    };
    // Two lengths of nothing: of the record, and of that in JSON.
    without_end(&envelope, 2)
}

fn without_end<R: Record>(record: &R, end: usize) -> Bytes {
    let mut bytes = record.encode_to_bytes();
    bytes.truncate(bytes.len().saturating_sub(end));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use kjob_proto::{StringMap, reply_error, reply_ok};

    #[test]
    fn an_id_is_read_and_an_error_is_told() {
        let response = CreateJobResponse {
            job_id: 300,
            info: StringMap::from_iter([("job_tag", "a")]),
        };
        let body = reply_ok(&response, Encoding::Binary).into_bytes();
        let mut expected = Expected::submitted();
        for _ in 0..2 {
            let rest = expected.check::<CreateJobResponse>(&body).unwrap();
            assert_eq!(job_id(rest).unwrap(), 300);
        }
        let refusal = reply_error("too many", Encoding::Binary).into_bytes();
        let error = expected.check::<CreateJobResponse>(&refusal).unwrap_err();
        assert!(format!("{error:#}").contains("too many"), "{error:#}");
    }

    #[test]
    fn a_result_is_held_against_what_it_has_to_be() {
        let response = |result: &'static [u8], status| GetJobResponse {
            endpoint: Text::from_static(ENDPOINT),
            job_status: Text::from_static(status),
            progress: 100,
            successful: true,
            response_encoding: Text::from_static("binary"),
            job_response: Bytes::from_static(result),
            info: StringMap::from_iter([("job_id", "300")]),
            ..Default::default()
        };
        let mut expected = Expected::done(Bytes::from_static(b"result"));
        let mut is_right = |response: &GetJobResponse| {
            let body = reply_ok(response, Encoding::Binary).into_bytes();
            expected.check::<GetJobResponse>(&body).is_ok()
        };
        assert!(is_right(&response(b"result", "DONE")));
        assert!(!is_right(&response(b"resulT", "DONE")));
        assert!(!is_right(&response(b"result", "ERROR")));
    }
}
