//! What JSON bodies may look like (docs/protocol.md section 3, "JSON details"), and what errors say.

use bytes::Bytes;
use kjob_proto::DecodeErrorKind::*;
use kjob_proto::*;

fn create(text: &'static str) -> Result<CreateJobRequest, DecodeError> {
    CreateJobRequest::decode_json(Bytes::from_static(text.as_bytes()), &Limits::default())
}

fn get(text: &'static str) -> Result<GetJobRequest, DecodeError> {
    GetJobRequest::decode_json(Bytes::from_static(text.as_bytes()), &Limits::default())
}

fn mismatch(expected: &'static str, found: &str) -> DecodeErrorKind {
    JsonType {
        expected,
        found: found.into(),
    }
}

#[test]
fn members_may_be_missing_unknown_repeated_and_in_any_order() {
    assert_eq!(create("{}"), Ok(CreateJobRequest::default()));
    assert_eq!(create(" {\n} \t").unwrap(), CreateJobRequest::default());
    let request = create(
        r#"{"x":[1,{"y":null}],"options":{"b":"1","a":"2"},"endpoint":"/a","endpoint":"/b"}"#,
    );
    let expected = CreateJobRequest {
        endpoint: "/b".into(),
        options: StringMap::from_iter([("b", "1"), ("a", "2")]),
        ..Default::default()
    };
    assert_eq!(request, Ok(expected));
}

