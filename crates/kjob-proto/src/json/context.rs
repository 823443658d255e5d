//! What one decode of JSON carries along: limits, the place, and the typed error.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use serde::de::Error;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::{Limits, Text};

/// What all visitors of one decode share.
pub(crate) struct Context<'a> {
    /// What the text lies in, whether it is UTF-8 or not; empty if it is not shared.
    body: &'a Bytes,
    /// All of the text; empty if it is not shared, or not known to be UTF-8.
    shared: &'a Text,
    /// All of the text, for the places of errors.
    text: &'a str,
    pub(crate) limits: &'a Limits,
    pub(crate) field: Cell<&'static str>,
    /// The typed form of the error that is on its way up through serde_json.
    pub(crate) failure: RefCell<Option<DecodeErrorKind>>,
}

/// Nothing that is shared.
static NO_BODY: Bytes = Bytes::new();

impl<'a> Context<'a> {
    /// Of text that is known to be UTF-8.
    pub(crate) fn new(text: &'a str, shared: &'a Text, limits: &'a Limits) -> Self {
        Self {
            body: &NO_BODY,
            shared,
            text,
            limits,
            field: Cell::new(DecodeError::BODY),
            failure: RefCell::new(None),
        }
    }

    /// Of a body of which each text that is taken has to be checked. It cannot tell the places of errors.
    pub(crate) fn unchecked(body: &'a Bytes, no_text: &'a Text, limits: &'a Limits) -> Self {
        Self {
            body,
            ..Self::new("", no_text, limits)
        }
    }

    /// Hands an error to serde_json, which adds the place, and keeps its typed form.
    pub(crate) fn fail<E: Error>(&self, kind: DecodeErrorKind) -> E {
        let error = E::custom("see Context::failure");
        *self.failure.borrow_mut() = Some(kind);
        error
    }

    /// Adds the name of a field to the error that is on its way up.
    #[cfg(feature = "dynamic")]
    pub(crate) fn in_field(&self, name: &str) {
        let mut failure = self.failure.borrow_mut();
        *failure = failure.take().map(|kind| kind.in_field(name));
    }

    pub(crate) fn error(&self, error: &serde_json::Error) -> DecodeError {
        let lines = self
            .text
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1));
        let offset = lines.map(str::len).sum::<usize>() + error.column();
        let kind = self.failure.take().unwrap_or_else(|| {
            let message = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            DecodeErrorKind::Json(message.strip_suffix(&place).unwrap_or(&message).into())
        });
        DecodeError::new(kind, self.field.get(), offset)
    }

    pub(crate) fn check_depth<E: Error>(&self, depth: usize) -> Result<(), E> {
        let limit = self.limits.max_depth;
        if depth > limit {
            Err(self.fail(DecodeErrorKind::TooDeep { limit }))
        } else {
            Ok(())
        }
    }

    pub(crate) fn check_entries<E: Error>(&self, found: usize) -> Result<(), E> {
        let limit = self.limits.max_map_entries;
        if found > limit {
            return Err(self.fail(DecodeErrorKind::TooManyEntries {
                found: found as u64,
                limit,
            }));
        }
        Ok(())
    }

    pub(crate) fn check_string(&self, text: &str) -> Result<(), DecodeErrorKind> {
        let limit = self.limits.max_string;
        if text.len() > limit {
            return Err(DecodeErrorKind::TooLong {
                found: text.len() as u64,
                limit,
            });
        }
        Ok(())
    }

    /// A slice of the body as text, if it is UTF-8.
    pub(crate) fn checked(&self, slice: &[u8]) -> Result<Text, DecodeErrorKind> {
        Text::try_from(self.body.slice_ref(slice)).map_err(|_| DecodeErrorKind::NotUtf8)
    }

    /// Text without escapes is a slice of the body; other text was put together, and is copied if it was not
    /// given away.
    pub(crate) fn text(&self, text: Str<'_>) -> Text {
        match text {
            Str::InBody(text) => self.shared.slice_of(text),
            Str::Unescaped(text) => Text::copy_from(text),
            Str::Owned(text) => text,
        }
    }
}

pub(crate) enum Str<'a> {
    InBody(&'a str),
    Unescaped(&'a str),
    Owned(Text),
}

impl Str<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Str::InBody(text) | Str::Unescaped(text) => text,
            Str::Owned(text) => text,
        }
    }
}
