//! As much of HTTP/1.1 as the load needs: the head of a request, and where an answer ends.

use anyhow::{Context, Result, bail};

/// A POST with this body.
pub(crate) fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = head(path);
    end_head(&mut request, body.len());
    request.extend_from_slice(body);
    request
}

/// A request up to the number of bytes of its body.
pub(crate) fn head(path: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nContent-Length: "
    )
    .into_bytes()
}

/// What comes between such a head and the body.
pub(crate) fn end_head(request: &mut Vec<u8>, body_len: usize) {
    use std::io::Write as _;
    // Writing to a vector cannot fail.
    let _ = write!(request, "{body_len}\r\n\r\n");
}

/// An answer that has come whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) body: &'a [u8],
    /// Of head and body.
    pub(crate) len: usize,
}

/// The answer at the beginning of `input`, once all of it is there.
///
/// # Errors
/// It is none, its status is not 200, or it does not tell its length.
pub(crate) fn answer(input: &[u8]) -> Result<Option<Answer<'_>>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = response.parse(input)? else {
        return Ok(None);
    };
    if response.code != Some(200) {
        bail!("refused: {:.300}", String::from_utf8_lossy(input));
    }
    let is_length =
        |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("content-length");
    let length = response.headers.iter().find(is_length);
    let length = length.context("an answer without Content-Length")?.value;
    let length: usize = std::str::from_utf8(length)?.trim().parse()?;
    let len = head_len + length;
    let body = input.get(head_len..len);
    Ok(body.map(|body| Answer { body, len }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert_eq!(answer(&whole[..cut]).unwrap(), None, "{cut}");
        }
        let read = answer(whole).unwrap().unwrap();
        assert_eq!((read.body, read.len), (&b"abc"[..], whole.len()));
    }

    #[test]
    fn refusals_and_answers_without_an_end_are_errors() {
        let refused = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
        assert!(answer(refused).unwrap_err().to_string().contains("429"));
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_tells_the_length_of_its_body() {
        let request = post("/x", b"1234");
        let text = String::from_utf8(request).unwrap();
        assert!(text.starts_with("POST /x HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 4\r\n\r\n1234"), "{text}");
    }
}
