//! Keyed hashes, by which credentials and names are remembered.

use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Update};

/// The keyed hash of credentials, or of a name.
pub(crate) type Print = [u8; 32];

/// What they are hashed with. Does not show in `Debug`, as it has none.
#[derive(Clone)]
pub(crate) struct PrintKey([u8; 32]);

impl PrintKey {
    /// One of this process alone, so that nothing that is remembered tells anything elsewhere.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The keyed hash of some bytes of a kind.
    pub(crate) fn print(&self, kind: &[u8], bytes: &[u8]) -> Print {
        let Ok(mut mac) = Blake2bMac::<U32>::new_from_slice(&self.0) else {
            unreachable!("a key of 32 bytes is not longer than 64");
        };
        mac.update(kind);
        mac.update(&[0]);
        mac.update(bytes);
        mac.finalize_fixed().into()
    }
}
