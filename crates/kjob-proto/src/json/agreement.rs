//! The two readers of JSON agree.

use super::read::{complete, usual};
use bytes::Bytes;

use crate::{Limits, Record};

/// Panics unless what the usual reader takes is what serde_json takes.
pub(crate) fn check_readers<R: Record>(body: &Bytes, limits: &Limits) {
    if let Some(record) = usual::<R>(body, limits) {
        assert_eq!(complete(body, limits), Ok(record), "{body:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{AdminAlterJobsRequest, CreateJobRequest, GetJobResponse};

    fn is_usual<R: Record>(text: &str) -> bool {
        let text = Bytes::copy_from_slice(text.as_bytes());
        check_readers::<R>(&text, &Limits::default());
        usual::<R>(&text, &Limits::default()).is_some()
    }

    #[test]
    fn what_programs_write_is_usual() {
        for text in [
            "{}",
            " { \"endpoint\" : \"/a\" ,\r\n\t\"data\":\"\\u0000é\" } ",
            r#"{"data":"","data_str":"{\"a\":\"\ud83d\ude80\u20ac\\n\"}","options":{"a":"b","c":1,"d":true}}"#,
            r#"{"unknown":[1,-2,[],{},{"a":null}],"\u0065ndpoint":"/a","endpoint":"/b"}"#,
        ] {
            assert!(is_usual::<CreateJobRequest>(text), "{text}");
        }
        assert!(is_usual::<GetJobResponse>(
            r#"{"running":true,"progress":0,"successful":false,"info":null}"#
        ));
        assert!(is_usual::<AdminAlterJobsRequest>(
            r#"{"job_ids":[-999999999999999999,0,7]}"#
        ));
    }

    #[test]
    fn what_is_wrong_or_seldom_is_left_to_serde_json() {
        for text in [
            "",
            "{",
            "[]",
            "{}}",
            "{} x",
            "{,}",
            r#"{"a":1,}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[,1]}"#,
            r#"{"a":[1 2]}"#,
            r#"{"a" "b"}"#,
            r#"{a:1}"#,
            r#"{1:1}"#,
            r#"{"a":01}"#,
            r#"{"a":-}"#,
            r#"{"a":-0}"#,
            r#"{"a":1.5}"#,
            r#"{"a":1e5}"#,
            r#"{"a":9999999999999999999}"#,
            r#"{"a":nul}"#,
            r#"{"a":truefalse}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\ud800\u0041"}"#,
            r#"{"a":"\ud800\u0000"}"#,
            r#"{"a":"\udc00"}"#,
            r#"{"a":"\u+123"}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\"#,
            "{\"a\":\"\n\"}",
            "{\"a\":\"\\\n\"}",
            r#"{"endpoint":7}"#,
            r#"{"data":"€"}"#,
            r#"{"data":"\u0100"}"#,
            r#"{"data":[1]}"#,
            r#"{"options":{"a":[]}}"#,
        ] {
            assert!(!is_usual::<CreateJobRequest>(text), "{text}");
        }
        let deep =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let limits = Limits::default().with_max_depth(1_000);
        for levels in [1, 98, 99, 100, 126, 127, 128, 500] {
            let text = Bytes::from(deep(levels));
            check_readers::<CreateJobRequest>(&text, &limits);
            let is_read = usual::<CreateJobRequest>(&text, &limits).is_some();
            assert_eq!(is_read, levels < 100, "{levels}");
        }
    }

    /// Pieces of records, in which most texts go far before something is wrong.
    fn piece() -> impl Strategy<Value = String> {
        const PIECES: &[&str] = &[
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "/",
            " ",
            "\n",
            "0",
            "1",
            "-",
            "-7",
            "1.5",
            "true",
            "false",
            "null",
            "\\u",
            "\\u00e9",
            "\\u20ac",
            "\\ud83d",
            "\\ude80",
            "\\n",
            "\\\\",
            "\\\"",
            "é",
            "ÿ",
            "\u{80}",
            "€",
            "🚀",
            "\u{0}",
            "\u{7f}",
            "\"endpoint\":",
            "\"data\":\"",
            "\"data_str\":\"",
            "\"options\":{",
            "\"a\":\"b\"",
            "\"job_ids\":[",
            "\",",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ];
        prop_oneof![
            8 => proptest::sample::select(PIECES).prop_map(str::to_owned),
            1 => "\\PC{0,40}",
        ]
    }

    /// A string with what is likely to go wrong in it.
    fn string() -> impl Strategy<Value = String> {
        vec(piece(), 0..30).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
    }

    proptest! {
        /// Bytes that are no UTF-8 in a name, in texts, in bytes, in what is ignored, and beside escapes.
        #[test]
        fn readers_agree_on_what_is_no_text(
            parts in vec(prop_oneof![
                vec(any::<u8>(), 0..4),
                vec(0x7f..0xe0_u8, 0..4),
                piece().prop_map(String::into_bytes),
            ], 0..6),
            place in 0..5_usize,
        ) {
            let forms = [
                r#"{"*":1}"#,
                r#"{"endpoint":"*"}"#,
                r#"{"data":"*"}"#,
                r#"{"x":["*"]}"#,
                r#"{"options":{"*":"*"}}"#,
            ];
            let form = forms[place].as_bytes();
            let parts = parts.concat();
            let text: Vec<u8> = form
                .iter()
                .flat_map(|byte| if *byte == b'*' { &parts[..] } else { std::slice::from_ref(byte) })
                .copied()
                .collect();
            check_readers::<CreateJobRequest>(&Bytes::from(text), &Limits::default());
        }

        #[test]
        fn readers_agree_on_pieces(pieces in vec(piece(), 0..30)) {
            let text = Bytes::from(format!("{{{}", pieces.concat()));
            check_readers::<CreateJobRequest>(&text, &Limits::default());
            check_readers::<AdminAlterJobsRequest>(&text, &Limits::default());
        }

        #[test]
        fn readers_agree_on_strings(data in string(), data_str in string(), key in string(), max in 0..100_usize) {
            let limits = Limits::default().with_max_string(max);
            for text in [
                format!("{{\"data\":{data},\"data_str\":{data_str}}}"),
                format!("{{\"options\":{{{key}:{data_str}}}}}"),
                format!("{{{key}:{data},\"endpoint\":{data_str}}}"),
            ] {
                check_readers::<CreateJobRequest>(&Bytes::from(text), &limits);
            }
        }

        /// Bytes of every kind as each way of writing them has them, so that most texts are read.
        #[test]
        fn readers_agree_on_bytes(characters in vec((0..=0x102_u32, 0..6_u8), 0..200), text: String) {
            let written = characters.into_iter().map(|(character, way)| match (way, char::from_u32(character)) {
                (0, _) => format!("\\u{character:04x}"),
                (1, _) => format!("\\u{character:04X}"),
                (_, Some(plain @ ('"' | '\\' | '/'))) => format!("\\{plain}"),
                (_, Some(plain)) if plain >= ' ' => plain.to_string(),
                _ => ["\\b", "\\f", "\\n", "\\r", "\\t"][character as usize % 5].to_owned(),
            });
            let written: String = written.collect();
            let text = serde_json::to_string(&text).unwrap();
            let text = Bytes::from(format!("{{\"data\":\"{written}\",\"data_str\":\"{written}\",\"endpoint\":{text}}}"));
            check_readers::<CreateJobRequest>(&text, &Limits::default());
        }
    }
}
