//! One trace from the caller of the API to the handler, as a collector gets it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value as Attribute,
    trace::v1::{Span, span::SpanKind},
};
use posthaste_testkit::{eventually, exposition::Scrape};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    harness::{Place, Running, deserted_port, get},
    serve::{ask, serve},
    traces::{collector, is_whole},
};

const LIMIT: Duration = Duration::from_mins(1);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
/// What the caller's headers say.
const CONTEXT: &str =
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=1\r\n";
/// A handler that tells of its trace, and one that fails.
const WORKER: &str = "[workers.post.handlers.mail]\ntopics = [\"mail\"]\ncommand = [\"./handler.sh\"]\n\
                      [workers.post.handlers.fail]\ntopics = [\"fail\"]\ncommand = [\"sh\", \"-c\", \"echo hunter2 >&2; exit 65\"]\n";
const TELLS: &str =
    "#!/bin/sh\nprintf '{\"parent\":\"%s\",\"state\":\"%s\"}' \"$TRACEPARENT\" \"$TRACESTATE\"\n";

/// The settings of an exporter to `endpoint`.
fn to(endpoint: &str) -> String {
    format!("[telemetry.traces]\nendpoint = \"{endpoint}\"\n")
}

/// A place with a migrated file, a worker, a server, and these settings, which may begin with more of the server's.
fn place(settings: &str) -> Place {
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n{WORKER}[server]\nlisten = \"127.0.0.1:0\"\n{settings}"
    ));
    let path = place.write("handler.sh", TELLS);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    place.run(&["migrate"]).succeeds();
    place
}

fn submit(address: &str, topic: &str, headers: &str) -> String {
    let body = json!({
        "topic": topic, "key": "customer-hunter2", "correlation_id": "request-7",
        "payload": { "password": "hunter2" },
    });
    let (status, accepted) = ask(address, "POST", "/api/v1/jobs", headers, &body.to_string());
    assert_eq!(status, 202, "{accepted}");
    accepted["id"].as_str().expect("an id").to_owned()
}

fn until(address: &str, id: &str, state: &str) -> Value {
    let job = || ask(address, "GET", &format!("/api/v1/jobs/{id}"), "", "").1;
    eventually(&format!("the job to be {state}"), LIMIT, || job()["status"] == state);
    job()
}

fn ends(mut running: Running) {
    running.signal("TERM");
    let (code, log) = running.ends();
    assert_eq!(code, Some(0), "{log:?}");
}

/// Reads what the collector gets until these spans of the caller's trace are among it; those of other traces are
/// kept as well.
fn spans(requests: &Receiver<Vec<u8>>, names: &[&str]) -> Vec<Span> {
    let until = Instant::now() + LIMIT;
    let mut spans: Vec<Span> = Vec::new();
    while !names.iter().all(|name| spans.iter().any(|span| is(span, name))) {
        let left = until.saturating_duration_since(Instant::now());
        let seen =
            || spans.iter().map(|span| (&span.name, hex(&span.trace_id))).collect::<Vec<_>>();
        let request = requests.recv_timeout(left);
        let request = request.unwrap_or_else(|_| panic!("{names:?} of {:?}", seen()));
        let at = request.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
        let request = ExportTraceServiceRequest::decode(&request[at + 4..]).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|of| of.scope_spans);
        spans.extend(scopes.flat_map(|scope| scope.spans));
    }
    spans
}

fn is(span: &Span, name: &str) -> bool {
    span.name == name && hex(&span.trace_id) == TRACE
}

/// The one span of that name in the caller's trace.
#[track_caller]
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| is(span, name)).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let text = |value: &Attribute| match value {
        Attribute::StringValue(text) => text.clone(),
        Attribute::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    span.attributes
        .iter()
        .map(|it| (it.key.as_str(), text(it.value.as_ref().unwrap().value.as_ref().unwrap())))
        .collect()
}

#[test]
fn r42_trace_of_a_caller_joins_request_publish_and_attempt() {
    let (endpoint, requests) = collector();
    let place = place(&to(&endpoint));
    let (running, address) = serve(&place);
    let id = submit(&address, "mail", &format!("{CONTEXT}x-request-id: req-1\r\n"));
    let job = until(&address, &id, "completed");
    assert_eq!(ask(&address, "GET", "/readyz", CONTEXT, "").0, 200);
    let names = ["POST /api/v1/jobs", "publish mail", "process mail"];
    let spans = spans(&requests, &names);
    let [request, publish, process] = names.map(|name| one(&spans, name));
    assert_eq!((hex(&request.parent_span_id).as_str(), request.kind()), (CALLER, SpanKind::Server));
    assert_eq!((&publish.parent_span_id, publish.kind()), (&request.span_id, SpanKind::Producer));
    assert_eq!((&process.parent_span_id, process.kind()), (&request.span_id, SpanKind::Consumer));
    assert!(spans.iter().all(|span| !span.name.contains("readyz")), "{spans:#?}");
    for span in [request, publish, process] {
        assert_eq!((span.trace_state.as_str(), &span.status), ("a=1", &None));
        assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    }

    let of_request = attributes(request);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/api/v1/jobs"),
        ("http.response.status_code", "202"),
        ("url.scheme", "http"),
        ("posthaste.request_id", "req-1"),
    ] {
        assert_eq!(of_request[name], value, "{name}");
    }
    let of_process = attributes(process);
    for (name, value) in [
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "mail"),
        ("messaging.message.id", &attributes(publish)["messaging.message.id"]),
        ("messaging.message.conversation_id", "request-7"),
        ("posthaste.job", &id),
        ("posthaste.attempt", "1"),
        ("posthaste.worker", "post"),
    ] {
        assert_eq!(of_process[name], value, "{name}");
    }
    // The program has found itself below the attempt.
    let parent = format!("00-{TRACE}-{}-01", hex(&process.span_id));
    assert_eq!(job["receipts"][0]["body"], json!({ "parent": parent, "state": "a=1" }), "{job}");
    assert!(!format!("{spans:?}").contains("hunter2"));
    ends(running);
}

