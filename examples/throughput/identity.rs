//! Ids that look random and are not: each tells which record of the backlog it belongs to.
//!
//! So the check afterwards needs one bit for each record, and no table of ten million ids.

/// Characters of an id: a UUID, as the audit API's ids are.
pub const LENGTH: usize = 36;

/// Where its dashes stand, and the digits that tell the kind of UUID.
const FIXED: [(usize, u8); 6] = [(8, b'-'), (13, b'-'), (14, b'4'), (18, b'-'), (19, b'a'), (23, b'-')];

/// Writes the id of the record number `index`.
pub fn write(out: &mut [u8], index: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let low = scramble(index);
    let mut bits = u128::from(low) << 64 | u128::from(scramble(low));
    for (at, place) in out.iter_mut().enumerate().take(LENGTH) {
        if let Some((_, fixed)) = FIXED.iter().find(|(fixed, _)| *fixed == at) {
            *place = *fixed;
        } else {
            *place = DIGITS[(bits >> 124) as usize];
            bits <<= 4;
        }
    }
}

/// Which record an id belongs to; none if it is not one of ours.
pub fn read(id: &[u8]) -> Option<u64> {
    let is_fixed = |at: usize| FIXED.iter().any(|(fixed, _)| *fixed == at);
    let mut digits = id.iter().enumerate().filter(|(at, _)| !is_fixed(*at)).take(16);
    let low =
        digits.try_fold(0_u64, |bits, (_, digit)| Some(bits << 4 | u64::from(char::from(*digit).to_digit(16)?)))?;
    let index = unscramble(low);
    let mut expected = [0; LENGTH];
    write(&mut expected, index);
    (expected == id).then_some(index)
}

/// A one-to-one mixing of 64 bits (the end of `SplitMix64`).
fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

fn unscramble(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 31 ^ bits >> 62).wrapping_mul(0x3196_42b2_d24d_8ec3);
    bits = (bits ^ bits >> 27 ^ bits >> 54).wrapping_mul(0x96de_1b17_3f11_9089);
    bits ^ bits >> 30 ^ bits >> 60
}
