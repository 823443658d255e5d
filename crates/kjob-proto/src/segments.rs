//! Encoded bytes in a few pieces.

use bytes::Bytes;

use crate::sink::Sink;
use crate::varint;

/// A payload of at least this many bytes is a segment of its own; a smaller one is copied.
///
/// A segment costs two reference counts and an entry in the vectored write, some 50 ns; memory is copied at
/// about 10 bytes a nanosecond once it is out of the cache. So 4 KiB is well past the break-even, and
/// keeps the many small answers in one piece.
pub const SEGMENT_MIN: usize = 4096;

/// Payloads of one encoding that become segments of their own: no record has more than two payload fields.
const SHARED_MAX: usize = 2;

/// Encoded bytes as one to five pieces, to be sent in order.
///
/// Big payloads are pieces of their own that share the memory of the record, so that an envelope around a
/// response around a 64 MiB result costs no copy. Nothing here allocates but [`Segments::into_bytes`].
///
/// ```
/// use bytes::Bytes;
/// use kjob_proto::{CreateJobRequest, Record};
///
/// let data = Bytes::from(vec![7; 1 << 20]);
/// let request = CreateJobRequest { data: data.clone(), ..Default::default() };
/// let segments = request.encode_segments();
/// assert_eq!(segments.total_len(), request.encoded_len());
/// // The payload is the very memory that was given.
/// assert!(segments.iter().any(|segment| segment.as_ptr() == data.as_ptr()));
/// assert_eq!(segments.into_bytes(), request.encode_to_bytes());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Segments {
    /// None of the pieces before `len` is empty; those from there on are.
    pieces: [Bytes; 2 * SHARED_MAX + 1],
    len: usize,
}

impl Segments {
    /// How many bytes there are in all.
    pub fn total_len(&self) -> usize {
        self.iter().map(Bytes::len).sum()
    }

    /// The pieces, in order; none is empty.
    pub fn iter(&self) -> std::slice::Iter<'_, Bytes> {
        self.pieces.get(..self.len).unwrap_or_default().iter()
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All in one buffer; copies if there is more than one piece.
    pub fn into_bytes(mut self) -> Bytes {
        if self.len <= 1 {
            return self
                .pieces
                .first_mut()
                .map(std::mem::take)
                .unwrap_or_default();
        }
        let mut whole = Vec::with_capacity(self.total_len());
        for piece in &self {
            whole.extend_from_slice(piece);
        }
        Bytes::from(whole)
    }

    fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        if let Some(free) = self.pieces.get_mut(self.len) {
            *free = piece;
            self.len += 1;
        } else {
            debug_assert!(false, "SegmentWriter shares at most SHARED_MAX payloads");
        }
    }
}

impl From<Bytes> for Segments {
    fn from(bytes: Bytes) -> Self {
        let mut segments = Self::default();
        segments.push(bytes);
        segments
    }
}

impl From<Vec<u8>> for Segments {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl IntoIterator for Segments {
    type Item = Bytes;
    type IntoIter = std::iter::Take<std::array::IntoIter<Bytes, { 2 * SHARED_MAX + 1 }>>;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.into_iter().take(self.len)
    }
}

impl<'a> IntoIterator for &'a Segments {
    type Item = &'a Bytes;
    type IntoIter = std::slice::Iter<'a, Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Whether a payload becomes a segment, given how many already did.
fn is_shared(payload: &Bytes, shared_before: usize) -> bool {
    payload.len() >= SEGMENT_MIN && shared_before < SHARED_MAX
}

/// Counts what [`SegmentWriter`] would copy.
#[derive(Default)]
struct InlineLen {
    bytes: usize,
    shared: usize,
}

impl Sink for InlineLen {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn put_byte(&mut self, _: u8) {
        self.bytes += 1;
    }

    fn put_long(&mut self, value: i64) {
        self.bytes += varint::len(value);
    }

    fn put_payload(&mut self, payload: &Bytes) {
        if is_shared(payload, self.shared) {
            self.shared += 1;
        } else {
            self.bytes += payload.len();
        }
    }
}

/// Writes everything but big payloads into one buffer and remembers where they go.
struct SegmentWriter {
    inline: Vec<u8>,
    /// Where in `inline` a payload is to be put.
    cuts: [(usize, Bytes); SHARED_MAX],
    shared: usize,
}

impl Sink for SegmentWriter {
    fn put(&mut self, bytes: &[u8]) {
        self.inline.put(bytes);
    }

    fn put_byte(&mut self, byte: u8) {
        self.inline.put_byte(byte);
    }

    fn put_long(&mut self, value: i64) {
        self.inline.put_long(value);
    }

    fn put_payload(&mut self, payload: &Bytes) {
        match self.cuts.get_mut(self.shared) {
            Some(cut) if is_shared(payload, self.shared) => {
                *cut = (self.inline.len(), payload.clone());
                self.shared += 1;
            }
            _ => self.inline.put(payload),
        }
    }
}

/// What can be written to any sink: a record, or an envelope around one.
pub(crate) trait Write {
    fn write(&self, sink: &mut impl Sink);
}

/// Encodes into segments, with one allocation for all that is no big payload.
pub(crate) fn segments(value: &impl Write) -> Segments {
    let mut len = InlineLen::default();
    value.write(&mut len);
    let mut writer = SegmentWriter {
        inline: Vec::with_capacity(len.bytes),
        cuts: Default::default(),
        shared: 0,
    };
    value.write(&mut writer);
    debug_assert_eq!(writer.inline.len(), len.bytes, "both passes see the same");

    let mut rest = Bytes::from(writer.inline);
    let mut segments = Segments::default();
    let mut taken = 0;
    for (at, payload) in writer.cuts.into_iter().take(writer.shared) {
        segments.push(rest.split_to(at - taken));
        segments.push(payload);
        taken = at;
    }
    segments.push(rest);
    segments
}
