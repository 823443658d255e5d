//! `POST /jobs`: submits a job that JSON describes.

use std::fmt;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use http::Response;
use kjob_core::Payload;
use kjob_core::engine::{HeavyWork, JobKey};
use kjob_proto::{Encoding, StringMap, Text};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Ask, accepted, accepted_and_gone};
use crate::body::BodyError;
use crate::budget::Held;
use crate::job_options;
use crate::options::{OPTIONS_MAX, Options};
use crate::refusal::Refusal;
use crate::reply::ReplyBody;

/// The members that say what is called with what.
pub(super) const CALL_MEMBERS: [&str; 4] =
    ["endpoint", "payload", "payload_base64", "payload_encoding"];

pub(super) async fn answer(
    ask: &Ask<'_>,
    body: Bytes,
    held: &mut Held,
) -> Result<Response<ReplyBody>, Refusal> {
    let len = body.len();
    if len >= HeavyWork::LEN_MIN {
        // What base64 unfolds to is there beside the text.
        held.grow_by(len).map_err(BodyError::from)?;
    }
    let parsed = ask.by.off_thread(len, move || JobRequest::parse(&body));
    let JobRequest {
        endpoint,
        payload,
        options,
    } = parsed.await??;
    let mut submission = ask.by.submission(&endpoint, payload)?;
    job_options::apply(
        &Options::strict(&options, job_options::NAMES)?,
        &mut submission,
    )?;

    let taken = ask.by.submit(submission).await?;
    let key = JobKey::Id(taken.id);
    match ask.by.engine.look(&ask.by.caller, &key).await? {
        Some(job) => Ok(accepted(&job, taken.existing)),
        None => Ok(accepted_and_gone(&taken, &endpoint)),
    }
}

/// What the body says.
#[derive(Debug)]
struct JobRequest {
    endpoint: String,
    payload: Payload,
    /// As the wire protocol has them: texts.
    options: StringMap,
}

impl JobRequest {
    fn parse(body: &Bytes) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(body)
            .map_err(|error| Refusal::Json(format!("JSON text is UTF-8: {error}")))?;
        let mut members = Members::parse(text)?;
        let endpoint = members
            .text("endpoint")?
            .ok_or_else(|| bad("endpoint", "is missing"))?;
        let payload = members.payload(body)?;
        let mut options = StringMap::new();
        for (name, value) in members.0 {
            let value = option_text(&name, value)?;
            options.insert(name, value);
        }
        Ok(Self {
            endpoint,
            payload,
            options,
        })
    }
}

/// The members of a JSON object, each given once, with their values as they were written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        let mut json = serde_json::Deserializer::from_str(text);
        let members = json
            .deserialize_map(MembersVisitor)
            .and_then(|members| json.end().map(|()| members));
        let members = members.map_err(|error| Refusal::Json(error.to_string()))?;
        for (n, (name, _)) in members.0.iter().enumerate() {
            if members.0.iter().take(n).any(|(other, _)| other == name) {
                return Err(bad(name, "is given twice"));
            }
        }
        Ok(members)
    }

    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let place = self.0.iter().position(|(found, _)| found == name)?;
        Some(self.0.swap_remove(place).1)
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        let text = |value: &RawValue| serde_json::from_str(value.get());
        let value = self.take(name).map(text).transpose();
        value.map_err(|_| bad(name, "is to be a string"))
    }

    /// The payload, which is JSON as it was written, or bytes.
    fn payload(&mut self, body: &Bytes) -> Result<Payload, Refusal> {
        let [_, json_name, base64_name, encoding_name] = CALL_MEMBERS;
        let json = self.take(json_name);
        let base64 = self.text(base64_name)?;
        let encoding = self.text(encoding_name)?;
        match (json, base64) {
            (Some(json), None) => match encoding.as_deref() {
                // The very bytes, so that the same request is the same call.
                None | Some("json") => Ok(Payload {
                    encoding: Encoding::Json,
                    data: body.slice_ref(json.get().as_bytes()),
                }),
                Some(_) => Err(bad(encoding_name, "can only be json with payload")),
            },
            (None, Some(base64)) => {
                let encoding = match encoding.as_deref() {
                    None | Some("binary") => Encoding::Binary,
                    Some("snappy") => Encoding::Snappy,
                    Some(_) => {
                        let why = "can only be binary or snappy with payload_base64";
                        return Err(bad(encoding_name, why));
                    }
                };
                let data = Base64::decode_vec(&base64).map_err(|_| {
                    bad(
                        base64_name,
                        "is not base64 (RFC 4648, section 4, with padding)",
                    )
                })?;
                Ok(Payload {
                    encoding,
                    data: data.into(),
                })
            }
            (None, None) => Err(bad(json_name, "is missing, and so is payload_base64")),
            (Some(_), Some(_)) => Err(bad(json_name, "cannot be given beside payload_base64")),
        }
    }
}

struct MembersVisitor;

