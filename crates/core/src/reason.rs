//! Which reasons of failures are the same one: those that differ in numbers and ids alone.

/// Characters of a reason that are looked at.
pub const GROUP_CHARS_MAX: usize = 400;

/// What stands for a number or an id.
const MARK: char = '#';
/// From so many hexadecimal digits on, a run of them is an id even without a decimal digit.
const ID_DIGITS_MIN: usize = 8;
/// Digits of the parts of a UUID.
const UUID_PARTS: [usize; 5] = [8, 4, 4, 4, 12];

/// A reason with `#` for every number and id in it, so that failures of one kind fall together: for a UUID, for eight
/// hexadecimal digits or more, and for a run of them that begins with a decimal digit.
///
/// # Examples
/// ```
/// use posthaste_core::reason::group;
///
/// assert_eq!(group("HTTP 503 from 10.0.0.7 after 1.5s"), "HTTP # from #.#.#.# after #.#s");
/// assert_eq!(group("no row 018f3c2a-0000-7000-8000-00000000000a"), "no row #");
/// ```
pub fn group(reason: &str) -> String {
    let end = reason.char_indices().nth(GROUP_CHARS_MAX).map_or(reason.len(), |(end, _)| end);
    let mut rest = &reason[..end];
    let mut group = String::with_capacity(rest.len());
    while let Some(first) = rest.chars().next() {
        match id_len(rest.as_bytes()) {
            0 => {
                group.push(first);
                rest = &rest[first.len_utf8()..];
            }
            len => {
                group.push(MARK);
                rest = &rest[len..];
            }
        }
    }
    group
}

/// How long the number or id is that `text` begins with. Of the same opinion as the store's `regexp_replace`.
fn id_len(text: &[u8]) -> usize {
    if let Some(len) = uuid_len(text) {
        return len;
    }
    let digits = hex_len(text);
    let is_number = text.first().is_some_and(u8::is_ascii_digit);
    if is_number || digits >= ID_DIGITS_MIN { digits } else { 0 }
}

fn hex_len(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count()
}

fn uuid_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    for (nth, digits) in UUID_PARTS.into_iter().enumerate() {
        if nth > 0 {
            text.get(at).filter(|byte| **byte == b'-')?;
            at += 1;
        }
        let part = text.get(at..at + digits)?;
        part.iter().all(u8::is_ascii_hexdigit).then_some(())?;
        at += digits;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_ids_make_no_difference_and_words_do() {
        for (reason, expected) in [
            ("", ""),
            ("timed out", "timed out"),
            ("HTTP 404", "HTTP #"),
            ("attempt2 at 7f3a", "attempt# at #"),
            ("deadbeef and DEADBEEF00", "# and #"),
            ("a bad cafe", "a bad cafe"),
            ("018F3c2a-0000-7000-8000-00000000000a!", "#!"),
            ("018f3c2a-0000-7000-8000", "#-#-#-#"),
            ("x018f3c2a-0000-7000-8000-00000000000ab", "x#b"),
            ("größe 10 µm", "größe # µm"),
        ] {
            assert_eq!(group(reason), expected, "{reason}");
        }
        assert_eq!(group(&"ä".repeat(1_000)).chars().count(), GROUP_CHARS_MAX);
    }

    proptest! {
        #[test]
        fn a_group_is_its_own_and_has_no_number(reason in ".{0,60}") {
            let once = group(&reason);
            prop_assert_eq!(group(&once), once.clone());
            prop_assert!(!once.bytes().any(|byte| byte.is_ascii_digit()));
        }
    }
}
