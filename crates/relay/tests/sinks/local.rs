//! `local`: the contract, and what its consumers rely on.

use async_trait::async_trait;
use posthaste_relay::{
    sink::{Context, Outcome, SinkErrorKind, Target},
    sinks::{self, local::Delivery},
};
use tokio::sync::mpsc;

use super::{
    contract::{Harness, sink_contract},
    messages::{Arrived, Sample, lane, publish},
};

const CHANNEL: &str = "consumer";
const ROOM: usize = 4_096;

struct Local {
    context: Context,
    receiver: Option<mpsc::Receiver<Delivery>>,
    received: Vec<Delivery>,
}

fn target() -> Box<dyn Target> {
    let settings = toml::toml! { channel = "consumer" };
    (sinks::find("local").unwrap().parse)(settings).unwrap()
}

#[async_trait]
impl Harness for Local {
    async fn start(_is_alone: bool) -> Self {
        let context = Context::default();
        let receiver = Some(context.locals.subscribe(CHANNEL, ROOM));
        Self { context, receiver, received: Vec::new() }
    }

    fn target(&self) -> Box<dyn Target> {
        target()
    }

    fn context(&self) -> Context {
        self.context.clone()
    }

    async fn arrived(&mut self, topic: &str) -> Vec<Arrived> {
        self.drain();
        let of_topic = self.received.iter().filter(|delivery| delivery.topic == topic).cloned();
        of_topic
            .map(|delivery| Arrived {
                id: delivery.id,
                topic: delivery.topic,
                key: delivery.key,
                headers: delivery.headers.into_iter().collect(),
                payload: delivery.payload,
            })
            .collect()
    }

    fn go_away(&mut self) {
        self.drain();
        self.receiver = None;
    }

    fn come_back(&mut self) {
        self.receiver = Some(self.context.locals.subscribe(CHANNEL, ROOM));
    }
}

impl Local {
    fn drain(&mut self) {
        let Some(receiver) = &mut self.receiver else { return };
        self.received.extend(std::iter::from_fn(|| receiver.try_recv().ok()));
    }
}

sink_contract!(contract_of_local, super::Local);

#[tokio::test]
async fn channel_that_nobody_consumes_is_named() {
    let error = target().connect(&Context::default(), &lane("s")).await.err().unwrap();
    assert_eq!(error.kind(), SinkErrorKind::Unavailable);
    assert!(error.to_string().contains("\"consumer\""), "{error}");
}

#[tokio::test(start_paused = true)]
async fn full_channel_is_waited_for_and_then_retried() {
    let context = Context::default();
    let mut receiver = context.locals.subscribe(CHANNEL, 1);
    let mut sink = target().connect(&context, &lane("s")).await.unwrap();
    let samples = [Sample::new("t", b"1".as_slice()), Sample::new("t", b"2".as_slice())];
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    assert_eq!(outcomes[0], Outcome::Accepted);
    assert!(matches!(outcomes[1], Outcome::Retry { .. }), "{outcomes:?}");
    assert_eq!(receiver.recv().await.unwrap().payload, b"1");
}

#[test]
fn unknown_setting_is_refused() {
    let settings = toml::toml! { channel = "a" chanel = "b" };
    let error = (sinks::find("local").unwrap().parse)(settings).unwrap_err();
    assert!(error.message.contains("chanel"), "{error}");
}
