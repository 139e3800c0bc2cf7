//! What every sink must do, whatever its kind. A new kind implements [`Harness`] and names itself
//! in [`sink_contract!`].

use std::time::{Duration, Instant};

use async_trait::async_trait;
use posthaste_relay::sink::{Context, Outcome, Scope, Sink, Target};

use super::messages::{Arrived, Sample, arrivals, lane, publish};

/// Longest time any call may take with the sinks' default time-outs (5 s), on a busy machine.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(8);

/// A sink under test.
#[async_trait]
pub(crate) trait Harness: Send + Sized {
    /// Starts where other tests may be at work too, or alone, so that it can be stopped.
    async fn start(is_alone: bool) -> Self;
    /// The sink's configuration, which sends each topic to a destination of its own if the kind
    /// can.
    fn target(&self) -> Box<dyn Target>;
    /// What the sink may use of the process.
    fn context(&self) -> Context {
        Context::default()
    }
    /// What arrived for `topic` so far, in order.
    async fn arrived(&mut self, topic: &str) -> Vec<Arrived>;
    /// Makes the other side go away.
    fn go_away(&mut self);
    /// Brings it back with all that it had accepted.
    fn come_back(&mut self);
}

/// A sink of which one destination can be made to take nothing.
#[async_trait]
pub(crate) trait Breaking: Harness {
    /// Makes the destination of `topic` take nothing from now on.
    async fn refuse(&mut self, topic: &str);
    /// Makes it take messages again.
    async fn relent(&mut self, topic: &str);
}

/// Runs the suite for a harness; `breaking` adds the cases for sinks with
/// several destinations.
macro_rules! sink_contract {
    ($name:ident, $harness:ty $(, $breaking:ident)?) => {
        mod $name {
            $($crate::sinks::contract::sink_contract! { @$breaking $harness })?
            $crate::sinks::contract::sink_contract! { @cases $harness:
                payload_bytes_and_headers_arrive_unchanged,
                order_holds_within_a_batch_and_across_batches,
                full_batch_arrives,
                batch_beyond_one_call_arrives_in_order,
                r12_sink_that_is_away_is_an_error_and_the_batch_is_accepted_after_reconnect,
            }
        }
    };
    (@breaking $harness:ty) => {
        $crate::sinks::contract::sink_contract! { @cases $harness:
            broken_destination_is_told_and_others_go_on,
            nothing_follows_a_message_that_its_destination_did_not_take,
        }
    };
    (@cases $harness:ty: $($case:ident,)+) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::sinks::contract::$case::<$harness>().await;
            }
        )+
    };
}
pub(crate) use sink_contract;

async fn connected<H: Harness>(harness: &H) -> Box<dyn Sink> {
    harness.target().connect(&harness.context(), &lane("s")).await.expect("the sink is there")
}

fn is_accepted(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| *outcome == Outcome::Accepted)
}

pub(crate) async fn payload_bytes_and_headers_arrive_unchanged<H: Harness>() {
    let mut harness = H::start(false).await;
    let mut sink = connected(&harness).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..256 * 1024).map(|at: u32| (at % 251) as u8).collect();
    let mut samples = vec![
        Sample::new("t", every_byte).key("k"),
        Sample::new("t", b"a\0b\r\nc".as_slice()).content_type("text/plain"),
        Sample::new("t", b"\xff\xfe\x80".as_slice()).content_type("text/plain"),
        Sample::new("t", b"".as_slice()),
        Sample::new("t", b"".as_slice()).content_type("application/json"),
        Sample::new("t", large).key("large"),
        Sample::new("t", "Zo\u{eb} \u{1f680} \u{202e}".as_bytes()).content_type("text/plain"),
        Sample::new("t", br#"{"n":1.0e2,"a":1,"a":2}"#.as_slice()).content_type("application/json"),
        Sample::new("t", b"{not json".as_slice()).content_type("application/json"),
        Sample::new("t", b"p".as_slice())
            .key("kl\u{fc}ssel")
            .header("tenant", "acme")
            .header("Content-Length", "7")
            .header("empty", "")
            .header("payload", "not the payload")
            .header("lines", "a\nb\"c\\")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        Sample::new("t", b"p".as_slice()).header("only", "\u{1f680}"),
    ];
    samples.push(Sample { correlation_id: Some("c-1".to_owned()), ..Sample::new("t", b"c") });
    let outcomes = publish(&mut *sink, &samples).await.expect("the sink is there");
    assert!(is_accepted(&outcomes), "{outcomes:?}");
    assert_eq!(harness.arrived("t").await, arrivals(&samples));
}

pub(crate) async fn order_holds_within_a_batch_and_across_batches<H: Harness>() {
    let mut harness = H::start(false).await;
    let mut sink = connected(&harness).await;
    let topics = ["a", "b", "c"];
    let samples: Vec<Sample> =
        (0..90).map(|n| Sample::new(topics[n % 3], format!("{n}")).key("k")).collect();
    for batch in samples.chunks(7) {
        assert!(is_accepted(&publish(&mut *sink, batch).await.expect("the sink is there")));
    }
    sink.close().await.expect("nothing is left to flush");
    for topic in topics {
        let expected = samples.iter().filter(|sample| sample.topic == topic);
        assert_eq!(harness.arrived(topic).await, arrivals(expected), "{topic}");
    }
}

