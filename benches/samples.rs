//! The records that are measured, and the structs that a user of a general Avro library would write.

use std::collections::BTreeMap;

use bytes::Bytes;
use kjob_proto::{CreateJobRequest, Encoding, Envelope, GetJobResponse, Record, StringMap};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The payload sizes, in bytes.
pub const PAYLOAD_LENS: [usize; 4] = [0, 256, 64 << 10, 1 << 20];

/// A record with a payload, and its forms for general libraries.
pub trait Sample: Record {
    /// A struct that owns what it holds.
    type Owned: Serialize + DeserializeOwned;

    /// A struct that borrows from the encoded bytes.
    type Borrowed<'a>: Deserialize<'a>;

    /// The record with a payload of `payload_len` bytes and one entry in one map.
    fn sample(payload_len: usize) -> Self;

    /// The same as a struct of its own.
    fn to_owned_form(&self) -> Self::Owned;
}

/// Owned strings of a map.
type Map = BTreeMap<String, String>;

/// Borrowed strings of a map.
type MapOf<'a> = BTreeMap<&'a str, &'a str>;

fn payload(len: usize) -> Bytes {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

fn entries() -> StringMap {
    StringMap::from_iter([("job_tag", "5f0c1c3a-7d35-7b8e-9f5d-3a1f0b9f3c11")])
}

fn owned(map: &StringMap) -> Map {
    map.iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

/// `create_job_request` with owned fields.
#[derive(Deserialize, Serialize)]
#[serde(rename = "create_job_request")]
#[expect(missing_docs, reason = "the schema's fields")]
pub struct CreateJobRequestOwned {
    pub endpoint: String,
    pub request_encoding: String,
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    pub data_str: String,
    pub options: Map,
}

/// `create_job_request` with borrowed fields.
#[derive(Deserialize)]
#[serde(rename = "create_job_request")]
#[expect(missing_docs, reason = "the schema's fields")]
pub struct CreateJobRequestBorrowed<'a> {
    pub endpoint: &'a str,
    pub request_encoding: &'a str,
    #[serde(with = "serde_bytes")]
    pub data: &'a [u8],
    pub data_str: &'a str,
    #[serde(borrow)]
    pub options: MapOf<'a>,
}

impl Sample for CreateJobRequest {
    type Owned = CreateJobRequestOwned;
    type Borrowed<'a> = CreateJobRequestBorrowed<'a>;

    fn sample(payload_len: usize) -> Self {
        Self {
            endpoint: "/insert/records".into(),
            request_encoding: "binary".into(),
            data: payload(payload_len),
            data_str: "".into(),
            options: entries(),
        }
    }

    fn to_owned_form(&self) -> CreateJobRequestOwned {
        CreateJobRequestOwned {
            endpoint: self.endpoint.to_string(),
            request_encoding: self.request_encoding.to_string(),
            data: self.data.to_vec(),
            data_str: self.data_str.to_string(),
            options: owned(&self.options),
        }
    }
}

/// `get_job_response` with owned fields.
#[derive(Deserialize, Serialize)]
#[serde(rename = "get_job_response")]
#[expect(missing_docs, reason = "the schema's fields")]
pub struct GetJobResponseOwned {
    pub endpoint: String,
    pub job_status: String,
    pub running: bool,
    pub progress: i32,
    pub successful: bool,
    pub response_encoding: String,
    #[serde(with = "serde_bytes")]
    pub job_response: Vec<u8>,
    pub job_response_str: String,
    pub status_map: Map,
    pub info: Map,
}

/// `get_job_response` with borrowed fields.
#[derive(Deserialize)]
#[serde(rename = "get_job_response")]
#[expect(missing_docs, reason = "the schema's fields")]
pub struct GetJobResponseBorrowed<'a> {
    pub endpoint: &'a str,
    pub job_status: &'a str,
    pub running: bool,
    pub progress: i32,
    pub successful: bool,
    pub response_encoding: &'a str,
    #[serde(with = "serde_bytes")]
    pub job_response: &'a [u8],
    pub job_response_str: &'a str,
    #[serde(borrow)]
    pub status_map: MapOf<'a>,
    #[serde(borrow)]
    pub info: MapOf<'a>,
}

impl Sample for GetJobResponse {
    type Owned = GetJobResponseOwned;
    type Borrowed<'a> = GetJobResponseBorrowed<'a>;

    fn sample(payload_len: usize) -> Self {
        Self {
            endpoint: "/insert/records".into(),
            job_status: "DONE".into(),
            running: false,
            progress: 100,
            successful: true,
            response_encoding: "binary".into(),
            job_response: payload(payload_len),
            job_response_str: "".into(),
            status_map: StringMap::new(),
            info: entries(),
        }
    }

