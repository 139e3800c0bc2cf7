//! Tickets: leave to follow one stream for some minutes, in its address.
//!
//! A browser's `EventSource` sends no headers, and addresses end up in logs: so what stands there is no token. A ticket
//! is what it allows, signed (HMAC-SHA-256) with a key that this process has drawn: another process, or the next one,
//! does not know it, and its page gets a new one.

use std::time::Duration;

use axum::http::Uri;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use posthaste_core::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{
    clock,
    tokens::{Principal, Unknown},
};

/// Longer ones are neither made nor looked at: not every proxy passes on longer addresses.
const BYTES_MAX: usize = 8 << 10;

/// Makes and reads tickets.
pub(crate) struct Tickets {
    /// With the key, and nothing to sign yet.
    mac: Hmac<Sha256>,
    lifetime: Duration,
}

/// What a ticket allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Whoever got it, with no more than a stream needs.
    pub(crate) principal: Principal,
    /// Topics and key, as they were asked for.
    pub(crate) topic: Option<String>,
    pub(crate) key: Option<String>,
}

/// As it is signed.
#[derive(Serialize)]
struct Claims<'a> {
    name: &'a str,
    payloads: bool,
    topics: Option<&'a [String]>,
    topic: Option<&'a str>,
    key: Option<&'a str>,
    expires: i64,
    /// When the token ends that it was got with, and the streams that it began.
    token_expires: Option<i64>,
}

/// The ticket in an address.
pub(crate) fn of(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("ticket="))
}

impl Tickets {
    pub(crate) fn new(lifetime: Duration) -> Self {
        let key: [u8; 64] = rand::random();
        Self { mac: Hmac::new(&key.into()), lifetime }
    }

    /// A ticket for whoever asks for one, with how long it lasts; none where it would be too long.
    pub(crate) fn make(&self, ticket: &Ticket) -> Option<(String, Duration)> {
        self.make_at(ticket, clock::now())
    }

    fn make_at(&self, ticket: &Ticket, now: Timestamp) -> Option<(String, Duration)> {
        let lifetime = i64::try_from(self.lifetime.as_micros()).unwrap_or(i64::MAX);
        // It is no way to outlive the token.
        let token_expires = ticket.principal.expires.map(|end| end.0);
        let expires = now.0.saturating_add(lifetime).min(token_expires.unwrap_or(i64::MAX));
        let lasts = u64::try_from(expires - now.0).map_or(Duration::ZERO, Duration::from_micros);
        let (payloads, topics) = ticket.principal.follows();
        let claims = Claims {
            name: &ticket.principal.name,
            payloads,
            topics,
            topic: ticket.topic.as_deref(),
            key: ticket.key.as_deref(),
            expires,
            token_expires,
        };
        // Texts and numbers: there is nothing that could fail.
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let signature = URL_SAFE_NO_PAD.encode(self.sign(&claims).finalize().into_bytes());
        let text = format!("{claims}.{signature}");
        (text.len() <= BYTES_MAX).then_some((text, lasts))
    }

    /// What a ticket allows.
    pub(crate) fn read(&self, text: &str) -> Result<Ticket, Unknown> {
        self.read_at(text, clock::now())
    }

    fn read_at(&self, text: &str, now: Timestamp) -> Result<Ticket, Unknown> {
        let (claims, signature) = text.split_once('.').ok_or(Unknown::Wrong)?;
        if text.len() > BYTES_MAX {
            return Err(Unknown::Wrong);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Unknown::Wrong)?;
        self.sign(claims).verify_slice(&signature).map_err(|_| Unknown::Wrong)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Unknown::Wrong)?;
        let claims: Owned = serde_json::from_slice(&claims).map_err(|_| Unknown::Wrong)?;
        if claims.expires <= now.0 {
            return Err(Unknown::Expired);
        }
        let expires = claims.token_expires.map(Timestamp);
        let principal =
            Principal::follower(claims.name.into(), claims.payloads, claims.topics, expires);
        Ok(Ticket { principal, topic: claims.topic, key: claims.key })
    }

    fn sign(&self, claims: &str) -> Hmac<Sha256> {
        self.mac.clone().chain_update(claims)
    }
}

/// As [`Claims`].
#[derive(Deserialize)]
struct Owned {
    name: String,
    payloads: bool,
    topics: Option<Vec<String>>,
    topic: Option<String>,
    key: Option<String>,
    expires: i64,
    token_expires: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let topics = Some(vec!["run.".to_owned()]);
        let principal =
            Principal::follower("page".into(), true, topics, Some(Timestamp(90_000_000)));
        Ticket { principal, topic: Some("run.*".to_owned()), key: Some("ä 7".to_owned()) }
    }

    #[test]
    fn ticket_is_what_it_was_made_of_until_its_time_is_over() {
        let tickets = Tickets::new(Duration::from_mins(1));
        let (text, lasts) = tickets.make_at(&ticket(), Timestamp(5)).unwrap();
        assert_eq!(lasts, Duration::from_mins(1));
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
        assert_eq!(tickets.read_at(&text, Timestamp(60_000_004)), Ok(ticket()));
        assert_eq!(tickets.read_at(&text, Timestamp(60_000_005)), Err(Unknown::Expired));
        // Its token ends first.
        let (text, lasts) = tickets.make_at(&ticket(), Timestamp(80_000_000)).unwrap();
        assert_eq!(lasts, Duration::from_secs(10));
        assert_eq!(tickets.read_at(&text, Timestamp(89_999_999)), Ok(ticket()));
        assert_eq!(tickets.read_at(&text, Timestamp(90_000_000)), Err(Unknown::Expired));
    }

    #[test]
    fn what_others_made_or_changed_is_no_ticket() {
        let tickets = Tickets::new(Duration::from_mins(1));
        let (text, _) = tickets.make_at(&ticket(), Timestamp(0)).unwrap();
        let (claims, signature) = text.split_once('.').unwrap();
        let more = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let more = URL_SAFE_NO_PAD.encode(more.replace("run.", "bank"));
        let other = Tickets::new(Duration::from_mins(1)).make_at(&ticket(), Timestamp(0));
        let (other, _) = other.unwrap();
        for wrong in [
            &format!("{more}.{signature}"),
            &format!("{claims}."),
            &format!("{claims}.{}", &signature[1..]),
            &format!("{claims}.%00"),
            claims,
            "",
            &"x".repeat(100_000),
            &other,
        ] {
            assert_eq!(tickets.read_at(wrong, Timestamp(0)), Err(Unknown::Wrong), "{wrong:.80}");
        }
    }

    #[test]
    fn ticket_that_would_not_be_read_is_not_made() {
        let tickets = Tickets::new(Duration::from_mins(1));
        let of = |length| Ticket { topic: Some("x".repeat(length)), ..ticket() };
        let longest =
            (0..BYTES_MAX).take_while(|n| tickets.make_at(&of(*n), Timestamp(0)).is_some()).last();
        let longest = of(longest.unwrap());
        let (text, _) = tickets.make_at(&longest, Timestamp(0)).unwrap();
        assert!(text.len() > BYTES_MAX - 4);
        assert_eq!(tickets.read_at(&text, Timestamp(0)), Ok(longest));
    }

    #[test]
    fn it_is_found_in_an_address() {
        let find = |text: &'static str| of(&Uri::from_static(text)).map(str::to_owned);
        assert_eq!(find("/a?b=1&ticket=x.y&c").as_deref(), Some("x.y"));
        assert_eq!(find("/a?tickets=x"), None);
        assert_eq!(find("/a"), None);
    }
}
