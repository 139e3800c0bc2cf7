//! What people see of the log: lists by keyset, and one message with its timeline.
//!
//! Candidates come by whichever index says most, the highest position first, and are judged one by one. What one page
//! may look at is bounded.

mod candidates;
mod detail;
mod states;

use async_trait::async_trait;
use posthaste_core::{MessageId, Position};

use self::{
    candidates::{Candidates, scheduled},
    states::Readers,
};
use super::{SqliteStore, session::Scope};
use crate::{
    Browse, BrowsePlace, ListedMessage, MessageDetail, MessageFilter, MessagePage, MessageState,
    Result, browse::PAGE_MAX,
};

/// What was found, the newest first, and where the rest begins, if there is any.
#[derive(Default)]
struct Part {
    found: Vec<ListedMessage>,
    next: Option<Position>,
}

impl Part {
    /// Adds one that is older than all of them, unless it is there; `true` once there are more than `limit`: the last
    /// one is left to the next page.
    fn add(&mut self, message: ListedMessage, limit: usize) -> bool {
        let is_there = |it: &ListedMessage| (it.position, it.id) == (message.position, message.id);
        if self.found.last().is_some_and(is_there) {
            return false;
        }
        if self.found.len() == limit {
            self.next = self.found.last().and_then(|last| last.position);
            return true;
        }
        self.found.push(message);
        false
    }
}

#[async_trait]
impl Browse for SqliteStore {
    async fn messages(&self, which: &MessageFilter, limit: u32) -> Result<MessagePage> {
        which.check()?;
        let (which, limit) = (which.clone(), limit.clamp(1, PAGE_MAX) as usize);
        self.observe("read messages", move |scope| page(scope, &which, limit)).await
    }

    async fn message(&self, id: MessageId, with_payload: bool) -> Result<Option<MessageDetail>> {
        self.observe("read a message", move |scope| detail::detail(scope, id, with_payload)).await
    }
}

fn page(scope: &Scope<'_>, which: &MessageFilter, limit: usize) -> Result<MessagePage> {
    let is_scheduled_asked = matches!(which.state, None | Some(MessageState::Scheduled));
    let mut messages = Vec::new();
    let before = match which.before {
        Some(BrowsePlace::Log(_)) if which.state == Some(MessageState::Scheduled) => {
            return Ok(MessagePage::default());
        }
        Some(BrowsePlace::Log(position)) => position,
        place if is_scheduled_asked => {
            let before = match place {
                Some(BrowsePlace::Scheduled(n)) => n,
                _ => i64::MAX,
            };
            let part = scheduled(scope, which, before, limit)?;
            let next = part.next.map(BrowsePlace::Scheduled);
            messages = part.found;
            // Their numbers are no positions.
            for message in &mut messages {
                message.number = message.position.take();
            }
            if next.is_some() || which.state.is_some() {
                return Ok(MessagePage { messages, next });
            }
            Position::MAX
        }
        _ => Position::MAX,
    };
    let left = limit - messages.len();
    if left == 0 {
        return Ok(MessagePage { messages, next: Some(BrowsePlace::Log(Position::MAX)) });
    }
    let readers = Readers::read(scope)?;
    let part = Candidates { scope, which, readers: &readers }.page(before, left)?;
    messages.extend(part.found);
    Ok(MessagePage { messages, next: part.next.map(BrowsePlace::Log) })
}
