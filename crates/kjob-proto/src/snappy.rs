//! Raw snappy blocks: a length, then elements; not the framed stream (docs/protocol.md section 2).

use bytes::Bytes;

use crate::Limits;
use crate::error::{DecodeError, DecodeErrorKind};

/// Unfolds one block. The length that it announces is checked before anything is allocated, as
/// [`decompressed_len`] does.
///
/// # Errors
/// A block that is too long on either side, or that is no snappy block.
pub fn decompress(block: &[u8], limits: &Limits) -> Result<Bytes, DecodeError> {
    decompressed_len(block, limits)?;
    match snap::raw::Decoder::new().decompress_vec(block) {
        Ok(plain) => Ok(Bytes::from(plain)),
        Err(error) => refused(DecodeErrorKind::Snappy(error.to_string().into())),
    }
}

/// The bytes that a block announces to unfold to, and that [`decompress`] would allocate. Looks at the
/// block's first bytes only.
///
/// # Errors
/// The block is longer than [`Limits::max_body`], or announces more than
/// [`Limits::max_decompressed`] or than so many bytes can unfold to; or it announces nothing.
///
/// ```
/// use kjob_proto::{Limits, snappy};
///
/// let block = snappy::compress(&[0; 10_000]);
/// assert!(block.len() < 600);
/// assert_eq!(snappy::decompressed_len(&block, &Limits::default())?, 10_000);
/// # Ok::<(), kjob_proto::DecodeError>(())
/// ```
pub fn decompressed_len(block: &[u8], limits: &Limits) -> Result<usize, DecodeError> {
    if block.len() > limits.max_body {
        let found = block.len() as u64;
        return refused(DecodeErrorKind::TooLong {
            found,
            limit: limits.max_body,
        });
    }
    let announced = match snap::raw::decompress_len(block) {
        // The library takes no bytes at all for a block of length 0; every client's refuses them.
        Ok(_) if block.is_empty() => {
            return refused(DecodeErrorKind::UnexpectedEnd {
                found: 0,
                needed: 1,
            });
        }
        Ok(announced) => announced,
        Err(error) => return refused(DecodeErrorKind::Snappy(error.to_string().into())),
    };
    if announced > limits.max_decompressed {
        let found = announced as u64;
        return refused(DecodeErrorKind::TooLong {
            found,
            limit: limits.max_decompressed,
        });
    }
    if announced > block.len().saturating_mul(UNFOLD_MAX) {
        let message = format!(
            "{} bytes cannot unfold to the {announced} they announce",
            block.len()
        );
        return refused(DecodeErrorKind::Snappy(message.into()));
    }
    Ok(announced)
}

/// Folds `plain` into one block.
///
/// # Panics
/// Never for what this crate can encode; the format ends at 2^32 − 1 bytes, and longer input gives a block
/// that nobody can read: an empty vector.
pub fn compress(plain: &[u8]) -> Vec<u8> {
    // The one error is input past the format's 4 GiB, which no limit lets through.
    snap::raw::Encoder::new()
        .compress_vec(plain)
        .unwrap_or_default()
}

/// The densest element is a copy of 64 bytes that takes three.
const UNFOLD_MAX: usize = 64 / 3 + 1;

fn refused<T>(kind: DecodeErrorKind) -> Result<T, DecodeError> {
    Err(DecodeError::new(kind, DecodeError::BODY, 0))
}
