//! Panics: what they say, and what is told to whoever waits for what panicked.

use std::any::Any;
use std::sync::Arc;

use kjob_core::StoreError;

/// What is told to whoever waits for work that panicked. Nobody knows how far it came.
pub(crate) fn panicked(doing: &'static str) -> StoreError {
    StoreError::Io {
        doing,
        source: Arc::new(Panicked),
    }
}

/// A panic in work of the store.
#[derive(Debug, thiserror::Error)]
#[error("it panicked; the log says more")]
struct Panicked;

/// The words of a panic, if it has some.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default()
}