impl<'a> Visitor<'a> for MembersVisitor {
    type Value = Members<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            if members.len() == OPTIONS_MAX {
                let text = format!("there are more than {OPTIONS_MAX} members");
                return Err(serde::de::Error::custom(text));
            }
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// The value of an option as text, if it is of the option's type. Names are looked at later.
fn option_text(name: &str, value: &RawValue) -> Result<Text, Refusal> {
    let raw = value.get();
    if job_options::NUMBERS.contains(&name) {
        let number = whole_number(raw).ok_or_else(|| bad(name, "is to be a whole number"))?;
        return Ok(Text::from(number.to_string()));
    }
    if job_options::FLAGS.contains(&name) {
        return match raw {
            "true" => Ok(Text::from_static("true")),
            "false" => Ok(Text::from_static("false")),
            _ => Err(bad(name, "is to be true or false")),
        };
    }
    let text: Result<String, _> = serde_json::from_str(raw);
    match text {
        Ok(text) => Ok(Text::from(text)),
        // An unknown name is the greater mistake.
        Err(_) if !job_options::NAMES.contains(&name) => Ok(Text::new()),
        Err(_) => Err(bad(name, "is to be a string")),
    }
}

/// A number without a fraction: to JSON `5.0` is one, too.
fn whole_number(raw: &str) -> Option<u64> {
    let number: serde_json::Number = serde_json::from_str(raw).ok()?;
    let float = |number: &serde_json::Number| {
        // Up to here each whole number is a float of its own.
        let float = number
            .as_f64()
            .filter(|float| (0.0..=9e15).contains(float))?;
        (float.fract() == 0.0).then_some(float as u64)
    };
    number.as_u64().or_else(|| float(&number))
}

fn bad(name: &str, why: &str) -> Refusal {
    Refusal::Member {
        name: name.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Result<JobRequest, String> {
        JobRequest::parse(&Bytes::from_static(text.as_bytes())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_payload_keeps_its_very_bytes() {
        let body = Bytes::from_static(br#" {"payload": {"a" : 1.50,"a":2}, "endpoint":"/x"} "#);
        let request = JobRequest::parse(&body).unwrap();
        assert_eq!(request.endpoint, "/x");
        assert_eq!(request.payload.encoding, Encoding::Json);
        assert_eq!(request.payload.data, r#"{"a" : 1.50,"a":2}"#);
        assert!(body.as_ptr_range().contains(&request.payload.data.as_ptr()));
        assert_eq!(
            parse(r#"{"endpoint":"/x","payload":null}"#)
                .unwrap()
                .payload
                .data,
            "null"
        );
    }

    #[test]
    fn bytes_come_as_base64() {
        let request = parse(r#"{"endpoint":"/x","payload_base64":"AP8="}"#).unwrap();
        assert_eq!(request.payload, Payload::binary(&b"\x00\xff"[..]));
        let snappy = r#"{"endpoint":"/x","payload_base64":"AP8=","payload_encoding":"snappy"}"#;
        assert_eq!(parse(snappy).unwrap().payload.encoding, Encoding::Snappy);
    }

    #[test]
    fn options_become_texts() {
        let request = parse(
            r#"{"endpoint":"/x","payload":1,"priority":7.0,"remove_job_on_complete":true,"job_tag":"t"}"#,
        );
        let options = request.unwrap().options;
        for (name, text) in [
            ("priority", "7"),
            ("remove_job_on_complete", "true"),
            ("job_tag", "t"),
        ] {
            assert_eq!(options.get(name).map(Text::as_str), Some(text));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "body: EOF"),
            ("[]", "expected an object"),
            ("{}", "member endpoint: is missing"),
            (r#"{"endpoint":"/x"} x"#, "trailing"),
            (
                r#"{"endpoint":7,"payload":1}"#,
                "member endpoint: is to be a string",
            ),
            (r#"{"endpoint":"/x"}"#, "member payload: is missing"),
            (
                r#"{"endpoint":"/x","payload":1,"payload":1}"#,
                "member payload: is given twice",
            ),
            (
                r#"{"endpoint":"/x","payload":1,"payload_base64":""}"#,
                "beside",
            ),
            (
                r#"{"endpoint":"/x","payload":1,"payload_encoding":"binary"}"#,
                "only be json",
            ),
            (
                r#"{"endpoint":"/x","payload_base64":"","payload_encoding":"json"}"#,
                "only be binary",
            ),
            (r#"{"endpoint":"/x","payload_base64":"A"}"#, "is not base64"),
            (
                r#"{"endpoint":"/x","payload":1,"priority":"7"}"#,
                "member priority: is to be a whole",
            ),
            (
                r#"{"endpoint":"/x","payload":1,"priority":7.5}"#,
                "member priority: is to be a whole",
            ),
            (
                r#"{"endpoint":"/x","payload":1,"delay_ms":-1}"#,
                "member delay_ms: is to be a whole",
            ),
            (
                r#"{"endpoint":"/x","payload":1,"job_tag":7}"#,
                "member job_tag: is to be a string",
            ),
            (
                r#"{"endpoint":"/x","payload":1,"remove_job_on_complete":"true"}"#,
                "true or false",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_number_of_members_is_bounded() {
        let body = |count: usize| {
            let members: Vec<_> = (0..count).map(|n| format!("\"m{n}\":\"\"")).collect();
            Bytes::from(format!(
                "{{\"endpoint\":\"\",\"payload\":1,{}}}",
                members.join(",")
            ))
        };
        assert!(JobRequest::parse(&body(OPTIONS_MAX - 2)).is_ok());
        let error = JobRequest::parse(&body(OPTIONS_MAX - 1)).unwrap_err();
        assert!(matches!(error, Refusal::Json(_)), "{error}");
    }
}
