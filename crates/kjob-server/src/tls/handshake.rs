//! From a TCP connection to a TLS one.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Tls;

/// The answer to those who speak HTTP without TLS. It is no envelope, as it is not known yet which
/// encoding they would understand.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\n\
    content-length: 48\r\n\
    connection: close\r\n\
    \r\n\
    This port speaks HTTPS: use a URL with https://\n";

/// How much of a plain request is read, so that its answer is not lost.
const PLAIN_READ_MAX: usize = 1 << 20;

/// A client that has begun to speak.
pub(crate) struct Hello {
    stream: TcpStream,
    /// What it begins with; `None` if it left.
    first: Option<u8>,
}

impl Hello {
    /// Waits until the client says something.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn hear(stream: TcpStream) -> io::Result<Self> {
        let mut first = [0];
        let peeked = stream.peek(&mut first).await?;
        let first = (peeked > 0).then_some(first[0]);
        Ok(Self { stream, first })
    }

    /// Shakes hands. `None` is a client that spoke plain HTTP and was told, or one that left.
    ///
    /// # Errors
    /// The client does not speak TLS, or none that the server takes, or shows no certificate that it
    /// takes; or the connection broke.
    pub(crate) async fn answer(self, tls: &Tls) -> io::Result<Option<Box<TlsStream<TcpStream>>>> {
        match self.first {
            None => Ok(None),
            // Methods of HTTP/1, and the preface of HTTP/2.
            Some(byte) if byte.is_ascii_uppercase() => {
                answer_plain(self.stream).await?;
                Ok(None)
            }
            Some(_) => {
                let acceptor = TlsAcceptor::from(tls.current());
                Ok(Some(Box::new(acceptor.accept(self.stream).await?)))
            }
        }
    }
}

async fn answer_plain(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN_ANSWER).await?;
    stream.shutdown().await?;
    // If it were closed while bytes wait to be read, the system would reset the connection, and the
    // client could lose the answer.
    let mut buffer = [0; 4096];
    let mut seen = 0;
    while seen < PLAIN_READ_MAX {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => seen += read,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_answer_has_the_length_that_it_says_and_sends_nobody_away() {
        let text = std::str::from_utf8(PLAIN_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{head}"
        );
        assert!(!kjob_proto::failover::contains_phrase(text));
    }
}
