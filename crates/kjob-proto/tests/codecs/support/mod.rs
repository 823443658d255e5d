//! The vectors of docs/protocol.md section 9, and how their values become records.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses a part"
)]

pub mod strategies;
mod value;

use bytes::Bytes;
use kjob_proto::*;
pub use value::Value;

pub fn vectors(text: &str) -> Vec<Value> {
    serde_json::from_str::<Vec<Value>>(text).unwrap()
}

pub fn requests() -> Vec<Value> {
    vectors(include_str!("../../vectors/requests.json"))
}

pub fn responses() -> Vec<Value> {
    vectors(include_str!("../../vectors/responses.json"))
}

pub fn invalid() -> Vec<Value> {
    // What the Python client makes of a lone surrogate is no text, so serde_json cannot read it.
    vectors(&include_str!("../../vectors/invalid.json").replace(r#": "\ud800""#, r#": """#))
}

pub fn str_of<'a>(vector: &'a Value, key: &str) -> &'a str {
    vector[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} of {vector:?}"))
}

pub fn encoding_of(vector: &Value) -> Encoding {
    str_of(vector, "encoding").parse().unwrap()
}

pub fn unhex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn number_of(value: &Value) -> u64 {
    value.as_number().unwrap().as_u64().unwrap()
}

/// Bytes as `{"$hex"}`, `{"$recipe", "len"}` or Latin-1 text.
pub fn bytes_of(value: &Value) -> Bytes {
    if let Some(text) = value.as_str() {
        return text
            .chars()
            .map(|char| u8::try_from(char).unwrap())
            .collect();
    }
    if let Some(hex) = value.get("$hex") {
        return Bytes::from(unhex(hex.as_str().unwrap()));
    }
    assert!(value.get("$recipe").is_some(), "{value:?}");
    let len = number_of(&value["len"]);
    (0..len)
        .map(|i| (((i * 31 + 7) & 255) ^ ((i >> 8) & 255)) as u8)
        .collect()
}

/// Text as it is, or as `{"$repeat", "len"}`.
pub fn text_of(value: &Value) -> Text {
    match value.as_str() {
        Some(text) => Text::copy_from(text),
        None => {
            let (piece, len) = (value["$repeat"].as_str().unwrap(), number_of(&value["len"]));
            let text = piece.repeat(usize::try_from(len).unwrap() / piece.chars().count());
            assert_eq!(text.chars().count() as u64, len);
            Text::from(text)
        }
    }
}

/// A map, a missing or a null one being empty, and numbers being their text.
pub fn map_of(value: &Value) -> StringMap {
    let entries = value.as_object().into_iter().flatten();
    entries
        .map(|(key, value)| match value {
            Value::Number(number) => (Text::copy_from(key), Text::from(number.to_string())),
            _ => (Text::copy_from(key), text_of(value)),
        })
        .collect()
}

pub fn longs_of(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(long_of).collect()
}

pub fn texts_of(value: &Value) -> Vec<Text> {
    value.as_array().unwrap().iter().map(text_of).collect()
}

/// A record that the vectors have values of.
pub trait FromVector: Record {
    fn from_vector(value: &Value) -> Self;
}

macro_rules! from_vector {
    ($($record:ident { $($field:ident: $convert:expr,)* })*) => {$(
        impl FromVector for $record {
            fn from_vector(value: &Value) -> Self {
                Self { $($field: match value.get(stringify!($field)) {
                    Some(value) => $convert(value),
                    None => Default::default(),
                },)* }
            }
        }
    )*};
}

fn long_of(value: &Value) -> i64 {
    let number = value.as_number().unwrap();
    number
        .as_i64()
        .or_else(|| number.as_f64().map(|float| float as i64))
        .unwrap()
}

fn int_of(value: &Value) -> i32 {
    i32::try_from(long_of(value)).unwrap()
}

fn bool_of(value: &Value) -> bool {
    value.as_bool().unwrap()
}

from_vector! {
    CreateJobRequest {
        endpoint: text_of, request_encoding: text_of, data: bytes_of, data_str: text_of, options: map_of,
    }
    CreateJobResponse { job_id: long_of, info: map_of, }
    GetJobRequest { job_id: long_of, options: map_of, }
    GetJobResponse {
        endpoint: text_of, job_status: text_of, running: bool_of, progress: int_of, successful: bool_of,
        response_encoding: text_of, job_response: bytes_of, job_response_str: text_of,
        status_map: map_of, info: map_of,
    }
    AdminShowJobsRequest { options: map_of, }
    AdminShowJobsResponse {
        job_id: longs_of, status: texts_of, endpoint_name: texts_of, time_received: longs_of,
        auth_id: texts_of, source_ip: texts_of, query_text: texts_of, user_data: texts_of,
        flags: texts_of, info: map_of,
    }
    AdminAlterJobsRequest { job_ids: longs_of, action: text_of, options: map_of, }
    AdminAlterJobsResponse { job_ids: longs_of, action: text_of, status: texts_of, info: map_of, }
    ShowSystemStatusRequest { options: map_of, }
    ShowSystemStatusResponse { status_map: map_of, info: map_of, }
    ShowSystemPropertiesRequest { options: map_of, }
    ShowSystemPropertiesResponse { property_map: map_of, info: map_of, }
    Envelope { status: text_of, message: text_of, data_type: text_of, data: bytes_of, data_str: text_of, }
}

/// Calls `$function::<R>($args)` for the record of that name.
#[macro_export]
macro_rules! with_record {
    ($name:expr, $function:ident($($arg:expr),*)) => {
        match $name {
            "create_job_request" => $function::<CreateJobRequest>($($arg),*),
            "create_job_response" => $function::<CreateJobResponse>($($arg),*),
            "get_job_request" => $function::<GetJobRequest>($($arg),*),
            "get_job_response" => $function::<GetJobResponse>($($arg),*),
            "admin_show_jobs_request" => $function::<AdminShowJobsRequest>($($arg),*),
            "admin_show_jobs_response" => $function::<AdminShowJobsResponse>($($arg),*),
            "admin_alter_jobs_request" => $function::<AdminAlterJobsRequest>($($arg),*),
            "admin_alter_jobs_response" => $function::<AdminAlterJobsResponse>($($arg),*),
            "show_system_status_request" => $function::<ShowSystemStatusRequest>($($arg),*),
            "show_system_status_response" => $function::<ShowSystemStatusResponse>($($arg),*),
            "show_system_properties_request" => $function::<ShowSystemPropertiesRequest>($($arg),*),
            "show_system_properties_response" => $function::<ShowSystemPropertiesResponse>($($arg),*),
            "gpudb_response" => $function::<Envelope>($($arg),*),
            other => panic!("no record is named {other}"),
        }
    };
}
