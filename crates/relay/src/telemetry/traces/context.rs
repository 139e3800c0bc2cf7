//! Reads the W3C trace context of a message (<https://www.w3.org/TR/trace-context/>). Pure.

use posthaste_core::Headers;

/// Length of a `traceparent` of version 00; later versions may only be longer.
const LENGTH: usize = 55;

/// The span in which a message was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer<'a> {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) state: &'a str,
}

/// The writer's span, if its trace is sampled. A header that is no trace context is as good as none:
/// the standard has receivers ignore it.
pub(super) fn sampled<'a>(headers: &Headers<'a>) -> Option<Writer<'a>> {
    let text = headers.get("traceparent")?.as_bytes();
    // The lowest bit of the flags; nothing else is looked at where it is not set.
    if !matches!(text.get(LENGTH - 1)?, b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f') {
        return None;
    }
    let is_version = match text.get(..2)? {
        b"00" => text.len() == LENGTH,
        b"ff" => false,
        _ => text.len() == LENGTH || text[LENGTH] == b'-',
    };
    let are_dashes = [2, 35, 52].into_iter().all(|at| text[at] == b'-');
    if !is_version || !are_dashes {
        return None;
    }
    bytes::<1>(&text[..2])?;
    bytes::<1>(&text[53..LENGTH])?;
    let (trace_id, span_id) = (bytes(&text[3..35])?, bytes(&text[36..52])?);
    if trace_id == [0; 16] || span_id == [0; 8] {
        return None;
    }
    Some(Writer { trace_id, span_id, state: headers.get("tracestate").unwrap_or_default() })
}

/// Bytes from lower-case hexadecimal digits.
fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(parent: &str, state: Option<&str>) -> Option<([u8; 16], [u8; 8], String)> {
        let mut packed = Vec::new();
        for (name, value) in [("tenant", "a"), ("traceparent", parent)] {
            Headers::pack(&mut packed, name);
            Headers::pack(&mut packed, value);
        }
        if let Some(state) = state {
            Headers::pack(&mut packed, "tracestate");
            Headers::pack(&mut packed, state);
        }
        let writer = sampled(&Headers::packed(&packed))?;
        Some((writer.trace_id, writer.span_id, writer.state.to_owned()))
    }

    #[test]
    fn sampled_context_is_read_with_its_state() {
        let (trace_id, span_id, state) = read(PARENT, Some("a=1,b=2")).unwrap();
        assert_eq!(u128::from_be_bytes(trace_id), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(u64::from_be_bytes(span_id), 0xb7ad_6b71_6920_3331);
        assert_eq!(state, "a=1,b=2");
        assert_eq!(read(PARENT, None).unwrap().2, "");
        // Flags and versions to come.
        assert!(read(&PARENT.replace("-01", "-03"), None).is_some());
        assert!(read(&format!("{}-more", PARENT.replacen("00", "01", 1)), None).is_some());
    }

    #[test]
    fn what_is_not_sampled_or_no_context_is_ignored() {
        let zeros = |from: usize, to: usize| {
            let mut text = PARENT.to_owned();
            text.replace_range(from..to, &"0".repeat(to - from));
            text
        };
        for text in [
            &PARENT.replace("-01", "-00"),
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-"),
            &format!("{PARENT}1"),
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replacen("00", "0x", 1),
            &PARENT.replace('-', "_"),
            &PARENT.replace('7', "g"),
            &PARENT.replace("c-b", "é"),
            &zeros(3, 35),
            &zeros(36, 52),
        ] {
            assert_eq!(read(text, None), None, "{text}");
        }
        assert_eq!(sampled(&Headers::default()), None);
    }
}