#[test]
fn r42_failed_attempt_is_an_error_of_its_class_and_a_request_without_a_trace_begins_one() {
    let (endpoint, requests) = collector();
    let place = place(&to(&endpoint));
    let (running, address) = serve(&place);
    let untraced = submit(&address, "mail", "");
    let receipt = until(&address, &untraced, "completed")["receipts"][0]["body"].clone();
    let quiet = submit(&address, "mail", &CONTEXT.replace("-01", "-00"));
    let quiet = until(&address, &quiet, "completed")["receipts"][0]["body"].clone();
    // What its caller does not record is passed on as it is.
    assert_eq!(quiet, json!({ "parent": format!("00-{TRACE}-{CALLER}-00"), "state": "a=1" }));
    let fails = submit(&address, "fail", CONTEXT);
    until(&address, &fails, "dead");
    // The last spans are exported at the end.
    ends(running);
    let spans = spans(&requests, &["POST /api/v1/jobs", "publish fail", "process fail"]);
    let failed = one(&spans, "process fail");
    assert_eq!(failed.status.as_ref().map(|status| status.message.as_str()), Some("command"));
    assert_eq!(attributes(failed)["error.type"], "command");
    assert_eq!(spans.iter().filter(|span| hex(&span.trace_id) == TRACE).count(), 3, "{spans:#?}");
    assert!(!format!("{spans:?}").contains("hunter2"));

    let parent = receipt["parent"].as_str().unwrap();
    let of_untraced = |name: &str| {
        let is_it = |span: &&Span| span.name == name && parent.contains(&hex(&span.trace_id));
        spans.iter().find(is_it).unwrap_or_else(|| panic!("{name} of {parent} in {spans:#?}"))
    };
    let (request, process) = (of_untraced("POST /api/v1/jobs"), of_untraced("process mail"));
    assert!(request.parent_span_id.is_empty());
    assert_eq!(process.parent_span_id, request.span_id);
    assert!(parent.contains(&hex(&process.span_id)), "{parent}");
}

/// An endpoint, which answers everything with 204 and keeps the heads of what it was asked.
fn endpoint() -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, heads) = std::sync::mpsc::sync_channel(10);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (mut request, mut part) = (Vec::new(), [0; 4_096]);
            while !is_whole(&request) {
                let count = stream.read(&mut part).unwrap();
                assert!(count > 0, "{:?}", String::from_utf8_lossy(&request));
                request.extend_from_slice(&part[..count]);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (url, heads)
}

fn calls(url: &str) -> String {
    format!("[workers.post.handlers.call]\ntopics = [\"call\"]\nurl = \"{url}\"\n")
}

#[test]
fn endpoint_and_program_without_tracing_get_the_context_of_the_message() {
    let (url, heads) = endpoint();
    let place = place(&calls(&url));
    let variables = [("TRACEPARENT", "of-somebody-else".into()), ("TRACESTATE", "b=2".into())];
    let running = place.start_in(&["serve"], &variables);
    let log = running.log.until("the server listens");
    let line: Value = serde_json::from_str(log.last().unwrap()).unwrap();
    let address = line["address"].as_str().unwrap();
    let called = submit(address, "call", CONTEXT);
    let head = String::from_utf8(heads.recv_timeout(LIMIT).unwrap()).unwrap().to_lowercase();
    for line in CONTEXT.lines() {
        assert!(head.contains(&format!("{line}\r\n")), "{head}");
    }
    until(address, &called, "completed");
    for (headers, parent, state) in
        [(CONTEXT, format!("00-{TRACE}-{CALLER}-01"), "a=1"), ("", String::new(), "")]
    {
        let job = until(address, &submit(address, "mail", headers), "completed");
        let expected = json!({ "parent": parent, "state": state });
        assert_eq!(job["receipts"][0]["body"], expected, "{job}");
    }
    ends(running);
}

