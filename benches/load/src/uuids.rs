//! Random UUIDs, written into a request in place.

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::SmallRng;

/// Where one will stand, as long as it will be.
pub(crate) const PLACE: &str = "00000000-0000-4000-8000-000000000000";

/// Draws UUIDs of version 4.
#[derive(Debug)]
pub(crate) struct Uuids {
    at: usize,
    random: SmallRng,
}

impl Uuids {
    /// Puts one where [`PLACE`] stands.
    ///
    /// # Errors
    /// It does not stand there.
    pub(crate) fn in_place(request: &mut [u8]) -> Result<Self> {
        let mut parts = request.windows(PLACE.len());
        let at = parts.position(|part| part == PLACE.as_bytes());
        let mut uuids = Self {
            at: at.context("the request has no place for a UUID")?,
            random: rand::make_rng(),
        };
        uuids.draw(request);
        Ok(uuids)
    }

    /// Puts another one there.
    pub(crate) fn draw(&mut self, request: &mut [u8]) {
        let Some(uuid) = request.get_mut(self.at..self.at + PLACE.len()) else {
            return;
        };
        let mut bits: u128 = self.random.random();
        for (byte, form) in uuid.iter_mut().zip(PLACE.bytes()) {
            // Dashes, the version and the variant stay.
            if form == b'0' {
                *byte = b"0123456789abcdef"[(bits & 15) as usize];
                bits >>= 4;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_keep_their_form_and_their_place() {
        let mut request = format!("before {PLACE} behind").into_bytes();
        let mut uuids = Uuids::in_place(&mut request).unwrap();
        let first = String::from_utf8(request.clone()).unwrap();
        uuids.draw(&mut request);
        let second = String::from_utf8(request).unwrap();
        assert_ne!(first, second);
        for text in [first, second] {
            let uuid = text.strip_prefix("before ").unwrap();
            let uuid = uuid.strip_suffix(" behind").unwrap();
            assert_eq!(uuid.len(), 36);
            assert_eq!((&uuid[14..15], &uuid[19..20]), ("4", "8"), "{uuid}");
            assert!(uuid.split('-').map(str::len).eq([8, 4, 4, 4, 12]), "{uuid}");
        }
        assert!(Uuids::in_place(&mut [0; 50]).is_err());
    }
}
