//! Zigzag variable-length integers, Avro's `int` and `long`.

/// More than this many bytes never make a 64-bit integer.
pub(crate) const LEN_MAX: usize = 10;

pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(crate) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Bytes that `value` takes in its shortest form.
#[inline]
pub(crate) const fn len(value: i64) -> usize {
    // Bits in use, at least one, divided by seven and rounded up.
    (70 - (zigzag(value) | 1).leading_zeros() as usize) / 7
}

#[inline]
pub(crate) fn write(value: i64, out: &mut Vec<u8>) {
    let mut rest = zigzag(value);
    if rest < 0x80 {
        out.push(rest as u8);
        return;
    }
    let mut buffer = [0; LEN_MAX];
    let mut used = 0;
    for slot in &mut buffer {
        used += 1;
        *slot = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *slot |= 0x80;
    }
    out.extend_from_slice(buffer.get(..used).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_at_the_edges() {
        for (value, expected) in [
            (0, 1),
            (-64, 1),
            (63, 1),
            (64, 2),
            (-65, 2),
            (8191, 2),
            (8192, 3),
        ] {
            assert_eq!(len(value), expected, "{value}");
        }
        assert_eq!((len(i64::MAX), len(i64::MIN)), (LEN_MAX, LEN_MAX));
    }

    proptest! {
        #[test]
        fn written_length_is_the_computed_one(value: i64, shift in 0..64_u32) {
            let value = value >> shift;
            let mut out = Vec::new();
            write(value, &mut out);
            prop_assert_eq!(out.len(), len(value));
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}
