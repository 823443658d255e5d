//! What goes to an endpoint and what comes back from it.

use std::fmt;

use bytes::Bytes;
use kjob_proto::{Encoding, Text};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::error::Kind;

/// Bytes and how they are encoded. Cloning shares the bytes.
///
/// An endpoint's own record, with no envelope around it (docs/protocol.md section 4). A request
/// may be in any encoding; a result is binary or JSON, never snappy.
///
/// ```
/// use kjob_client::Payload;
/// let payload = Payload::json(r#"{"message": "hello"}"#);
/// assert_eq!(payload.as_text(), Some(r#"{"message": "hello"}"#));
/// assert_eq!(Payload::binary(vec![0]).as_text(), None);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// How the bytes are encoded.
    pub encoding: Encoding,
    /// The bytes.
    pub data: Bytes,
}

impl Payload {
    /// Bare Avro binary.
    pub fn binary(avro: impl Into<Bytes>) -> Self {
        Self {
            encoding: Encoding::Binary,
            data: avro.into(),
        }
    }

    /// JSON text.
    pub fn json(text: impl Into<Text>) -> Self {
        Self {
            encoding: Encoding::Json,
            data: text.into().into_bytes(),
        }
    }

    /// A value as JSON text.
    ///
    /// ```
    /// use kjob_client::Payload;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Echo {
    ///     message: String,
    /// }
    ///
    /// let payload = Payload::from_value(&Echo { message: "hello".into() })?;
    /// assert_eq!(payload.as_text(), Some(r#"{"message":"hello"}"#));
    /// let echo: Echo = payload.to_value()?;
    /// assert_eq!(echo.message, "hello");
    /// # Ok::<(), kjob_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// The value has no JSON form ([`is_usage`](Error::is_usage)), as a map whose keys are no texts.
    pub fn from_value(value: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        let text = serde_json::to_string(value).map_err(Kind::Write)?;
        Ok(Self::json(text))
    }

    /// The value that the JSON text says.
    ///
    /// # Errors
    /// It says no such value, or is no JSON ([`is_odd`](Error::is_odd)). A result of a binary payload
    /// comes as JSON by [`get_in`](crate::Client::get_in).
    pub fn to_value<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match self.encoding {
            Encoding::Json => Ok(serde_json::from_slice(&self.data).map_err(Kind::Read)?),
            other => Err(Error::odd(format!(
                "it is {other}, where JSON was expected"
            ))),
        }
    }

    /// Bare Avro binary, compressed here.
    pub fn snappy(avro: &[u8]) -> Self {
        Self {
            encoding: Encoding::Snappy,
            data: kjob_proto::snappy::compress(avro).into(),
        }
    }

    /// The text, if it is JSON.
    pub fn as_text(&self) -> Option<&str> {
        match self.encoding {
            Encoding::Json => std::str::from_utf8(&self.data).ok(),
            _ => None,
        }
    }
}

/// Shows the length only: payloads do not belong in logs.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({}, {} bytes)", self.encoding, self.data.len())
    }
}
