//! Where encoded bytes go.

use bytes::Bytes;

use crate::varint;

/// A receiver of Avro binary. One `write` of a record serves all: measuring, one buffer, segments.
pub trait Sink {
    /// Takes bytes as they are.
    fn put(&mut self, bytes: &[u8]);

    /// Takes one byte as it is.
    fn put_byte(&mut self, byte: u8);

    /// Takes an Avro `int` or `long`.
    fn put_long(&mut self, value: i64);

    /// Takes bytes that may be large and that can be shared instead of copied.
    fn put_payload(&mut self, payload: &Bytes);

    /// Takes a length and then that many bytes.
    #[inline]
    fn put_string(&mut self, bytes: &[u8]) {
        self.put_len(bytes.len());
        self.put(bytes);
    }

    /// Takes a length or a count.
    #[inline]
    fn put_len(&mut self, len: usize) {
        // No slice is longer than isize::MAX.
        self.put_long(len as i64);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn put_byte(&mut self, byte: u8) {
        self.push(byte);
    }

    #[inline]
    fn put_long(&mut self, value: i64) {
        varint::write(value, self);
    }

    #[inline]
    fn put_payload(&mut self, payload: &Bytes) {
        self.extend_from_slice(payload);
    }
}

/// Counts the bytes that another sink would take.
#[derive(Default)]
pub(crate) struct Measure(pub(crate) usize);

impl Sink for Measure {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    #[inline]
    fn put_byte(&mut self, _: u8) {
        self.0 += 1;
    }

    #[inline]
    fn put_long(&mut self, value: i64) {
        self.0 += varint::len(value);
    }

    #[inline]
    fn put_payload(&mut self, payload: &Bytes) {
        self.0 += payload.len();
    }
}