pub(crate) async fn full_batch_arrives<H: Harness>() {
    many_arrive::<H>(1_000).await;
}

pub(crate) async fn batch_beyond_one_call_arrives_in_order<H: Harness>() {
    many_arrive::<H>(2_001).await;
}

async fn many_arrive<H: Harness>(count: usize) {
    let mut harness = H::start(false).await;
    let mut sink = connected(&harness).await;
    let samples: Vec<Sample> =
        (0..count).map(|n| Sample::new("many", vec![n as u8; 200]).key(&format!("{n}"))).collect();
    let outcomes = publish(&mut *sink, &samples).await.expect("the sink is there");
    assert!(is_accepted(&outcomes));
    assert_eq!(harness.arrived("many").await, arrivals(&samples));
}

pub(crate) async fn r12_sink_that_is_away_is_an_error_and_the_batch_is_accepted_after_reconnect<
    H: Harness,
>() {
    let mut harness = H::start(true).await;
    let mut sink = connected(&harness).await;
    let before = [Sample::new("t", b"before".as_slice())];
    assert!(is_accepted(&publish(&mut *sink, &before).await.expect("the sink is there")));
    let batch = [Sample::new("t", b"1".as_slice()), Sample::new("t", b"2".as_slice())];
    harness.go_away();
    let since = Instant::now();
    let of_the_sink =
        |outcome: &Outcome| matches!(outcome, Outcome::Retry { scope: Scope::Sink, .. });
    match publish(&mut *sink, &batch).await {
        Ok(outcomes) => assert!(outcomes.iter().all(of_the_sink), "{outcomes:?}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    drop(sink);
    if let Ok(mut sink) = harness.target().connect(&harness.context(), &lane("s")).await {
        let outcome = publish(&mut *sink, &batch).await;
        assert!(outcome.is_err(), "connected to a sink that is away: {outcome:?}");
    }
    assert!(since.elapsed() < 2 * CALL_LIMIT, "{:?}", since.elapsed());
    harness.come_back();
    let mut sink = connected(&harness).await;
    assert!(is_accepted(&publish(&mut *sink, &batch).await.expect("the sink is back")));
    assert_eq!(harness.arrived("t").await, arrivals(before.iter().chain(&batch)));
}

/// Whether a destination did not take a message, and why is said.
fn is_left(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Reject { reason } | Outcome::Retry { scope: Scope::Destination, reason } => {
            !reason.is_empty()
        }
        Outcome::Accepted | Outcome::Retry { .. } => false,
    }
}

pub(crate) async fn broken_destination_is_told_and_others_go_on<H: Breaking>() {
    let mut harness = H::start(false).await;
    let mut sink = connected(&harness).await;
    harness.refuse("bad").await;
    let samples = ["a", "bad", "a", "b"].map(|topic| Sample::new(topic, b"p".as_slice()));
    let outcomes = publish(&mut *sink, &samples).await.expect("the sink answers");
    assert!(is_left(&outcomes[1]), "{outcomes:?}");
    for accepted in [0, 2, 3] {
        assert_eq!(outcomes[accepted], Outcome::Accepted, "{accepted}");
    }
    assert_eq!(harness.arrived("a").await, arrivals([&samples[0], &samples[2]]));
    assert_eq!(harness.arrived("b").await, arrivals([&samples[3]]));
}

pub(crate) async fn nothing_follows_a_message_that_its_destination_did_not_take<H: Breaking>() {
    let mut harness = H::start(false).await;
    let mut sink = connected(&harness).await;
    harness.refuse("bad").await;
    // Past one call's worth of messages, so that later calls of the batch keep the order too.
    let topic = |n: usize| if n == 3 || n == 5 || n == 1_500 { "bad" } else { "good" };
    let samples: Vec<Sample> = (0..1_600).map(|n| Sample::new(topic(n), format!("{n}"))).collect();
    let outcomes = publish(&mut *sink, &samples).await.expect("the sink answers");
    assert!(is_left(&outcomes[3]), "{:?}", outcomes[3]);
    for follower in [5, 1_500] {
        let outcome = &outcomes[follower];
        let is_held = matches!(outcome, Outcome::Retry { scope: Scope::Destination, .. });
        assert!(is_held, "{follower}: {outcome:?}");
    }
    let accepted = outcomes.iter().filter(|outcome| **outcome == Outcome::Accepted).count();
    assert_eq!(accepted, samples.len() - 3);
    // The next batch may go there again: what failed is the pipeline's to remember.
    harness.relent("bad").await;
    let retried = [samples[5].clone(), samples[1_500].clone()];
    assert!(is_accepted(&publish(&mut *sink, &retried).await.expect("the sink answers")));
    assert_eq!(harness.arrived("bad").await, arrivals(&retried));
}