#[test]
fn endpoint_is_called_below_its_attempt() {
    let (url, heads) = endpoint();
    let (collector, requests) = collector();
    let place = place(&format!("{}{}sample_ratio = 0.0\n", calls(&url), to(&collector)));
    let (running, address) = serve(&place);
    until(&address, &submit(&address, "call", CONTEXT), "completed");
    let head = String::from_utf8(heads.recv_timeout(LIMIT).unwrap()).unwrap().to_lowercase();
    let spans = spans(&requests, &["process call"]);
    let parent = format!("00-{TRACE}-{}-01", hex(&one(&spans, "process call").span_id));
    assert!(head.contains(&format!("traceparent: {parent}\r\n")), "{head}");
    assert!(head.contains("tracestate: a=1\r\n"), "{head}");
    // The ratio is that of requests without a trace.
    let job = until(&address, &submit(&address, "mail", ""), "completed");
    assert_eq!(job["receipts"][0]["body"]["parent"], "", "{job}");
    ends(running);
}

#[test]
fn collector_that_is_away_costs_its_spans_and_nothing_else() {
    let endpoint = format!("http://127.0.0.1:{}", deserted_port());
    let place = place(&format!("{}queue_spans = 5\n", to(&endpoint)));
    let (running, address) = serve(&place);
    let ids: Vec<String> = (0..20).map(|_| submit(&address, "mail", CONTEXT)).collect();
    for id in &ids {
        until(&address, id, "completed");
    }
    let counted = |name: &str| {
        let page = ask(&address, "GET", "/metrics", "", "").1;
        Scrape::parse(page.as_str().unwrap()).value(&format!("posthaste_{name}_total"), &[])
    };
    // Two spans of each job at least, of which the queue and the batch that is tried have room for ten. They are given up
    // later.
    assert!(counted("dropped_spans") > 25.0, "the queue has a bound");
    eventually("a failed export", LIMIT, || counted("span_export_errors") > 0.0);
    assert!(counted("exported_spans") < 1.0);
    ends(running);
}

#[test]
fn server_alone_traces_its_requests_and_counts_its_spans_once() {
    let (endpoint, requests) = collector();
    let place = place(&format!("relay = false\nworkers = false\n{}", to(&endpoint)));
    let (running, address) = serve(&place);
    submit(&address, "mail", CONTEXT);
    spans(&requests, &["POST /api/v1/jobs"]);
    let page = || ask(&address, "GET", "/metrics", "", "").1.as_str().unwrap().to_owned();
    let exported = || Scrape::parse(&page()).value("posthaste_exported_spans_total", &[]);
    eventually("an exported span", LIMIT, || exported() > 0.0);
    assert_eq!(page().matches("# TYPE posthaste_exported_spans_total").count(), 1);
    ends(running);
}

#[test]
fn worker_that_is_fed_from_a_queue_exports_and_counts_its_spans() {
    let redis = posthaste_testkit::Redis::shared();
    let (list, url) = (format!("{}mail", redis.prefix()), redis.url());
    let (endpoint, requests) = collector();
    let queue = format!("kind = \"redis-list\"\nurl = \"{url}\"\nlist = \"{list}\"\n");
    let place = place(&format!(
        "{}[telemetry]\nlisten = \"127.0.0.1:0\"\n[workers.post.source]\n{queue}\
         [subscriptions.mail.sink]\n{queue}format = \"envelope\"\n",
        to(&endpoint)
    ));
    let header = CONTEXT.lines().next().unwrap().replace(": ", "=");
    let enqueue = |topic: &str| {
        let arguments = ["enqueue", topic, "--text", "hunter2", "--header", &header];
        let more = ["--correlation-id", "order-7", "--json"];
        let written = place.run(&[&arguments[..], &more].concat()).succeeds();
        written.objects()[0]["id"].as_str().expect("an id").to_owned()
    };
    enqueue("mail");
    let refused = enqueue("fail");
    place.run(&["relay", "--once"]).succeeds();
    let worker = place.start(&["worker"]);
    let log = worker.log.until("metrics and health are served");
    let line: Value = serde_json::from_str(log.last().unwrap()).unwrap();
    let address = line["address"].as_str().unwrap();
    let names = ["publish mail", "process mail", "publish fail", "process fail"];
    let spans = spans(&requests, &names);
    for name in names {
        assert_eq!(hex(&one(&spans, name).parent_span_id), CALLER, "{name}");
    }
    let log = worker.log.until("to the dead letters");
    let line: Value = serde_json::from_str(log.last().unwrap()).unwrap();
    assert!(line["message"].as_str().unwrap().starts_with("to the dead letters"), "{line}");
    assert_eq!(
        (&line["message_id"], &line["correlation_id"]),
        (&json!(refused), &json!("order-7"))
    );
    let exported = || {
        let (_, page) = get(address, "/metrics").expect("it listens");
        Scrape::parse(&page).value("posthaste_exported_spans_total", &[])
    };
    eventually("the exported spans", LIMIT, || exported() > 1.0);
    ends(worker);
}
