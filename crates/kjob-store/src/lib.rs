#![doc = include_str!("../README.md")]

#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(any(feature = "embedded", feature = "postgres"))]
mod info_blob;
#[cfg(any(feature = "embedded", feature = "postgres"))]
mod observer;
#[cfg(any(feature = "embedded", feature = "postgres"))]
mod panics;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "embedded", feature = "postgres"))]
mod values;

#[cfg(any(feature = "embedded", feature = "postgres"))]
pub use observer::{CommitObserver, Observed};
