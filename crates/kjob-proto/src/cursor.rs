//! Reading Avro binary from shared bytes.

use std::cell::Cell;

use bytes::Bytes;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::varint::{LEN_MAX, unzigzag};
use crate::{Limits, StringMap, Text, words};

/// A read failed; the error waits in the cursor. A result with this is no larger than its value.
#[derive(Clone, Copy, Debug)]
pub struct Failed;

type Result<T, E = Failed> = std::result::Result<T, E>;

/// The head of a block of a map or an array.
pub(crate) struct Block {
    /// Where it begins.
    pub(crate) at: usize,
    /// How many entries it has.
    pub(crate) count: u64,
    /// How many bytes they are said to take.
    announced: Option<u64>,
    /// Where the entries begin.
    start: usize,
}

/// A place in a body. Nothing but [`Cursor::take`] and [`Cursor::byte`] moves it, and both check.
pub struct Cursor<'a> {
    body: &'a [u8],
    /// What holds the body, if it is shared.
    owner: Option<&'a Bytes>,
    rest: &'a [u8],
    limits: &'a Limits,
    /// The field that is being read, for errors.
    field: &'static str,
    failure: Cell<Option<DecodeError>>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(body: &'a Bytes, limits: &'a Limits) -> Self {
        Self {
            owner: Some(body),
            ..Self::of_slice(body, limits)
        }
    }

    /// A cursor whose texts and payloads would have to be copied.
    pub(crate) fn of_slice(body: &'a [u8], limits: &'a Limits) -> Self {
        Self {
            body,
            owner: None,
            rest: body,
            limits,
            field: DecodeError::BODY,
            failure: Cell::new(None),
        }
    }

    /// Says which field comes next.
    #[inline]
    pub(crate) fn field(&mut self, name: &'static str) -> &mut Self {
        self.field = name;
        self
    }

    /// Ends a read: gives its error, or the one of bytes that are left over.
    pub(crate) fn finish<T>(self, read: Result<T>) -> Result<T, DecodeError> {
        let found = self.rest.len();
        match read {
            Ok(value) if found == 0 => Ok(value),
            Ok(_) => {
                let kind = DecodeErrorKind::TrailingBytes { found };
                Err(DecodeError::new(kind, DecodeError::BODY, self.offset()))
            }
            // Each failure was left by `error_at`; what stands here for the lack of one is never seen.
            Err(Failed) => Err(self.failure.take().unwrap_or_else(|| {
                let kind = DecodeErrorKind::UnexpectedEnd { found, needed: 0 };
                DecodeError::new(kind, self.field, self.offset())
            })),
        }
    }

    /// Adds the name of a field, that only a schema known at run time has, to the error that waits.
    #[cfg(feature = "dynamic")]
    pub(crate) fn in_field(&self, name: &str) {
        self.failure.set(self.failure.take().map(|mut error| {
            error.kind = error.kind.in_field(name);
            error
        }));
    }

    #[inline]
    pub(crate) fn boolean(&mut self) -> Result<bool> {
        let at = self.offset();
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(self.error_at(at, DecodeErrorKind::BadBoolean { found })),
        }
    }

    pub(crate) fn int(&mut self) -> Result<i32> {
        let at = self.offset();
        let found = self.long()?;
        i32::try_from(found)
            .map_err(|_| self.error_at(at, DecodeErrorKind::IntegerRange { found, bits: 32 }))
    }

    /// Takes over-long forms of up to ten bytes, as every client's decoder does; bits beyond the 64th
    /// are refused, which the Python client drops (docs/protocol.md section 3, "Avro binary details").
    #[inline(always)]
    pub(crate) fn long(&mut self) -> Result<i64> {
        match *self.rest {
            [byte, ref rest @ ..] if byte < 0x80 => {
                self.rest = rest;
                Ok(unzigzag(u64::from(byte)))
            }
            [low, high, ref rest @ ..] if high < 0x80 => {
                self.rest = rest;
                Ok(unzigzag(u64::from(low & 0x7f) | u64::from(high) << 7))
            }
            _ => self.long_of_many_bytes(),
        }
    }

    fn long_of_many_bytes(&mut self) -> Result<i64> {
        let at = self.offset();
        let mut value = 0;
        for index in 0..LEN_MAX {
            let byte = self.byte()?;
            if index == LEN_MAX - 1 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(unzigzag(value));
            }
        }
        Err(self.error_at(at, DecodeErrorKind::BadVarint))
    }

    /// Bytes of any length that the body can hold.
    #[inline(always)]
    pub(crate) fn payload(&mut self) -> Result<Bytes> {
        let at = self.offset();
        let len = self.length(at)?;
        self.shared(len, at)
    }

    /// Text of any length that the body can hold.
    #[inline(always)]
    pub(crate) fn payload_text(&mut self) -> Result<Text> {
        let bytes = self.payload()?;
        let at = self.offset() - bytes.len();
        self.text_of(bytes, at)
    }

    /// Text within [`Limits::max_string`].
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Text> {
        let at = self.offset();
        let len = self.length(at)?;
        if len > self.limits.max_string as u64 {
            return Err(self.error_at(
                at,
                DecodeErrorKind::TooLong {
                    found: len,
                    limit: self.limits.max_string,
                },
            ));
        }
        let bytes = self.shared(len, at)?;
        let at = self.offset() - bytes.len();
        self.text_of(bytes, at)
    }

    /// A string that is most often one of the protocol's own words; those need no reference to the body.
    #[inline]
    pub(crate) fn word(&mut self) -> Result<Text> {
        self.string_known(words::known)
    }

    /// A string of which `known` may know a form that needs no reference to the body.
    #[inline(always)]
    fn string_known(&mut self, known: impl Fn(&[u8]) -> Option<&'static str>) -> Result<Text> {
        let (at, start) = (self.offset(), self.rest);
        let len = self.length(at)?;
        if len <= words::LEN_MAX.min(self.limits.max_string) as u64
            && let Some(word) = known(self.take(len, at)?)
        {
            return Ok(Text::from_static(word));
        }
        self.rest = start;
        self.string()
    }

    pub(crate) fn map(&mut self) -> Result<StringMap> {
        // An entry has at least its two lengths.
        let entry = |cursor: &mut Self| {
            let key = cursor.string_known(words::known_key)?;
            Ok((key, cursor.string()?))
        };
        let entries = self.blocks(2, entry)?;
        Ok(StringMap::from_entries(entries))
    }

    pub(crate) fn longs(&mut self) -> Result<Vec<i64>> {
        self.blocks(1, Self::long)
    }

    pub(crate) fn strings(&mut self) -> Result<Vec<Text>> {
        self.blocks(1, Self::string)
    }

    /// The blocks of a map or an array, in all legal forms: any number of them, each with a positive
    /// count, or a negative one that is followed by the block's size in bytes.
    fn blocks<T>(
        &mut self,
        item_len_min: u64,
        read: impl Fn(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while let Some(block) = self.block()? {
            // Both checks stand before the allocation: what fits the limit may still not be there.
            let limit = self.limits.max_map_entries;
            let found = block.count.saturating_add(items.len() as u64);
            if found > limit as u64 {
                let kind = DecodeErrorKind::TooManyEntries { found, limit };
                return Err(self.error_at(block.at, kind));
            }
            let needed = block.count.saturating_mul(item_len_min);
            if needed > self.rest.len() as u64 {
                return Err(self.unexpected_end(block.at, needed));
            }
            let count = usize::try_from(block.count).unwrap_or(limit);
            if items.is_empty() {
                items = Vec::with_capacity(count);
            } else {
                items.reserve_exact(count);
            }
            for _ in 0..count {
                items.push(read(self)?);
            }
            self.end_block(&block)?;
        }
        Ok(items)
    }

    /// The head of the next block, or `None` at the end. The count is not checked against anything.
    #[inline]
    pub(crate) fn block(&mut self) -> Result<Option<Block>> {
        let at = self.offset();
        let count = self.long()?;
        if count == 0 {
            return Ok(None);
        }
        let announced = if count < 0 {
            Some(self.length(self.offset())?)
        } else {
            None
        };
        if count == i64::MIN {
            return Err(self.error_at(at, DecodeErrorKind::BadCount { found: count }));
        }
        Ok(Some(Block {
            at,
            count: count.unsigned_abs(),
            announced,
            start: self.offset(),
        }))
    }

    /// Checks the size that a block announced.
    #[inline]
    pub(crate) fn end_block(&self, block: &Block) -> Result<()> {
        let found = (self.offset() - block.start) as u64;
        match block.announced {
            Some(announced) if announced != found => {
                Err(self.error_at(block.at, DecodeErrorKind::BlockSize { announced, found }))
            }
            _ => Ok(()),
        }
    }

    /// A length and that many bytes, not shared.
    #[cfg(feature = "dynamic")]
    pub(crate) fn slice(&mut self) -> Result<&'a [u8]> {
        let at = self.offset();
        let len = self.length(at)?;
        self.take(len, at)
    }

    /// Exactly `len` bytes, not shared.
    #[cfg(feature = "dynamic")]
    pub(crate) fn fixed(&mut self, len: usize) -> Result<&'a [u8]> {
        self.take(len as u64, self.offset())
    }

    #[inline(always)]
    fn length(&mut self, at: usize) -> Result<u64> {
        let found = self.long()?;
        u64::try_from(found)
            .map_err(|_| self.error_at(at, DecodeErrorKind::NegativeLength { found }))
    }

    /// A slice of the body; empty ones hold no reference to it.
    #[inline(always)]
    fn shared(&mut self, len: u64, at: usize) -> Result<Bytes> {
        let start = self.offset();
        let slice = self.take(len, at)?;
        Ok(match self.owner {
            _ if slice.is_empty() => Bytes::new(),
            Some(owner) => owner.slice(start..start + slice.len()),
            None => Bytes::copy_from_slice(slice),
        })
    }

    #[inline(always)]
    fn text_of(&self, bytes: Bytes, at: usize) -> Result<Text> {
        Text::try_from(bytes)
            .map_err(|error| self.error_at(at + error.valid_up_to, DecodeErrorKind::NotUtf8))
    }

    #[inline(always)]
    fn take(&mut self, len: u64, at: usize) -> Result<&'a [u8]> {
        let taken = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len));
        let Some((taken, rest)) = taken else {
            return Err(self.unexpected_end(at, len));
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8> {
        let Some((&byte, rest)) = self.rest.split_first() else {
            return Err(self.unexpected_end(self.offset(), 1));
        };
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.body.len() - self.rest.len()
    }

    #[cold]
    fn unexpected_end(&self, at: usize, needed: u64) -> Failed {
        self.error_at(
            at,
            DecodeErrorKind::UnexpectedEnd {
                found: self.rest.len(),
                needed,
            },
        )
    }

    /// Leaves an error for [`Cursor::finish`].
    #[cold]
    pub(crate) fn error_at(&self, offset: usize, kind: DecodeErrorKind) -> Failed {
        self.failure
            .set(Some(DecodeError::new(kind, self.field, offset)));
        Failed
    }
}
