//! Base64 of RFC 4648, section 4, with padding, in the one form that encoders write. Pure; by hand,
//! because applications would compile a crate for it.

/// The bytes behind `text`.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_bytes().as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(3 * groups.len());
    for (index, group) in groups.iter().enumerate() {
        let padding = group.iter().rev().take_while(|letter| **letter == b'=').count();
        if padding > 2 || padding > 0 && index + 1 < groups.len() {
            return None;
        }
        let digits = group.iter().take(4 - padding).map(|letter| digit(*letter));
        let mut digits = digits.chain([Some(0); 2]).take(4);
        let bits = digits.try_fold(0, |bits, digit| Some(bits << 6 | digit?))?;
        let [_, three @ ..] = u32::to_be_bytes(bits);
        // Bits that belong to no byte are zero.
        if three[3 - padding..].iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(&three[..3 - padding]);
    }
    Some(bytes)
}

fn digit(letter: u8) -> Option<u32> {
    let digit = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(digit.into())
}

#[cfg(test)]
mod tests {
    use ::base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn bytes_of_every_length_and_value_come_back() {
        let all: Vec<u8> = (0..=255_u8).rev().chain(0..=255).collect();
        for length in 0..all.len() {
            let bytes = &all[..length];
            assert_eq!(decode(&STANDARD.encode(bytes)).as_deref(), Some(bytes));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in
            ["Q", "QQ", "QQ=", "QQ===", "====", "=QQQ", "Q=Q=", "QQ==QQ==", "QR==", "QUJ=", "QQ_-"]
        {
            assert!(STANDARD.decode(text).is_err(), "{text}: the reference agrees");
            assert_eq!(decode(text), None, "{text}");
        }
        for text in ["QQ==\n", " QQ==", "QUFB QUE=", "öQ=", "QQ\0="] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
