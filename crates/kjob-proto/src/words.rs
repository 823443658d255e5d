//! The words that the protocol itself puts into fields (docs/protocol.md sections 3 and 4).

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

    #[test]
    fn the_longest_word_is_known() {
        let longest = "show_system_properties_response";
        assert_eq!(
            (super::LEN_MAX, super::known(longest.as_bytes())),
            (longest.len(), Some(longest))
        );
    }
}