    fn to_owned_form(&self) -> GetJobResponseOwned {
        GetJobResponseOwned {
            endpoint: self.endpoint.to_string(),
            job_status: self.job_status.to_string(),
            running: self.running,
            progress: self.progress,
            successful: self.successful,
            response_encoding: self.response_encoding.to_string(),
            job_response: self.job_response.to_vec(),
            job_response_str: self.job_response_str.to_string(),
            status_map: owned(&self.status_map),
            info: owned(&self.info),
        }
    }
}

/// `gpudb_response` with owned fields.
#[derive(Deserialize, Serialize)]
#[serde(rename = "gpudb_response")]
#[expect(missing_docs, reason = "the schema's fields")]
pub struct EnvelopeOwned {
    pub status: String,
    pub message: String,
    pub data_type: String,
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    pub data_str: String,
}

/// `gpudb_response` with borrowed fields.
#[derive(Deserialize)]
#[serde(rename = "gpudb_response")]
#[expect(missing_docs, reason = "the schema's fields")]
pub struct EnvelopeBorrowed<'a> {
    pub status: &'a str,
    pub message: &'a str,
    pub data_type: &'a str,
    #[serde(with = "serde_bytes")]
    pub data: &'a [u8],
    pub data_str: &'a str,
}

impl Sample for Envelope {
    type Owned = EnvelopeOwned;
    type Borrowed<'a> = EnvelopeBorrowed<'a>;

    fn sample(payload_len: usize) -> Self {
        Self::ok(&GetJobResponse::sample(payload_len), Encoding::Binary)
    }

    fn to_owned_form(&self) -> EnvelopeOwned {
        EnvelopeOwned {
            status: self.status.to_string(),
            message: self.message.to_string(),
            data_type: self.data_type.to_string(),
            data: self.data.to_vec(),
            data_str: self.data_str.to_string(),
        }
    }
}

/// `create_job_request` with owned fields, as its JSON form has them.
#[derive(Deserialize, Serialize)]
#[expect(missing_docs, reason = "the schema's fields")]
pub struct JsonOwned {
    pub endpoint: String,
    pub request_encoding: String,
    #[serde(with = "latin1")]
    pub data: Vec<u8>,
    pub data_str: String,
    pub options: Map,
}

impl From<&CreateJobRequest> for JsonOwned {
    fn from(request: &CreateJobRequest) -> Self {
        let CreateJobRequestOwned {
            endpoint,
            request_encoding,
            data,
            data_str,
            options,
        } = request.to_owned_form();
        Self {
            endpoint,
            request_encoding,
            data,
            data_str,
            options,
        }
    }
}

/// Bytes as text with a character U+0000 to U+00FF for each.
mod latin1 {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().copied().map(char::from).collect();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.chars().map(u8::try_from).collect::<Result<_, _>>();
        bytes.map_err(D::Error::custom)
    }
}

/// Words for requests whose JSON form is large.
pub const JSON_REQUESTS: [&str; 3] = ["bytes", "json", "text"];

/// One of [`JSON_REQUESTS`]: with 1 MiB of random bytes, with 64 KiB of JSON text, or of text that needs no escapes.
pub fn json_request(word: &str) -> CreateJobRequest {
    let (data, data_str) = match word {
        "bytes" => (random_bytes(1 << 20), String::new()),
        "json" => (Vec::new(), json_text(64 << 10)),
        _ => (Vec::new(), plain_text(64 << 10)),
    };
    CreateJobRequest {
        data: data.into(),
        data_str: data_str.into(),
        ..CreateJobRequest::sample(0)
    }
}

/// Bytes without a pattern, the same each time: the high ones of a linear congruential generator.
fn random_bytes(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// JSON text of `len` bytes or a little more: an array of objects, as a job that inserts rows has it.
fn json_text(len: usize) -> String {
    let mut text = String::from("[");
    for row in 0.. {
        text.push_str(&format!(
            r#"{{"id":{row},"name":"sensor {}","x":{}.25,"y":-{}.5,"tags":["a","b"],"note":"nothing to tell"}}"#,
            row % 97,
            row * 31 % 1009,
            row * 17 % 503,
        ));
        if text.len() >= len {
            break;
        }
        text.push(',');
    }
    text.push(']');
    text
}

/// Words of `len` bytes in all.
fn plain_text(len: usize) -> String {
    let words = "Numbers, names and words in no more than ASCII; nothing here is to be escaped. ";
    words.chars().cycle().take(len).collect()
}
