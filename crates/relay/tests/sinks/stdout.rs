//! `stdout`: the contract with a writer in its place, and a real pipe whose reader leaves.

use std::{
    io::{self, BufRead as _, BufReader, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use posthaste_relay::{
    sink::{Context, SinkErrorKind, Target},
    sinks::{self, stdout},
};
use serde_json::Value;

use super::{
    contract::{Harness, sink_contract},
    messages::{Arrived, Sample, lane, publish, read_envelope, read_event},
};

/// Stands in for the pipe.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<PipeState>>);

#[derive(Default)]
struct PipeState {
    written: Vec<u8>,
    writes: usize,
    flushed: usize,
    is_closed: bool,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        if state.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.writes += 1;
        state.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.flushed = state.written.len();
        Ok(())
    }
}

impl Pipe {
    fn lines(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let flushed = &state.written[..state.flushed];
        assert!(flushed.is_empty() || flushed.ends_with(b"\n"));
        flushed
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }
}

struct Lines<const EVENTS: bool>(Pipe);

fn target(pipe: &Pipe, format: &str) -> Box<dyn Target> {
    let settings = toml::Table::from_iter([("format".to_owned(), format.into())]);
    stdout::parse(settings, stdout::Output::new(pipe.clone())).unwrap()
}

#[async_trait]
impl<const EVENTS: bool> Harness for Lines<EVENTS> {
    async fn start(_is_alone: bool) -> Self {
        Self(Pipe::default())
    }

    fn target(&self) -> Box<dyn Target> {
        target(&self.0, if EVENTS { "cloudevents" } else { "raw" })
    }

    async fn arrived(&mut self, topic: &str) -> Vec<Arrived> {
        let read = if EVENTS { read_event } else { read_envelope };
        self.0
            .lines()
            .iter()
            .map(|line| read(line.as_bytes()))
            .filter(|arrived| arrived.topic == topic)
            .collect()
    }

    fn go_away(&mut self) {
        self.0.0.lock().unwrap().is_closed = true;
    }

    fn come_back(&mut self) {
        self.0.0.lock().unwrap().is_closed = false;
    }
}

sink_contract!(contract_of_raw_lines, super::Lines<false>);
sink_contract!(contract_of_event_lines, super::Lines<true>);

#[tokio::test]
async fn batch_is_one_write_and_a_message_one_line() {
    let pipe = Pipe::default();
    let mut sink =
        target(&pipe, "cloudevents").connect(&Context::default(), &lane("s")).await.unwrap();
    let pretty = b"{\n  \"a\": \"b\\nc\"\r\n}".as_slice();
    let samples =
        [Sample::new("t", pretty).content_type("application/json"), Sample::new("t", b"\n")];
    publish(&mut *sink, &samples).await.unwrap();
    let lines = pipe.lines();
    assert_eq!((lines.len(), pipe.0.lock().unwrap().writes), (2, 1));
    let event: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(event["data"], serde_json::json!({ "a": "b\nc" }));
}

#[tokio::test]
async fn raw_line_has_the_documented_members() {
    let pipe = Pipe::default();
    let mut sink = target(&pipe, "raw").connect(&Context::default(), &lane("s")).await.unwrap();
    let sample = Sample::new("orders", b"hi".as_slice()).key("k").header("tenant", "acme");
    let sample = Sample { correlation_id: Some("c".to_owned()), ..sample };
    publish(&mut *sink, std::slice::from_ref(&sample)).await.unwrap();
    let expected = format!(
        "{{\"id\":\"{}\",\"position\":1,\"topic\":\"orders\",\"key\":\"k\",\
         \"content_type\":\"application/octet-stream\",\"correlation_id\":\"c\",\
         \"enqueued_at\":\"2026-01-02T03:04:05.000006Z\",\"headers\":{{\"tenant\":\"acme\"}},\
         \"payload\":\"hi\"}}",
        sample.id
    );
    assert_eq!(pipe.lines(), [expected]);
}

const IN_CHILD: &str = "POSTHASTE_TEST_STDOUT_CHILD";

/// Runs this test again in a process of its own, whose standard output is a pipe.
#[tokio::test]
async fn reader_that_leaves_is_an_error_and_no_panic() {
    if std::env::var_os(IN_CHILD).is_some() {
        return write_until_the_pipe_breaks().await;
    }
    // Not by its path, where a build may have put another binary meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .args(["--exact", "sinks::stdout::reader_that_leaves_is_an_error_and_no_panic"])
        .arg("--nocapture")
        .env(IN_CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_message = |line: &String| line.contains("\"topic\":\"t\"");
    assert!(lines.by_ref().map(Result::unwrap).any(|line| is_message(&line)));
    drop(lines);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("reader of standard output has closed it"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

async fn write_until_the_pipe_breaks() {
    let parse = sinks::find("stdout").unwrap().parse;
    let target = parse(toml::Table::new()).unwrap();
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    loop {
        if let Err(error) = publish(&mut *sink, &[Sample::new("t", vec![b'x'; 70_000])]).await {
            assert_eq!(error.kind(), SinkErrorKind::Unavailable);
            eprintln!("{error}");
            // The test harness itself would panic when it prints its result to the broken pipe.
            std::process::exit(0);
        }
    }
}
