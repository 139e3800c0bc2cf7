//! Who calls, and what they may do: tokens, kept as digests of their secrets.
//!
//! A secret is 256 random bits, so a plain SHA-256 of it is as good as a slow hash: nobody guesses it. Which route
//! asks for which scope stands in [`crate::routes`].

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use posthaste_core::{Timestamp, TopicFilter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::{clock, settings::TokenSettings};

/// What every secret begins with, so that scanners for leaked secrets know one.
const PREFIX: &str = "posthaste_";
/// Longer ones are not looked at.
const SECRET_BYTES_MAX: usize = 256;

/// What somebody may do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// See jobs and dead letters without their payloads, subscriptions, operations, the audit trail, health and metrics.
    View,
    /// See payloads, headers and receipts as well.
    Payloads,
    /// Submit jobs.
    Enqueue,
    /// Cancel and retry jobs, pause, resume and rewind subscriptions, replay and discard messages.
    Operate,
    /// Everything.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] =
        [Self::View, Self::Payloads, Self::Enqueue, Self::Operate, Self::Admin];

    /// As people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Payloads => "payloads",
            Self::Enqueue => "enqueue",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| {
            format!("{text:?} is no scope: use view, payloads, enqueue, operate or admin")
        })
    }
}

/// A secret that has just been made: shown once, and kept nowhere.
pub struct NewSecret {
    /// What its owner sends as `authorization: Bearer …`.
    pub secret: String,
    /// What the configuration keeps of it.
    pub sha256: String,
}

impl NewSecret {
    /// 256 bits of the system's randomness.
    pub fn random() -> Self {
        let bits: [u8; 32] = rand::random();
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits));
        let sha256 = hex(&digest_of(&secret));
        Self { secret, sha256 }
    }
}

/// Without the secret.
impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSecret").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

type Sha256Digest = [u8; 32];

fn digest_of(secret: &str) -> Sha256Digest {
    Sha256::digest(secret.as_bytes()).into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn digest_of_hex(text: &str) -> Option<Sha256Digest> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}

/// Somebody who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// For the audit trail.
    pub(crate) name: Arc<str>,
    scopes: Vec<Scope>,
    /// Beginnings of the topics that it may see and submit; `None` for all.
    topics: Option<Vec<String>>,
    /// Organisations whose entities are its business; `None` for all, if it is not limited to some topics.
    organizations: Option<Vec<String>>,
    /// When its token ends: what it has begun by then ends there as well.
    pub(crate) expires: Option<Timestamp>,
}

impl Principal {
    fn everything(name: &str) -> Self {
        let (name, scopes) = (name.into(), vec![Scope::Admin]);
        Self { name, scopes, topics: None, organizations: None, expires: None }
    }

    /// Whoever follows a stream by a ticket.
    pub(crate) fn follower(
        name: Arc<str>,
        payloads: bool,
        topics: Option<Vec<String>>,
        expires: Option<Timestamp>,
    ) -> Self {
        let payloads = payloads.then_some(Scope::Payloads);
        let scopes = [Scope::View].into_iter().chain(payloads).collect();
        Self { name, scopes, topics, organizations: None, expires }
    }

    /// Of that, what a ticket passes on: whether it sees payloads, and the beginnings of its topics.
    pub(crate) fn follows(&self) -> (bool, Option<&[String]>) {
        (self.may(Scope::Payloads), self.topics.as_deref())
    }

    /// Whether all topics that match are its business.
    pub(crate) fn knows_all(&self, topics: &TopicFilter) -> bool {
        topics.exact().iter().chain(topics.prefixes()).all(|beginning| self.knows(beginning))
    }

    /// Whether it may do what `scope` allows.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|own| *own == scope || *own == Scope::Admin)
    }

    /// Whether jobs of this topic are its business.
    pub(crate) fn knows(&self, topic: &str) -> bool {
        let Some(topics) = &self.topics else { return true };
        topics.iter().any(|beginning| topic.starts_with(beginning.as_str()))
    }

    /// The topics that are its business, if those are not all.
    pub(crate) fn limits(&self) -> Option<TopicFilter> {
        let topics = self.topics.clone()?;
        Some(TopicFilter::from_parts(Vec::new(), topics))
    }

    /// Whether some topics are none of its business.
    pub(crate) const fn is_limited(&self) -> bool {
        self.topics.is_some()
    }

    /// Whether entities are its business: of all organisations, or of some.
    pub(crate) const fn has_entities(&self) -> bool {
        self.topics.is_none() || self.organizations.is_some()
    }

    /// The organisations whose entities are its business, if those are not all.
    pub(crate) fn organizations(&self) -> Option<&[String]> {
        self.organizations.as_deref()
    }

    /// Whether entities of an organisation, or of none, are its business.
    pub(crate) fn knows_organization(&self, organization: Option<&str>) -> bool {
        let Some(own) = &self.organizations else { return true };
        organization.is_some_and(|organization| own.iter().any(|own| own == organization))
    }

    /// The beginnings of its topics, for people.
    pub(crate) fn topics(&self) -> String {
        let topics = self.topics.as_deref().unwrap_or_default();
        if topics.is_empty() {
            return "none".to_owned();
        }
        topics.iter().map(|topic| format!("{topic}*")).collect::<Vec<_>>().join(", ")
    }
}

/// Why somebody is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// No token, or something else than one.
    Missing,
    /// A token that is none of ours.
    Wrong,
    /// One that was ours.
    Expired,
}

/// Everybody who may call.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// Each digest with whose it is; `None` where nobody is asked for a token.
    all: Option<Vec<(Sha256Digest, Principal)>>,
    /// Who calls where nobody is asked.
    anybody: Principal,
}

