//! Shared UTF-8 text.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use bytestring::ByteString;

/// A string over shared [`Bytes`]: cloning counts a reference, it copies no text.
///
/// Text that was decoded is a slice of the received body and keeps all of that body alive; use
/// [`Text::copy_from`] for a short text that is to outlive a large body.
///
/// ```
/// use bytes::Bytes;
/// use kjob_proto::Text;
///
/// let body = Bytes::from_static(b"/create/job");
/// let text = Text::try_from(body.slice(1..7))?;
/// assert_eq!(text, "create");
/// assert_eq!(text.as_bytes().as_ptr(), body[1..].as_ptr());
/// # Ok::<(), kjob_proto::NotUtf8>(())
/// ```
#[derive(Clone, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Text(ByteString);

impl Text {
    /// An empty text; allocates nothing.
    pub const fn new() -> Self {
        Self(ByteString::new())
    }

    /// Wraps a text that lives as long as the program; allocates nothing.
    pub const fn from_static(text: &'static str) -> Self {
        Self(ByteString::from_static(text))
    }

    /// Copies `text` into a buffer of its own.
    pub fn copy_from(text: &str) -> Self {
        Self(ByteString::from(text))
    }

    /// A part of this text, sharing its bytes; a copy if `part` is no slice of it.
    #[cfg(feature = "json")]
    pub(crate) fn slice_of(&self, part: &str) -> Self {
        let whole = self.as_str().as_bytes().as_ptr_range();
        let range = part.as_bytes().as_ptr_range();
        if whole.start <= range.start && range.end <= whole.end {
            Self(self.0.slice_ref(part))
        } else {
            Self::copy_from(part)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared bytes of the text.
    pub fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }

    /// The shared bytes of the text, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0.into_bytes()
    }
}

/// Bytes that were to be text are not UTF-8.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not UTF-8 after {valid_up_to} bytes")]
pub struct NotUtf8 {
    /// How many bytes from the start are valid.
    pub valid_up_to: usize,
}

impl TryFrom<Bytes> for Text {
    type Error = NotUtf8;

    /// Checks the bytes and keeps them, without a copy.
    #[inline]
    fn try_from(bytes: Bytes) -> Result<Self, NotUtf8> {
        match ByteString::try_from(bytes) {
            Ok(text) => Ok(Self(text)),
            Err(error) => Err(NotUtf8 {
                valid_up_to: error.valid_up_to(),
            }),
        }
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self::from_static(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(ByteString::from(text))
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<Text> for str {
    fn eq(&self, other: &Text) -> bool {
        self == other.as_str()
    }
}

impl PartialEq<Text> for &str {
    fn eq(&self, other: &Text) -> bool {
        *self == other.as_str()
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::hash_map::DefaultHasher;
    use std::hash::{Hash, Hasher};

    use super::*;

    #[test]
    fn bad_utf8_is_refused_with_its_place() {
        let error = Text::try_from(Bytes::from_static(b"ab\xffcd")).unwrap_err();
        assert_eq!(error, NotUtf8 { valid_up_to: 2 });
    }

    #[test]
    fn hashes_as_str_so_that_maps_can_be_asked_with_str() {
        let hash = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            hasher.finish()
        };
        let text = Text::from("tag");
        assert_eq!(hash(&|h| text.hash(h)), hash(&|h| "tag".hash(h)));
        let map = HashMap::from([(text, 1)]);
        assert_eq!(map.get("tag"), Some(&1));
        assert_eq!(map.get("tog"), None);
    }

    #[test]
    fn a_clone_shares_and_a_copy_does_not() {
        let text = Text::from(String::from("shared"));
        assert_eq!(text.clone().as_bytes().as_ptr(), text.as_bytes().as_ptr());
        assert_ne!(
            Text::copy_from(&text).as_bytes().as_ptr(),
            text.as_bytes().as_ptr()
        );
    }
}
