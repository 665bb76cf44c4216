//! Reads the encoding of Protocol Buffers, as far as this source needs it (`protobuf.dev/programming-guides/encoding`).
//!
//! Answers are parsed by hand and in place. So a malformed event affects that event alone, never the page around it.

use bytes::{Buf as _, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint};

/// The error for a malformed encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not encoded as Protocol Buffers")]
pub(super) struct Malformed;

/// The value of one field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// An integer, a boolean or an enumeration.
    Varint(u64),
    /// A double, in its bits.
    Fixed64(u64),
    /// Text, bytes or a message.
    Bytes(Bytes),
    /// Any other value, which this source does not read.
    Other,
}

/// The fields of a message, in order.
pub(super) struct Fields(pub(super) Bytes);

impl Iterator for Fields {
    type Item = Result<(u32, Value), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = read(&mut self.0);
        if field.is_err() {
            self.0.clear();
        }
        Some(field)
    }
}

fn read(from: &mut Bytes) -> Result<(u32, Value), Malformed> {
    let (number, wire) = decode_key(from).map_err(|_| Malformed)?;
    let value = match wire {
        WireType::Varint => Value::Varint(decode_varint(from).map_err(|_| Malformed)?),
        WireType::SixtyFourBit if from.len() >= 8 => Value::Fixed64(from.get_u64_le()),
        WireType::ThirtyTwoBit if from.len() >= 4 => {
            from.advance(4);
            Value::Other
        }
        WireType::LengthDelimited => {
            let length = decode_varint(from).ok().and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| *length <= from.len()).ok_or(Malformed)?;
            Value::Bytes(from.split_to(length))
        }
        // No message of Teleport has groups.
        _ => return Err(Malformed),
    };
    Ok((number, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Vec<Result<(u32, Value), Malformed>> {
        Fields(Bytes::copy_from_slice(bytes)).collect()
    }

    #[test]
    fn each_kind_of_field_is_read_in_order() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 0x01, b'a', 0x19, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x25, 1, 2, 3, 4];
        assert_eq!(
            fields(&bytes),
            [
                Ok((1, Value::Varint(150))),
                Ok((2, Value::Bytes(Bytes::from_static(b"a")))),
                Ok((3, Value::Fixed64(1.0_f64.to_bits()))),
                Ok((4, Value::Other)),
            ]
        );
    }

    #[test]
    fn what_is_cut_off_is_malformed_and_ends_the_message() {
        for bytes in [&[0x08][..], &[0x12, 0x05, b'a'], &[0x19, 0], &[0x25, 0], &[0x0b], &[0x00, 0x01], &[0xff; 12]] {
            assert_eq!(fields(bytes), [Err(Malformed)], "{bytes:?}");
        }
    }
}
