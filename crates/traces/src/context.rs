//! Reads a W3C trace context (<https://www.w3.org/TR/trace-context/>). Pure.

/// Length of a `traceparent` of version 00; later versions may only be longer.
const LENGTH: usize = 55;

/// A span of another process: the one in which a message was written, or a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context<'a> {
    /// Its trace.
    pub trace_id: [u8; 16],
    /// Itself.
    pub span_id: [u8; 8],
    /// What others keep in the trace (`tracestate`).
    pub state: &'a str,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

impl<'a> Context<'a> {
    /// The span that a `traceparent` names, if its trace is sampled. Of all others hardly anything is looked at.
    pub fn sampled(parent: &str, state: &'a str) -> Option<Self> {
        is_sampled(*parent.as_bytes().get(LENGTH - 1)?).then(|| Self::read(parent, state))?
    }

    /// The span that a `traceparent` names. A header that is no trace context is as good as none: the standard has
    /// receivers ignore it.
    pub fn read(parent: &str, state: &'a str) -> Option<Self> {
        let text = parent.as_bytes();
        let is_version = match text.get(..2)? {
            b"00" => text.len() == LENGTH,
            b"ff" => false,
            _ => text.len() == LENGTH || (text.len() > LENGTH && text[LENGTH] == b'-'),
        };
        let are_dashes = [2, 35, 52].into_iter().all(|at| text.get(at) == Some(&b'-'));
        if !is_version || !are_dashes {
            return None;
        }
        bytes::<1>(&text[..2])?;
        bytes::<1>(&text[53..LENGTH])?;
        let (trace_id, span_id) = (bytes(&text[3..35])?, bytes(&text[36..52])?);
        let is_none = trace_id == [0; 16] || span_id == [0; 8];
        let is_sampled = is_sampled(text[LENGTH - 1]);
        (!is_none).then_some(Self { trace_id, span_id, state, is_sampled })
    }
}

/// The lowest bit of the flags, in their last digit.
const fn is_sampled(digit: u8) -> bool {
    matches!(digit, b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f')
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

    fn read(parent: &str) -> Option<(u128, u64)> {
        let context = Context::sampled(parent, "a=1,b=2")?;
        assert_eq!((context.state, context.is_sampled), ("a=1,b=2", true));
        assert_eq!(Context::read(parent, "a=1,b=2"), Some(context));
        Some((u128::from_be_bytes(context.trace_id), u64::from_be_bytes(context.span_id)))
    }

    #[test]
    fn sampled_context_is_read_with_its_state() {
        let ids = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);
        assert_eq!(read(PARENT), Some(ids));
        // Flags and versions to come.
        assert!(read(&PARENT.replace("-01", "-03")).is_some());
        assert!(read(&format!("{}-more", PARENT.replacen("00", "01", 1))).is_some());
    }

    #[test]
    fn what_is_not_sampled_or_no_context_is_ignored() {
        let zeros = |from: usize, to: usize| {
            let mut text = PARENT.to_owned();
            text.replace_range(from..to, &"0".repeat(to - from));
            text
        };
        let unsampled = PARENT.replace("-01", "-00");
        assert_eq!(Context::sampled(&unsampled, ""), None);
        assert!(!Context::read(&unsampled, "").unwrap().is_sampled);
        for text in [
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
            assert_eq!(Context::sampled(text, ""), None, "{text}");
            assert_eq!(Context::read(text, ""), None, "{text}");
        }
    }
}
