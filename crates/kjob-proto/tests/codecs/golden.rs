//! The bodies that genuine clients make and take (docs/protocol.md section 9).

use crate::support::*;
use bytes::Bytes;
use kjob_proto::*;
use sha2::{Digest, Sha256};

/// Whether `bytes` are what the vector gives, in full or as a digest.
fn assert_bytes(name: &str, vector: &Value, bytes: &[u8]) {
    match vector.get("hex") {
        Some(expected) => assert_eq!(hex(bytes), expected.as_str().unwrap(), "{name}"),
        None => {
            assert_eq!(bytes.len() as u64, number_of(&vector["len"]), "{name}");
            assert_eq!(
                hex(&Sha256::digest(bytes)),
                str_of(vector, "sha256"),
                "{name}"
            );
        }
    }
}

/// The Python writer puts a space after each comma and colon; in all else our texts are its texts.
fn with_spaces(compact: &[u8]) -> String {
    let (mut out, mut in_string, mut escaped) = (String::new(), false, false);
    for &byte in compact {
        let char = char::from(byte);
        out.push(char);
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            ',' | ':' if !in_string => out.push(' '),
            _ => {}
        }
    }
    out
}

/// Equal but for white space; where the client left members out, those that it wrote are equal.
fn assert_same_json(ours: &[u8], theirs: &str, name: &str) {
    let (ours, theirs) = (json(ours), json(theirs.as_bytes()));
    for (member, value) in theirs.as_object().unwrap() {
        assert_eq!(ours.get(member), Some(value), "{member} of {name}");
    }
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

fn check_request<R: FromVector>(vector: &Value) {
    let (name, encoding, limits) = (
        str_of(vector, "name"),
        encoding_of(vector),
        Limits::default(),
    );
    let record = R::from_vector(&vector["value"]);
    let decode = |bytes: Vec<u8>| R::decode(encoding, Bytes::from(bytes), &limits);
    match encoding {
        Encoding::Binary => {
            assert_bytes(name, vector, &record.encode_to_bytes());
            assert_eq!(
                decode(record.encode_to_bytes().to_vec()),
                Ok(record),
                "{name}"
            );
        }
        Encoding::Snappy => {
            // Compressors differ, so only what was compressed is compared.
            assert_bytes(name, &vector["plain"], &record.encode_to_bytes());
            if let Some(body) = vector.get("hex") {
                assert_eq!(
                    decode(unhex(body.as_str().unwrap())),
                    Ok(record.clone()),
                    "{name}"
                );
            }
            assert_eq!(
                decode(snappy::compress(&record.encode_to_bytes())),
                Ok(record),
                "{name}"
            );
        }
        Encoding::Json => {
            let text = record.encode_json();
            match vector.get("text") {
                Some(body) => {
                    let body = body.as_str().unwrap();
                    assert_eq!(decode(body.into()), Ok(record.clone()), "{name}");
                    assert_same_json(&text, body, name);
                }
                None => {
                    let text = with_spaces(&text);
                    assert_eq!(text.len() as u64, number_of(&vector["text_len"]), "{name}");
                    assert_eq!(
                        hex(&Sha256::digest(&text)),
                        str_of(vector, "text_sha256"),
                        "{name}"
                    );
                }
            }
            assert_eq!(decode(text), Ok(record), "{name}");
        }
    }
}

fn check_response<R: FromVector>(vector: &Value) {
    let (name, encoding, limits) = (
        str_of(vector, "name"),
        encoding_of(vector),
        Limits::default(),
    );
    let record = R::from_vector(&vector["value"]);
    assert_eq!(str_of(&vector["wrapper"], "data_type"), R::NAME, "{name}");
    let body = reply_ok(&record, encoding).into_bytes();
    assert_eq!(
        Envelope::decode(encoding, body.clone(), &limits),
        Ok(Envelope::ok(&record, encoding))
    );
    assert_eq!(
        Reply::<R>::decode(encoding, body.clone(), &limits),
        Ok(Ok(record.clone())),
        "{name}"
    );

    match vector
        .get("text")
        .or(vector.get("hex"))
        .map(|body| body.as_str().unwrap())
    {
        Some(text) if encoding == Encoding::Json => {
            let reply = Reply::<R>::decode(encoding, Bytes::from(text.to_owned()), &limits);
            assert_eq!(reply, Ok(Ok(record)), "{name}");
            let (theirs, ours) = (json(text.as_bytes()), json(&body));
            let (theirs, ours) = (str_of(&theirs, "data_str"), str_of(&ours, "data_str"));
            assert_same_json(ours.as_bytes(), theirs, name);
        }
        None if encoding == Encoding::Json => {
            // The inner text is spaced, too, before it is escaped.
            let inner = Text::from(with_spaces(&record.encode_json()));
            let text = with_spaces(
                &Envelope {
                    data_str: inner,
                    ..Envelope::ok(&record, encoding)
                }
                .encode_json(),
            );
            assert_eq!(text.len() as u64, number_of(&vector["text_len"]), "{name}");
            assert_eq!(
                hex(&Sha256::digest(&text)),
                str_of(vector, "text_sha256"),
                "{name}"
            );
        }
        _ => {
            assert_bytes(name, &vector["inner"], &record.encode_to_bytes());
            assert_bytes(name, vector, &body);
        }
    }
}

#[test]
fn requests_of_the_clients() {
    let vectors = requests();
    for vector in &vectors {
        crate::with_record!(str_of(vector, "record"), check_request(vector));
    }
    assert_eq!(vectors.len(), 49);
}

#[test]
fn responses_that_the_client_reads() {
    let (mut wrapped, mut plain) = (0, 0);
    for vector in &responses() {
        if vector.get("wrapper").is_some() {
            crate::with_record!(str_of(vector, "record"), check_response(vector));
            wrapped += 1;
        } else {
            // A record alone: `bare`, or the envelope of an error.
            crate::with_record!(str_of(vector, "record"), check_request(vector));
            plain += 1;
        }
    }
    assert_eq!((wrapped, plain), (40, 9));
}

#[test]
fn errors_are_the_clients_error_envelopes() {
    let mut checked = 0;
    for vector in &responses() {
        if str_of(vector, "record") != "gpudb_response" {
            continue;
        }
        let envelope = Envelope::from_vector(&vector["value"]);
        // We never send an empty message.
        if !envelope.message.is_empty() {
            let body = reply_error(&envelope.message, encoding_of(vector)).into_bytes();
            let expected = Err(ServerError {
                message: envelope.message.clone(),
            });
            let reply = Reply::<GetJobResponse>::decode(
                encoding_of(vector),
                body.clone(),
                &Limits::default(),
            );
            assert_eq!(reply, Ok(expected));
            if encoding_of(vector) == Encoding::Binary {
                assert_bytes(str_of(vector, "name"), vector, &body);
            } else {
                assert_eq!(with_spaces(&body), str_of(vector, "text"));
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 4);
}

fn decode_invalid<R: FromVector>(vector: &Value) -> Result<(), DecodeError> {
    let body = match vector.get("hex") {
        Some(hex) => unhex(hex.as_str().unwrap()),
        None => str_of(vector, "text").into(),
    };
    let record = R::decode(encoding_of(vector), Bytes::from(body), &Limits::default())?;
    // Where both sides take a body, they see the same in it.
    if let Some(value) = vector.get("client_value") {
        assert_eq!(record, R::from_vector(value), "{}", str_of(vector, "name"));
    }
    Ok(())
}

/// Bodies that the client reads and a server may refuse; which of them we take is a decision, kept here.
#[test]
fn odd_and_broken_bodies() {
    let taken_by_choice = [
        "map_repeated_key",
        "long_overlong_zero",
        "long_overlong_ten",
        "json_missing_options",
        "json_null_options",
        "json_extra_field",
        "json_id_float_whole",
        "json_option_number",
        "json_duplicate_member",
    ];
    let refused_by_choice = [
        "map_negative_block_wrong_size",
        "trailing_garbage",
        "json_id_string",
        "json_data_node_buffer",
    ];
    let vectors = invalid();
    for vector in &vectors {
        let name = str_of(vector, "name");
        let decoded = crate::with_record!(str_of(vector, "record"), decode_invalid(vector));
        let expected = match str_of(vector, "server") {
            "accept" => true,
            "reject" => false,
            _ => {
                let taken = taken_by_choice.contains(&name);
                assert!(
                    taken || refused_by_choice.contains(&name),
                    "undecided: {name}"
                );
                taken
            }
        };
        assert_eq!(decoded.is_ok(), expected, "{name}: {decoded:?}");
    }
    assert_eq!(vectors.len(), 64);
}
