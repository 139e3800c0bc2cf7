//! What stands in Redis for a command's answer: its name and its value. Pure.
//!
//! A value is one letter for its form, a SHA-256 over the rest of it and its name, the fingerprint
//! of the request, and the response. Whatever is not exactly that is no answer.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use posthaste_core::SchemaName;
use sha2::{Digest as _, Sha256};

/// Another form of values gets another letter, and is no answer to those who know this one.
const FORM: u8 = b'1';
const DIGEST_BYTES: usize = 32;
const HEAD_BYTES: usize = 1 + 2 * DIGEST_BYTES;
/// The longest response that the database keeps.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// The longest value.
pub(super) const BYTES_MAX: usize = HEAD_BYTES + RESPONSE_BYTES_MAX;

/// What a command's answer is called. Lengths stand before texts: no two commands share a name.
pub(super) fn name(namespace: &str, schema: &SchemaName, scope: &str, key: &str) -> String {
    let mut hash = Sha256::new();
    for part in [schema.as_str(), scope, key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    format!("{namespace}:{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
}

/// The value of an answer.
pub(super) fn write(name: &str, fingerprint: &[u8; 32], response: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_BYTES + response.len());
    value.push(FORM);
    value.extend_from_slice(&digest(name, fingerprint, response));
    value.extend_from_slice(fingerprint);
    value.extend_from_slice(response);
    value
}

/// The fingerprint and the response of a value, if it is one of this name.
pub(super) fn read<'a>(name: &str, value: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    if value.len() > BYTES_MAX {
        return None;
    }
    let rest = value.strip_prefix(&[FORM])?;
    let (checked, rest) = rest.split_at_checked(DIGEST_BYTES)?;
    let (fingerprint, response) = rest.split_at_checked(DIGEST_BYTES)?;
    (checked == digest(name, fingerprint, response)).then_some((fingerprint, response))
}

fn digest(name: &str, fingerprint: &[u8], response: &[u8]) -> [u8; DIGEST_BYTES] {
    let hash = Sha256::new_with_prefix(name);
    hash.chain_update(fingerprint).chain_update(response).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: [u8; 32] = [7; 32];

    fn named(schema: &str, scope: &str, key: &str) -> String {
        name("shop", &schema.parse().unwrap(), scope, key)
    }

    #[test]
    fn no_two_commands_share_a_name() {
        let names = [("a", "b", "c"), ("a", "bc", ""), ("a", "", "bc"), ("ab", "", "c")];
        let mut names = names.map(|(schema, scope, key)| named(schema, scope, key)).to_vec();
        names.push(name("shop2", &"a".parse().unwrap(), "b", "c"));
        assert!(names.iter().all(|name| name.len() <= "shop2:".len() + 43), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn answer_comes_back_byte_for_byte() {
        let name = named("posthaste", "pay", "key");
        for response in [b"".as_slice(), b"\x00\xff{}\r\n'"] {
            let value = write(&name, &FINGERPRINT, response);
            assert_eq!(read(&name, &value), Some((FINGERPRINT.as_slice(), response)));
        }
    }

    #[test]
    fn whatever_is_not_exactly_that_value_is_no_answer() {
        let name = named("posthaste", "pay", "key");
        let value = write(&name, &FINGERPRINT, b"paid");
        assert_eq!(read(&named("posthaste", "pay", "other"), &value), None, "another's value");
        for length in 0..value.len() {
            assert_eq!(read(&name, &value[..length]), None, "cut off after {length}");
        }
        for at in 0..value.len() {
            let mut torn = value.clone();
            torn[at] ^= 1;
            assert_eq!(read(&name, &torn), None, "a bit of byte {at}");
        }
        let long = write(&name, &FINGERPRINT, &vec![0; RESPONSE_BYTES_MAX + 1]);
        assert_eq!(read(&name, &long), None);
        assert!(read(&name, &long[..BYTES_MAX]).is_none());
    }
}
