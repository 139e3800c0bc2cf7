//! What people see of the log: lists by keyset, and one message with its timeline.
//!
//! A page reads slot by slot, the newest first, by whichever index of `0019_browse.sql` says most. A slot in which that
//! says too little holds much of what is looked for, or holds it close together, and is read by position instead, as one
//! is that has no indexes yet. What one page may look at is bounded, so that no list takes long, whatever is asked for.

mod copies;
mod detail;
mod places;
mod session;
mod texts;
mod walk;

use async_trait::async_trait;
use posthaste_core::{MessageId, Position};

use self::{
    places::{ParkedKeys, Readers},
    session::Session,
    texts::Conditions,
    walk::Walk,
};
use super::PostgresStore;
use crate::{
    Browse, BrowsePlace, ListedMessage, MessageDetail, MessageFilter, MessagePage, MessageState,
    Result, browse::PAGE_MAX,
};

/// A message that was found, and the transaction that wrote it; a copy does not know it.
struct Found {
    message: ListedMessage,
    xid: Option<u64>,
}

/// What was found, the newest first, and where the rest begins, if there is any.
#[derive(Default)]
struct Part {
    found: Vec<Found>,
    next: Option<Position>,
}

impl Part {
    /// Both parts as one, each message once.
    fn merged(self, other: Self) -> Self {
        let next = self.next.max(other.next);
        let mut found = self.found;
        for one in other.found {
            let is_same = |it: &Found| {
                (it.message.position, it.message.id) == (one.message.position, one.message.id)
            };
            if !found.iter().any(is_same) {
                found.push(one);
            }
        }
        // Below the bound one of them has not looked yet.
        found.retain(|it| it.message.position >= next);
        found.sort_by_key(|it| std::cmp::Reverse(it.message.position));
        Self { found, next }
    }

    /// At most `limit` of them.
    fn cut(mut self, limit: usize) -> Self {
        if self.found.len() > limit {
            self.found.truncate(limit);
            self.next = self.found.last().and_then(|last| last.message.position);
        }
        self
    }
}

#[async_trait]
impl Browse for PostgresStore {
    async fn messages(&self, which: &MessageFilter, limit: u32) -> Result<MessagePage> {
        which.check()?;
        let limit = limit.clamp(1, PAGE_MAX) as usize;
        let session = Session::begin(self).await?;
        let page = page(&session, which, limit).await?;
        session.end().await?;
        Ok(page)
    }

    async fn message(&self, id: MessageId, with_payload: bool) -> Result<Option<MessageDetail>> {
        let session = Session::begin(self).await?;
        let detail = detail::detail(&session, id, with_payload).await?;
        session.end().await?;
        Ok(detail)
    }
}

async fn page(session: &Session, which: &MessageFilter, limit: usize) -> Result<MessagePage> {
    let is_scheduled_asked = matches!(which.state, None | Some(MessageState::Scheduled));
    let mut messages = Vec::new();
    let before = match which.before {
        Some(BrowsePlace::Log(_)) if which.state == Some(MessageState::Scheduled) => {
            return Ok(MessagePage::default());
        }
        Some(BrowsePlace::Log(position)) => Some(position),
        place if is_scheduled_asked => {
            let before = match place {
                Some(BrowsePlace::Scheduled(n)) => Some(n),
                _ => None,
            };
            let part = copies::scheduled(session, which, before, limit + 1).await?.cut(limit);
            let next = part.next.map(BrowsePlace::Scheduled);
            messages.extend(part.found.into_iter().map(|found| found.message));
            // Their numbers are no positions.
            for message in &mut messages {
                message.number = message.position.take();
            }
            if next.is_some() || which.state.is_some() {
                return Ok(MessagePage { messages, next });
            }
            None
        }
        _ => None,
    };
    let left = limit - messages.len();
    if left == 0 {
        let next = Some(BrowsePlace::Log(Position::MAX));
        return Ok(MessagePage { messages, next });
    }
    let part = of_log(session, which, before, left).await?;
    messages.extend(part.found.into_iter().map(|found| found.message));
    Ok(MessagePage { messages, next: part.next.map(BrowsePlace::Log) })
}

/// Messages of the log, or in the states that only copies tell, those.
async fn of_log(
    session: &Session,
    which: &MessageFilter,
    before: Option<Position>,
    limit: usize,
) -> Result<Part> {
    let before = before.unwrap_or(Position::MAX);
    if which.state == Some(MessageState::Dead) {
        let dead = copies::set_aside(session, which, before, limit + 1, true).await?;
        return Ok(dead.cut(limit));
    }
    let readers = Readers::read(session).await?;
    let walk = async |parked: Option<&ParkedKeys>| {
        let mut conditions = Conditions::new(which, &readers, parked, "m");
        let keys = parked.map(|parked| parked.keys.clone());
        let drivers = texts::drivers(&mut conditions, which, &readers, keys);
        let walk = Walk { session, which, readers: &readers, conditions, drivers, parked };
        walk.run(before, limit + 1).await
    };
    if which.state != Some(MessageState::Parked) {
        return Ok(walk(None).await?.cut(limit));
    }
    let alone = copies::set_aside(session, which, before, limit + 1, false).await?;
    let parked = readers.parked_keys(session).await?;
    if parked.keys.is_empty() {
        return Ok(alone.cut(limit));
    }
    Ok(alone.merged(walk(Some(&parked)).await?).cut(limit))
}
