//! Times as text. Pure; by hand, because applications would compile a crate of calendars for it.

use posthaste_core::Timestamp;

/// RFC 3339 in UTC, to the microsecond.
pub(crate) fn utc(time: Timestamp) -> String {
    let (seconds, micros) = (time.0.div_euclid(1_000_000), time.0.rem_euclid(1_000_000));
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The time that [`utc`] writes so, and the relay with it; no other form of RFC 3339.
pub(crate) fn parse_utc(text: &str) -> Option<Timestamp> {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000000Z";
    let fits = |(letter, form): (&u8, &u8)| match form {
        b'0' => letter.is_ascii_digit(),
        form => letter == form,
    };
    let text = text.as_bytes();
    if text.len() != FORM.len() || !text.iter().zip(FORM).all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to].iter().fold(0, |number, digit| 10 * number + i64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
    let is_real = year >= 1
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    is_real.then(|| Timestamp(seconds * 1_000_000 + number(20, 26)))
}

/// The days of a month.
const fn days_in(year: i64, month: i64) -> i64 {
    let (year_after, month_after) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days(year_after, month_after, 1) - days(year, month, 1)
}

/// A day counted from 1970-01-01: `days_from_civil` of
/// <https://howardhinnant.github.io/date_algorithms.html>. Its years begin in March.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a day counted from 1970-01-01: `civil_from_days` of
/// <https://howardhinnant.github.io/date_algorithms.html>. Its years begin in March.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: [(i64, &str); 9] = [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
        (1_709_251_199_999_999, "2024-02-29T23:59:59.999999Z"),
        (1_709_251_200_000_000, "2024-03-01T00:00:00.000000Z"),
        (4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z"),
        (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (-62_135_596_800_000_000, "0001-01-01T00:00:00.000000Z"),
    ];

    #[test]
    fn times_are_written_in_utc() {
        for (micros, text) in TIMES {
            assert_eq!(utc(Timestamp(micros)), text);
        }
    }

    #[test]
    fn times_are_read_in_the_form_that_they_are_written_in_and_in_no_other() {
        for (micros, text) in TIMES {
            assert_eq!(parse_utc(text), Some(Timestamp(micros)), "{text}");
        }
        for text in [
            "",
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.000006+00:00",
            "2026-01-02t03:04:05.000006z",
            "2026-01-02T03:04:05.0000060Z",
            "2026-01-02T03:04:05,000006Z",
            "+026-01-02T03:04:05.000006Z",
            "0000-01-01T00:00:00.000000Z",
            "2026-00-01T00:00:00.000000Z",
            "2026-13-01T00:00:00.000000Z",
            "2026-01-00T00:00:00.000000Z",
            "2026-12-32T00:00:00.000000Z",
            "2026-02-29T00:00:00.000000Z",
            "2100-02-29T00:00:00.000000Z",
            "2026-01-02T24:00:00.000000Z",
            "2026-01-02T00:60:00.000000Z",
            "2026-01-02T23:59:60.000000Z",
            "2026-01-02T03:04:05.00000٦Z",
        ] {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }
}
