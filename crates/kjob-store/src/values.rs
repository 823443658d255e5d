//! Values as columns have them, whatever the database.

use std::time::Duration;

use kjob_proto::Encoding;

/// Milliseconds of a duration; those longer than 292 million years are kept as that.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The duration of so many milliseconds.
pub(crate) fn duration(millis: i64) -> Duration {
    Duration::from_millis(millis.cast_unsigned())
}

/// The number of an encoding.
pub(crate) fn encoding_to(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Binary => 0,
        Encoding::Json => 1,
        Encoding::Snappy => 2,
    }
}

/// The encoding with this number, if there is one.
pub(crate) fn encoding_from(number: u8) -> Option<Encoding> {
    Encoding::ALL
        .into_iter()
        .find(|encoding| encoding_to(*encoding) == number)
}