impl Tokens {
    /// The tokens of a configuration that was validated. `anybody` is who calls if there are none.
    pub(crate) fn new(settings: &BTreeMap<String, TokenSettings>, anybody: &str) -> Self {
        let principal = |name: &str, settings: &TokenSettings| Principal {
            name: name.into(),
            scopes: settings.scopes.clone(),
            // Messages and jobs are of no organisation.
            topics: settings.topics.clone().or(settings.organizations.as_ref().map(|_| Vec::new())),
            organizations: settings.organizations.clone(),
            expires: settings.expires.as_deref().and_then(clock::read),
        };
        let each = settings.iter().flat_map(|(name, settings)| {
            let digests = settings.secret_sha256.iter().filter_map(|text| digest_of_hex(text));
            digests.map(move |digest| (digest, principal(name, settings)))
        });
        let all = (!settings.is_empty()).then(|| each.collect());
        Self { all, anybody: Principal::everything(anybody) }
    }

    /// Who sent this `authorization` header.
    pub(crate) fn principal(&self, header: Option<&[u8]>) -> Result<Principal, Unknown> {
        self.principal_at(header, clock::now())
    }

    fn principal_at(&self, header: Option<&[u8]>, now: Timestamp) -> Result<Principal, Unknown> {
        let Some(all) = &self.all else { return Ok(self.anybody.clone()) };
        let header = header.and_then(|header| std::str::from_utf8(header).ok());
        let parts = header.and_then(|header| header.split_once(' '));
        let secret = parts.filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        let (_, secret) = secret.ok_or(Unknown::Missing)?;
        let secret = secret.trim();
        if secret.len() > SECRET_BYTES_MAX {
            return Err(Unknown::Wrong);
        }
        let digest = digest_of(secret);
        // All of them, and each in the same time: how long this takes tells nothing.
        let mut found = u32::MAX;
        for (index, (own, _)) in (0_u32..).zip(all) {
            let is_it: Choice = own.ct_eq(&digest);
            found = u32::conditional_select(&found, &index, is_it);
        }
        let found = usize::try_from(found).ok().and_then(|index| all.get(index));
        let (_, principal) = found.ok_or(Unknown::Wrong)?;
        if principal.expires.is_some_and(|end| end.0 <= now.0) {
            return Err(Unknown::Expired);
        }
        Ok(principal.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(secrets: &[&NewSecret]) -> TokenSettings {
        TokenSettings {
            secret_sha256: secrets.iter().map(|secret| secret.sha256.clone()).collect(),
            scopes: vec![Scope::View, Scope::Enqueue],
            topics: Some(vec!["orders.".to_owned()]),
            expires: Some("2030-01-01T00:00:00Z".to_owned()),
            ..TokenSettings::default()
        }
    }

    fn bearer(secret: &NewSecret) -> Vec<u8> {
        format!("Bearer {}", secret.secret).into_bytes()
    }

    #[test]
    fn both_secrets_of_a_token_are_its_own_until_it_expires() {
        let (old, new, other) = (NewSecret::random(), NewSecret::random(), NewSecret::random());
        let tokens =
            Tokens::new(&BTreeMap::from([("shop".to_owned(), settings(&[&old, &new]))]), "anybody");
        let end = clock::read("2030-01-01T00:00:00Z").unwrap();
        let at = |secret: &NewSecret, at| tokens.principal_at(Some(&bearer(secret)), Timestamp(at));
        for secret in [&old, &new] {
            let shop = at(secret, end.0 - 1).unwrap();
            assert_eq!(&*shop.name, "shop");
            assert!(shop.may(Scope::Enqueue) && !shop.may(Scope::Operate));
            assert!(shop.knows("orders.created") && !shop.knows("mail") && shop.is_limited());
            assert_eq!(at(secret, end.0), Err(Unknown::Expired));
        }
        assert_eq!(at(&other, 0), Err(Unknown::Wrong));
    }

    #[test]
    fn what_is_no_token_is_told_from_a_wrong_one() {
        let own = NewSecret::random();
        let tokens = Tokens::new(&BTreeMap::from([("a".to_owned(), settings(&[&own]))]), "anybody");
        let ask = |header: &[u8]| tokens.principal_at(Some(header), Timestamp(0));
        assert_eq!(tokens.principal_at(None, Timestamp(0)), Err(Unknown::Missing));
        assert_eq!(ask(b"Basic YTpi"), Err(Unknown::Missing));
        assert_eq!(ask(b"\xff\xfe"), Err(Unknown::Missing));
        assert_eq!(ask(b"Bearer "), Err(Unknown::Wrong));
        assert_eq!(ask(format!("Bearer {}", "x".repeat(10_000)).as_bytes()), Err(Unknown::Wrong));
        // What is kept of a secret is not the secret.
        assert_eq!(ask(format!("Bearer {}", own.sha256).as_bytes()), Err(Unknown::Wrong));
    }

    #[test]
    fn without_tokens_anybody_may_do_everything() {
        let tokens = Tokens::new(&BTreeMap::new(), "loopback");
        let anybody = tokens.principal(None).unwrap();
        assert_eq!(&*anybody.name, "loopback");
        assert!(Scope::ALL.into_iter().all(|scope| anybody.may(scope)) && !anybody.is_limited());
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = NewSecret::random();
        assert!(secret.secret.len() > 50 && !format!("{secret:?}").contains(&secret.secret));
        assert_ne!(secret.secret, NewSecret::random().secret);
    }
}