#[test]
fn longs_may_be_whole_floats_where_those_are_exact() {
    for (text, expected) in [
        (r#"{"job_id":5.0}"#, 5),
        (r#"{"job_id":-5e2}"#, -500),
        (r#"{"job_id":-0}"#, 0),
        (r#"{"job_id":9007199254740992.0}"#, 1 << 53),
        (r#"{"job_id":9223372036854775807}"#, i64::MAX),
        (r#"{"job_id":-9223372036854775808}"#, i64::MIN),
    ] {
        assert_eq!(
            get(text).map(|request| request.job_id),
            Ok(expected),
            "{text}"
        );
    }
    for (text, found) in [
        (r#"{"job_id":5.5}"#, "the number 5.5"),
        (
            r#"{"job_id":9223372036854775808}"#,
            "the number 9223372036854775808",
        ),
        // As a float it would be the least long, which it is not.
        (
            r#"{"job_id":-9223372036854775809}"#,
            "the number -9.223372036854776e18",
        ),
        (r#"{"job_id":1e300}"#, "the number 1e300"),
        (r#"{"job_id":"5"}"#, "a string"),
        (r#"{"job_id":true}"#, "true"),
        (r#"{"job_id":null}"#, "null"),
        (r#"{"job_id":[5]}"#, "an array"),
        (r#"{"job_id":{}}"#, "an object"),
    ] {
        let error = get(text).unwrap_err();
        assert_eq!(error.kind, mismatch("a 64-bit integer", found), "{text}");
        assert_eq!(error.field, "job_id");
    }
}

#[test]
fn ints_are_bounded_by_32_bits() {
    let decode = |text: &'static str| {
        let body = Bytes::from_static(text.as_bytes());
        GetJobResponse::decode_json(body, &Limits::default()).map(|response| response.progress)
    };
    assert_eq!(decode(r#"{"progress":2147483647}"#), Ok(i32::MAX));
    let error = decode(r#"{"progress":2147483648}"#).unwrap_err();
    assert_eq!(
        error.kind,
        IntegerRange {
            found: 1 << 31,
            bits: 32
        }
    );
    assert_eq!(
        decode(r#"{"running":1}"#).unwrap_err().kind,
        mismatch("true or false", "the number 1")
    );
}

#[test]
fn map_values_may_be_numbers_and_booleans_but_nothing_else() {
    let request =
        get(r#"{"options":{"a":1,"b":-2.5,"c":true,"d":false,"e":18446744073709551615}}"#);
    let expected = [
        ("a", "1"),
        ("b", "-2.5"),
        ("c", "true"),
        ("d", "false"),
        ("e", "18446744073709551615"),
    ];
    assert_eq!(request.unwrap().options, StringMap::from_iter(expected));
    assert_eq!(
        get(r#"{"options":null}"#).unwrap().options,
        StringMap::new()
    );
    let one_of = "a string, a number or a boolean";
    assert_eq!(
        get(r#"{"options":{"a":null}}"#).unwrap_err().kind,
        mismatch(one_of, "null")
    );
    assert_eq!(
        get(r#"{"options":{"a":[]}}"#).unwrap_err().kind,
        mismatch(one_of, "an array")
    );
    assert_eq!(
        get(r#"{"options":[]}"#).unwrap_err().kind,
        mismatch("an object", "an array")
    );
}

#[test]
fn bytes_are_latin1() {
    let data = |text| create(text).map(|request| request.data);
    assert_eq!(
        data(r#"{"data":"a\u0000\u00ff\u0080é"}"#).unwrap(),
        &b"a\x00\xff\x80\xe9"[..]
    );
    let error = data(r#"{"data":"a€"}"#).unwrap_err();
    assert_eq!(
        (error.kind, error.field),
        (NotLatin1 { found: '€' }, "data")
    );
    let error = data(r#"{"data":{"type":"Buffer","data":[0]}}"#).unwrap_err();
    assert_eq!(
        error.kind,
        mismatch("a string of characters U+0000 to U+00FF", "an object")
    );
}

#[test]
fn text_must_be_text() {
    let body = Bytes::from_static(b"{\"endpoint\":\"a\xff\"}");
    let error = CreateJobRequest::decode_json(body, &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "body: not UTF-8, at byte 14");
    // Also where the member is not looked at.
    let body = Bytes::from_static(b"{\"unknown\":\"a\xff\"}");
    assert!(CreateJobRequest::decode_json(body, &Limits::default()).is_err());
    for text in [
        r#"{"endpoint":"\ud800"}"#,
        r#"{"endpoint":"\ud800\u0041"}"#,
        r#"{"endpoint":"\udc00"}"#,
    ] {
        assert!(matches!(create(text).unwrap_err().kind, Json(_)), "{text}");
    }
    let pair = create(r#"{"endpoint":"\ud83d\ude80"}"#).unwrap();
    assert_eq!(pair.endpoint, "🚀");
}

#[test]
fn only_one_object_and_nothing_after_it() {
    for (text, found) in [
        ("[]", "an array"),
        ("null", "null"),
        ("1", "a number"),
        ("\"a\"", "a string"),
        ("true", "a boolean"),
    ] {
        assert_eq!(get(text).unwrap_err().kind, mismatch("an object", found));
    }
    for text in [
        "",
        " ",
        "{",
        "{}}",
        "{} x",
        "{\"job_id\":}",
        "{'job_id':1}",
        "{\"job_id\":NaN}",
        "\u{feff}{}",
    ] {
        assert!(matches!(get(text).unwrap_err().kind, Json(_)), "{text}");
    }
}

/// The place is the byte that the reader had come to, also over several lines.
#[test]
fn errors_name_field_and_place() {
    let error = get("{\n  \"job_id\": 5,\n  \"options\": {\"ü\": nul}\n}").unwrap_err();
    assert_eq!(error.field, "options");
    assert_eq!(
        error.to_string(),
        "options: invalid JSON: expected ident, at byte 41"
    );
    let error = get(r#"{"job_id":5,"options":7}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "options: expected an object, found the number 7, at byte 23"
    );
}

#[test]
fn replies_that_are_no_envelopes_are_errors_not_refusals() {
    let decode = |text: &'static str| {
        let body = Bytes::from_static(text.as_bytes());
        Reply::<CreateJobResponse>::decode(Encoding::Json, body, &Limits::default())
    };
    assert!(decode("<html>").is_err());
    assert!(decode(r#"{"status":"OK","data_str":""}"#).is_err());
    assert!(decode(r#"{"status":"OK","data_str":"{\"job_id\":\"x\"}"}"#).is_err());
    let refused = decode(r#"{"status":"ERROR","message":"m"}"#).unwrap();
    assert_eq!(
        refused,
        Err(ServerError {
            message: "m".into()
        })
    );
}

/// Missing fields are empty, so that any object at all decoded as an envelope, and counted as a refusal.
#[test]
fn objects_of_others_are_no_envelopes() {
    for text in [
        "{}",
        r#"{"detail":"Forbidden"}"#,
        r#"{"error":"x"}"#,
        r#"{"status":"","message":"m"}"#,
        r#"{"status":"ok","message":"m"}"#,
        r#"{"status":"error","message":"m"}"#,
    ] {
        let body = Bytes::from_static(text.as_bytes());
        let (json, limits) = (Encoding::Json, Limits::default());
        let opened = Envelope::of_reply(json, body.clone(), &limits).unwrap_err();
        assert_eq!(opened.field, "status", "{text}: {opened}");
        let replied = Reply::<CreateJobResponse>::decode(json, body, &limits);
        assert_eq!(replied, Err(opened), "{text}");
    }
    // Five empty fields.
    let body = Bytes::from_static(&[0; 5]);
    for encoding in [Encoding::Binary, Encoding::Snappy] {
        let opened = Envelope::of_reply(encoding, body.clone(), &Limits::default());
        assert_eq!(opened.unwrap_err().field, "status");
    }
    let long = format!(r#"{{"status":"{}"}}"#, "é".repeat(1_000));
    let error = Envelope::of_reply(Encoding::Json, long.into(), &Limits::default()).unwrap_err();
    assert!(error.to_string().chars().count() < 100, "{error}");
}

/// What is wrong inside of the envelope is placed in the whole body.
#[test]
fn errors_in_a_binary_reply_are_placed_in_the_body() {
    let inner = Bytes::from_static(&[0x0e, 0x02, 0x02]);
    let envelope = Envelope {
        data: inner,
        ..Envelope::ok(&CreateJobResponse::default(), Encoding::Binary)
    };
    let body = envelope.encode_to_bytes();
    let error =
        Reply::<CreateJobResponse>::decode(Encoding::Binary, body.clone(), &Limits::default());
    let error = error.unwrap_err();
    assert_eq!(
        (error.field, error.kind),
        (
            "info",
            UnexpectedEnd {
                found: 1,
                needed: 2
            }
        )
    );
    // status, message, data_type with their lengths, and the length of data, and the job id.
    assert_eq!(
        error.offset,
        3 + 1 + 1 + "create_job_response".len() + 1 + 1
    );
}
