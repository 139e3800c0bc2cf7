//! What a message says of itself, and its bytes: whoever receives one knows which it is, and
//! whether it arrived as it was written.

use posthaste_testkit::history::Entry;
use rand::{Rng as _, rngs::SmallRng};

/// The header that names a message whose payload has no room for it.
pub(crate) const ENTRY_HEADER: &str = "entry";
/// Payloads from here on name themselves.
const SELF_NAMED_BYTES: usize = 120;
/// The limit of the log.
const PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// What protocols and databases trip over.
const HOSTILE: [&[u8]; 6] =
    [b"\0", b"\r\n$-1\r\n", b"\xff\xfe\xc3\x28", b"'; --", b"*3\r\n", b"\\x00{}\"\t"];

/// The bytes of a message.
pub(crate) struct Body {
    pub(crate) payload: Vec<u8>,
    /// The value of [`ENTRY_HEADER`], where the payload does not say it.
    pub(crate) header: Option<String>,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    Whole(Entry),
    /// It is not what was written.
    Damaged,
}

impl Body {
    /// The bytes of `entry`, at least `bytes_min`.
    pub(crate) fn draw(entry: &Entry, rng: &mut SmallRng, bytes_min: usize) -> Self {
        let bytes = match rng.random_range(0..1_000) {
            0 => PAYLOAD_BYTES_MAX,
            1..20 => rng.random_range(1_000..20_000),
            20..50 => 0,
            50..120 => rng.random_range(1..SELF_NAMED_BYTES),
            _ => rng.random_range(SELF_NAMED_BYTES..400),
        };
        let bytes = bytes.max(bytes_min);
        if bytes < SELF_NAMED_BYTES {
            let payload = noise(rng, bytes);
            let header = Some(name(entry, &payload));
            return Self { payload, header };
        }
        // A name has fewer bytes, so that the length is what was drawn.
        let noise = noise(rng, bytes - SELF_NAMED_BYTES);
        let mut payload =
            format!("{:<1$}\n", name(entry, &noise), SELF_NAMED_BYTES - 1).into_bytes();
        payload.extend(noise);
        Self { payload, header: None }
    }
}

/// The least payload that names itself.
pub(crate) const fn self_named_bytes() -> usize {
    SELF_NAMED_BYTES
}

/// Which message arrived.
pub(crate) fn read(header: Option<&[u8]>, payload: &[u8]) -> Arrived {
    let (name, rest) = match header {
        Some(header) => (header, payload),
        None if payload.len() >= SELF_NAMED_BYTES => payload.split_at(SELF_NAMED_BYTES),
        None => return Arrived::Damaged,
    };
    let whole = || {
        let (entry, sum) = std::str::from_utf8(name).ok()?.trim_end().rsplit_once(' ')?;
        (u64::from_str_radix(sum, 16).ok()? == checksum(rest)).then_some(entry)?.parse().ok()
    };
    whole().map_or(Arrived::Damaged, Arrived::Whole)
}

fn name(entry: &Entry, rest: &[u8]) -> String {
    format!("{entry} {:016x}", checksum(rest))
}

/// FNV-1a, 64 bits.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn noise(rng: &mut SmallRng, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rng.fill(noise.as_mut_slice());
    for hostile in HOSTILE {
        if bytes > hostile.len() && rng.random_bool(0.3) {
            let at = rng.random_range(0..=bytes - hostile.len());
            noise[at..at + hostile.len()].copy_from_slice(hostile);
        }
    }
    noise
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_message_is_read_back_and_a_changed_byte_is_seen() {
        let mut rng = SmallRng::seed_from_u64(7);
        let entry =
            Entry { key: 199, n: i64::MAX, part: 4, transaction: Uuid::from_u128(u128::MAX) };
        let mut is_named = [false; 2];
        for _ in 0..2_000 {
            let Body { mut payload, header } = Body::draw(&entry, &mut rng, 0);
            let header = header.as_deref().map(str::as_bytes);
            is_named[usize::from(header.is_some())] = true;
            assert_eq!(read(header, &payload), Arrived::Whole(entry));
            if let Some(last) = payload.last_mut() {
                *last ^= 1;
                let is_filler = header.is_none() && payload.len() == SELF_NAMED_BYTES;
                assert!(is_filler || read(header, &payload) == Arrived::Damaged);
            }
        }
        assert_eq!(is_named, [true; 2]);
    }
}
