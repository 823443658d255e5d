//! HTTP/2 by frames, without a care for what may be sent.

use std::io;
use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

use super::http1::Connection;
use super::tally::Tally;
use std::sync::Arc;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The setting of the window that new streams have.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest frame that is read: the server may not send longer ones.
const FRAME_LEN_MAX: usize = 16 << 10;

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) struct Frames {
    write: OwnedWriteHalf,
    read: Option<OwnedReadHalf>,
    batch: BytesMut,
    tally: Arc<Tally>,
}

/// How a connection was received to its end.
pub(crate) type Reading = JoinHandle<()>;

impl Frames {
    /// Connects, and says hello with these settings.
    pub(crate) async fn open(
        server: SocketAddr,
        settings: &[(u16, u32)],
        tally: &Arc<Tally>,
    ) -> io::Result<Self> {
        let stream: TcpStream = Connection::open(server).await?.stream;
        tally.connected();
        let (read, write) = stream.into_split();
        let mut frames = Self {
            write,
            read: Some(read),
            batch: BytesMut::from(PREFACE),
            tally: tally.clone(),
        };
        frames.settings(settings);
        frames.flush().await?;
        Ok(frames)
    }

    /// Reads and counts what the server says, until it closes. Without it nothing is read.
    pub(crate) fn read_on(&mut self) -> Option<Reading> {
        let read = self.read.take()?;
        Some(tokio::spawn(receive(read, self.tally.clone())))
    }

    /// Puts a frame into the batch.
    pub(crate) fn put(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.batch.put_uint(u64::from(len), 3);
        self.batch.put_u8(kind);
        self.batch.put_u8(flags);
        self.batch.put_u32(stream);
        self.batch.put_slice(payload);
    }

    /// Puts a SETTINGS frame into the batch.
    pub(crate) fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = BytesMut::new();
        for (name, value) in settings {
            payload.put_u16(*name);
            payload.put_u32(*value);
        }
        self.put(SETTINGS, 0, 0, &payload);
    }

    /// Puts a whole request into the batch.
    pub(crate) fn request(&mut self, stream: u32, path: &str, body: &[u8]) {
        let block = head_block(path, "application/octet-stream");
        self.put(HEADERS, END_HEADERS, stream, &block);
        self.put(DATA, END_STREAM, stream, body);
    }

    /// How many bytes wait in the batch.
    pub(crate) fn batched(&self) -> usize {
        self.batch.len()
    }

    /// Sends the batch.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.tally.sent(0, self.batch.len());
        let sent = self.write.write_all(&self.batch).await;
        self.batch.clear();
        sent
    }
}

/// A POST's head: three static entries, and literals that are not indexed.
pub(crate) fn head_block(path: &str, content_type: &str) -> BytesMut {
    let mut block = BytesMut::new();
    block.put_slice(&[0x83, 0x86]); // :method POST, :scheme http
    block.put_u8(0x04); // :path
    put_text(&mut block, path);
    block.put_u8(0x01); // :authority
    put_text(&mut block, "127.0.0.1");
    literal(&mut block, 0, "content-type", content_type);
    block
}

/// A literal with its name; `kind` 0 is one that is not indexed, 0x40 one that is.
pub(crate) fn literal(block: &mut BytesMut, kind: u8, name: &str, value: &str) {
    block.put_u8(kind);
    put_text(block, name);
    put_text(block, value);
}

/// A text as it is, its length with a prefix of seven bits.
fn put_text(block: &mut BytesMut, text: &str) {
    let len = text.len();
    if len < 127 {
        block.put_u8(u8::try_from(len).unwrap_or(0));
    } else {
        block.put_u8(127);
        let mut rest = len - 127;
        while rest >= 128 {
            block.put_u8(u8::try_from(rest % 128).unwrap_or(0) | 128);
            rest /= 128;
        }
        block.put_u8(u8::try_from(rest).unwrap_or(0));
    }
    block.put_slice(text.as_bytes());
}

async fn receive(mut read: OwnedReadHalf, tally: Arc<Tally>) {
    let mut head = [0; 9];
    let mut payload = vec![0; FRAME_LEN_MAX];
    loop {
        if read.read_exact(&mut head).await.is_err() {
            return;
        }
        let [a, b, c, kind, ..] = head;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let Some(payload) = payload.get_mut(..len) else {
            return tally.violation(format!("a frame of {len} bytes"));
        };
        if read.read_exact(payload).await.is_err() {
            return;
        }
        match kind {
            // A head begins with its status, which is indexed where it is a common one.
            HEADERS => tally.answered(match payload.first() {
                Some(0x88) => "200",
                Some(0x8c) => "400",
                Some(0x8d) => "404",
                Some(0x8e) => "500",
                _ => "another status",
            }),
            RST_STREAM => tally.answered("RST_STREAM"),
            GOAWAY => tally.answered("GOAWAY"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_texts_have_a_prefix_of_seven_bits() {
        for (len, expected) in [
            (0, &[0][..]),
            (126, &[126]),
            (127, &[127, 0]),
            (254, &[127, 127]),
            (255, &[127, 128, 1]),
            (1464, &[127, 0xb9, 0x0a]),
        ] {
            let mut block = BytesMut::new();
            put_text(&mut block, &"x".repeat(len));
            assert_eq!(block[..expected.len()], *expected, "{len}");
            assert_eq!(block.len(), expected.len() + len);
        }
    }
}
