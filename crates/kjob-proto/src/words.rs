//! The words that the protocol itself puts into fields (docs/protocol.md sections 3 and 4), and the names that are
//! most often keys of its maps.

/// The longest is `show_system_properties_response`.
pub(crate) const LEN_MAX: usize = 31;

/// The word that `bytes` are, as one that needs no memory of its own.
///
/// It spares two atomic counts and a check of UTF-8, which is a few per cent of a decode, and a word that is
/// kept does not keep the body that it came in.
#[inline]
pub(crate) fn known(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        b"OK" => "OK",
        b"ERROR" => "ERROR",
        b"none" => "none",
        b"binary" => "binary",
        b"json" => "json",
        b"snappy" => "snappy",
        b"RUNNING" => "RUNNING",
        b"DONE" => "DONE",
        b"CANCELLED" => "CANCELLED",
        b"cancel" => "cancel",
        b"create_job_response" => "create_job_response",
        b"get_job_response" => "get_job_response",
        b"admin_show_jobs_response" => "admin_show_jobs_response",
        b"admin_alter_jobs_response" => "admin_alter_jobs_response",
        b"show_system_status_response" => "show_system_status_response",
        b"show_system_properties_response" => "show_system_properties_response",
        _ => return None,
    })
}

/// The same for the keys of `options`, `info` and `status_map`.
#[inline]
pub(crate) fn known_key(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        b"job_tag" => "job_tag",
        b"query_id" => "query_id",
        b"existing" => "existing",
        b"error_message" => "error_message",
        b"priority" => "priority",
        b"wait_ms" => "wait_ms",
        b"delay_ms" => "delay_ms",
        b"timeout_ms" => "timeout_ms",
        b"retention_seconds" => "retention_seconds",
        b"remove_job_on_complete" => "remove_job_on_complete",
        b"callback_url" => "callback_url",
        b"user_data" => "user_data",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crate::*;

    /// They are told apart from texts that only begin like them, and the limit holds for them as well.
    #[test]
    fn words_decode_as_any_text() {
        for status in [
            "OK",
            "ok",
            "O",
            "OKAY",
            "ERROR",
            "show_system_properties_response",
            "",
            "a",
        ] {
            let envelope = Envelope {
                status: status.into(),
                ..Default::default()
            };
            let body = envelope.encode_to_bytes();
            let limits = Limits::default().with_max_string(status.len());
            assert_eq!(Envelope::decode_binary(body.clone(), &limits), Ok(envelope));
            if let Some(past) = status.len().checked_sub(1) {
                let error =
                    Envelope::decode_binary(body, &limits.with_max_string(past)).unwrap_err();
                let found = status.len() as u64;
                assert_eq!(error.kind, DecodeErrorKind::TooLong { found, limit: past });
            }
        }
    }

    #[test]
    fn a_word_does_not_keep_the_body() {
        let body = Envelope {
            status: "OK".into(),
            ..Default::default()
        }
        .encode_to_bytes();
        let decoded = Envelope::decode_binary(body.clone(), &Limits::default()).unwrap();
        assert!(body.is_unique(), "{decoded:?} is all there is");
    }

    /// Only the value refers to the body.
    #[test]
    fn keys_decode_as_any_text_and_do_not_keep_the_body() {
        for (key, is_known) in [
            ("job_tag", true),
            ("job_tags", false),
            ("Job_tag", false),
            ("remove_job_on_complete", true),
            ("", true),
            ("a", false),
        ] {
            let request = GetJobRequest {
                options: StringMap::from_iter([(key, "")]),
                ..Default::default()
            };
            let body = request.encode_to_bytes();
            let limits = Limits::default().with_max_string(key.len());
            let decoded = GetJobRequest::decode_binary(body.clone(), &limits).unwrap();
            assert_eq!(decoded, request);
            assert_eq!(body.is_unique(), is_known, "{key}");
            if let Some(past) = key.len().checked_sub(1) {
                let limits = limits.with_max_string(past);
                let error = GetJobRequest::decode_binary(body, &limits).unwrap_err();
                let found = key.len() as u64;
                assert_eq!(error.kind, DecodeErrorKind::TooLong { found, limit: past });
            }
        }
    }

    #[test]
    fn the_longest_word_is_known() {
        let longest = "show_system_properties_response";
        assert_eq!(
            (super::LEN_MAX, super::known(longest.as_bytes())),
            (longest.len(), Some(longest))
        );
    }
}
