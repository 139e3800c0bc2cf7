//! `local`: messages of a relay in the same process, over a bounded channel.
//!
//! For tests, the demo and embedded use. What is in the channel when the process ends is gone: jobs come again
//! (a watch finds them), other messages do not.

use std::{collections::HashMap, sync::Mutex as Shared, time::Duration};

use async_trait::async_trait;
use posthaste::Received;
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};

use crate::{
    crew::Crew,
    source::{Delivery, Fate, Source, SourceError, Token},
};

/// A channel of messages.
#[derive(Debug)]
pub struct LocalSource {
    name: String,
    channel: Mutex<mpsc::Receiver<Received>>,
    /// What is handed out.
    held: Shared<HashMap<u64, Received>>,
    state: Shared<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the next message that is handed out.
    next: u64,
    /// What came back.
    again: Vec<Received>,
    /// What nobody could handle.
    buried: Vec<(Received, String)>,
}

impl LocalSource {
    /// Takes messages from `channel`. The name is for people.
    pub fn new(name: impl Into<String>, channel: mpsc::Receiver<Received>) -> Self {
        Self {
            name: format!("local channel {}", name.into()),
            channel: Mutex::new(channel),
            held: Shared::default(),
            state: Shared::default(),
        }
    }

    /// What nobody could handle, and why.
    pub fn buried(&self) -> Vec<(Received, String)> {
        Crew::lock(&self.state).buried.clone()
    }
}

#[async_trait]
impl Source for LocalSource {
    fn describe(&self) -> &str {
        &self.name
    }

    async fn take(&self, limit: usize, wait: Duration) -> Result<Vec<Delivery>, SourceError> {
        let mut taken = {
            let mut state = Crew::lock(&self.state);
            let count = state.again.len().min(limit);
            state.again.drain(..count).collect::<Vec<_>>()
        };
        if taken.is_empty() {
            let mut channel = self.channel.lock().await;
            // Zero is the end of the channel, whose sender is gone.
            if let Ok(0) = timeout(wait, channel.recv_many(&mut taken, limit)).await {
                tokio::time::sleep(wait).await;
            }
        }
        let mut state = Crew::lock(&self.state);
        let mut held = Crew::lock(&self.held);
        let hand_out = |message: Received| {
            let token = state.next;
            state.next += 1;
            held.insert(token, message.clone());
            Delivery { token: Token(token.to_be_bytes().to_vec()), message: Ok(message) }
        };
        Ok(taken.into_iter().map(hand_out).collect())
    }

    async fn settle(&self, settled: &[(Token, Fate)]) -> Result<(), SourceError> {
        let mut state = Crew::lock(&self.state);
        let mut held = Crew::lock(&self.held);
        for (token, fate) in settled {
            let number = token.0.as_slice().try_into().map(u64::from_be_bytes);
            let Some(message) = number.ok().and_then(|number| held.remove(&number)) else {
                continue;
            };
            match fate {
                Fate::Done => {}
                Fate::GiveBack => state.again.push(message),
                Fate::Bury { reason } => state.buried.push((message, reason.clone())),
            }
        }
        Ok(())
    }
}
