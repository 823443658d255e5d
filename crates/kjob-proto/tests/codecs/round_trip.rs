//! What is written is read back, in each encoding and in each form.

use crate::support::strategies::{Any, payload, payload_text};
use bytes::Bytes;
use kjob_proto::*;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

mod record {
    use super::*;

    crate::for_each_record!(check);

    fn check<R: Any>(record: &R) -> TestCaseResult {
        let limits = Limits::default();
        let binary = record.encode_to_bytes();
        prop_assert_eq!(binary.len(), record.encoded_len());
        prop_assert_eq!(
            R::decode(Encoding::Binary, binary.clone(), &limits),
            Ok(record.clone())
        );

        let snappy = Bytes::from(snappy::compress(&binary));
        prop_assert_eq!(
            R::decode(Encoding::Snappy, snappy, &limits),
            Ok(record.clone())
        );

        let json = record.encode_json();
        prop_assert!(
            json.iter().all(|byte| (b' '..=b'~').contains(byte)),
            "ASCII"
        );
        prop_assert_eq!(
            R::decode(Encoding::Json, Bytes::from(json), &limits),
            Ok(record.clone())
        );
        Ok(())
    }
}

mod form {
    use super::*;

    crate::for_each_record!(check);

    /// One buffer, a reused buffer and segments hold the same bytes.
    fn check<R: Any>(record: &R) -> TestCaseResult {
        let binary = record.encode_to_bytes();
        let mut reused = b"before".to_vec();
        record.encode_into(&mut reused);
        prop_assert_eq!(&reused[6..], &binary);

        let segments = record.encode_segments();
        prop_assert_eq!(segments.total_len(), binary.len());
        prop_assert_eq!(segments.len(), segments.iter().count());
        prop_assert!(segments.iter().all(|segment| !segment.is_empty()));
        prop_assert_eq!(
            segments.clone().into_iter().collect::<Vec<_>>().concat(),
            binary.clone()
        );
        prop_assert_eq!(segments.into_bytes(), binary);
        Ok(())
    }
}

mod reply {
    use super::*;

    crate::for_each_record!(check);

    fn check<R: Any>(record: &R) -> TestCaseResult {
        for encoding in Encoding::ALL {
            let body = reply_ok(record, encoding);
            prop_assert_eq!(body.total_len(), body.clone().into_bytes().len());
            let body = body.into_bytes();
            let reply = Reply::<R>::decode(encoding, body.clone(), &Limits::default());
            prop_assert_eq!(reply, Ok(Ok(record.clone())));

            // The one-buffer way and the segments are the same envelope.
            let envelope = Envelope::ok(record, encoding);
            prop_assert_eq!(
                Envelope::decode(encoding.reply(), body, &Limits::default()),
                Ok(envelope)
            );
        }
        Ok(())
    }
}

proptest! {
    /// A payload is a segment of its own from `SEGMENT_MIN` bytes on, and then it is the record's memory.
    #[test]
    fn payloads_are_shared_or_copied_by_size(data in payload(), data_str in payload_text()) {
        let record = CreateJobRequest { data: data.clone(), data_str: data_str.clone(), ..Default::default() };
        for segments in [record.encode_segments(), reply_ok(&record, Encoding::Binary)] {
            for payload in [&data, data_str.as_bytes()] {
                let is_shared = segments.iter().any(|segment| segment.as_ptr() == payload.as_ptr());
                prop_assert_eq!(is_shared, payload.len() >= SEGMENT_MIN);
            }
        }
    }

    #[test]
    fn errors_come_back_defused_and_never_empty(message: String) {
        for encoding in Encoding::ALL {
            let body = reply_error(&message, encoding).into_bytes();
            let error = Reply::<GetJobResponse>::decode(encoding, body, &Limits::default());
            let text = error.unwrap().unwrap_err().message;
            prop_assert!(!text.is_empty());
            prop_assert!(!failover::contains_phrase(&text));
            prop_assert!(text == message || message.trim_ascii().is_empty() || failover::contains_phrase(&message));
        }
    }
}

#[test]
fn an_echoed_phrase_is_defused_and_a_signal_is_not() {
    for encoding in Encoding::ALL {
        let message = |segments: Segments| {
            let body = segments.into_bytes();
            let reply = Reply::<GetJobResponse>::decode(encoding, body, &Limits::default());
            reply.unwrap().unwrap_err().message
        };
        let echoed = message(reply_error("no endpoint /Connection refused", encoding));
        assert_eq!(echoed, "no endpoint /connection refused");
        let signal = message(reply_failover(Signal::Draining, encoding));
        assert_eq!(signal, "Unavailable: Draining HA queue");
        assert_eq!(message(reply_error(" ", encoding)), "unspecified error");
    }
}

/// Decoding gives slices of the body, not copies.
#[test]
fn decoded_fields_are_slices_of_the_body() {
    let request = CreateJobRequest {
        endpoint: "/demo/echo".into(),
        data: Bytes::from(vec![1; 100]),
        data_str: "text".into(),
        ..Default::default()
    };
    let within = |part: &Bytes, whole: &Bytes| whole.as_ptr_range().contains(&part.as_ptr());
    let body = request.encode_to_bytes();
    let decoded = CreateJobRequest::decode_binary(body.clone(), &Limits::default()).unwrap();
    for part in [
        decoded.endpoint.as_bytes(),
        &decoded.data,
        decoded.data_str.as_bytes(),
    ] {
        assert!(within(part, &body));
    }

    // So does JSON, where the text has no escapes.
    let body = Bytes::from(request.encode_json());
    let decoded = CreateJobRequest::decode_json(body.clone(), &Limits::default()).unwrap();
    assert!(within(decoded.endpoint.as_bytes(), &body));
    assert!(within(decoded.data_str.as_bytes(), &body));
    assert!(!within(&decoded.data, &body), "escaped");
}
