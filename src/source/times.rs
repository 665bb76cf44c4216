//! Times in records.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Reads a time: RFC 3339 with any offset and precision, or a number since the epoch. Without an offset it is UTC.
/// Numbers are seconds, milliseconds, microseconds or nanoseconds, which differ in size.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return epoch(text);
    }
    let text = with_nanoseconds_at_most(text);
    text.parse().ok().or_else(|| {
        let local: DateTime = text.parse().ok()?;
        // Only with a time of day: a bare date would become midnight.
        text.contains(':').then(|| TimeZone::UTC.to_timestamp(local).ok())?
    })
}

fn epoch(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let value: i128 = whole.parse().ok()?;
    // Up to 11 digits are seconds (until the year 5138), up to 14 milliseconds, and so on; the fraction counts for its unit.
    let unit: u32 = match whole.len() {
        0..=11 => 9,
        12..=14 => 6,
        15..=17 => 3,
        18..=20 => 0,
        _ => return None,
    };
    let digits = fraction.get(..fraction.len().min(unit as usize))?;
    let fraction: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let scale = unit - u32::try_from(digits.len()).ok()?;
    Timestamp::from_nanosecond(value * 10_i128.pow(unit) + fraction * 10_i128.pow(scale)).ok()
}

/// Cuts a fraction after its ninth digit, because a `Timestamp` holds nanoseconds.
fn with_nanoseconds_at_most(text: &str) -> std::borrow::Cow<'_, str> {
    let Some(point) = text.find(['.', ',']) else { return text.into() };
    let digits = text[point + 1..].bytes().take_while(u8::is_ascii_digit).count();
    if digits <= 9 {
        return text.into();
    }
    format!("{}{}", &text[..point + 10], &text[point + 1 + digits..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_usual_form() {
        for text in [
            "2026-03-01T12:00:00Z",
            "2026-03-01T12:00:00.000000000000001Z",
            "2026-03-01T14:00:00+02:00",
            "2026-03-01T14:00:00.0+0200",
            "2026-03-01 12:00:00",
            "2026-03-01t12:00:00z",
            "1772366400",
            "1772366400000",
            "1772366400000000",
            "1772366400000000000",
            "1772366400.0",
        ] {
            assert_eq!(time(text), Some("2026-03-01T12:00:00Z".parse().unwrap()), "{text}");
        }
        assert_eq!(time("1772366400.25").unwrap().subsec_millisecond(), 250);
        for text in ["", "yesterday", "2026-03-01", ".", "..", "12:00:00", "99999999999999999999999"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
