//! Traces as users switch them on: by the configuration or by the variables of OpenTelemetry.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

use crate::harness::Place;

const LIMIT: Duration = Duration::from_secs(30);
const PARENT: &str = "traceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// Its trace id as it stands in an encoded span.
const TRACE_ID: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

/// Takes requests one after the other; answers each with 200 once it has come whole.
pub(crate) fn collector() -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = sync_channel(1_000);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (mut request, mut part) = (Vec::new(), [0; 4_096]);
            while !is_whole(&request) {
                let count = stream.read(&mut part).unwrap();
                request.extend_from_slice(&part[..count]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (endpoint, requests)
}

pub(crate) fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|part| part == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    request.len() == end + 4 + length.unwrap().parse::<usize>().unwrap()
}

fn holds(request: &[u8], part: &[u8]) -> bool {
    request.windows(part.len()).any(|window| window == part)
}

#[test]
fn variables_of_opentelemetry_send_traces_with_the_headers_of_a_file() {
    let place = Place::migrated("[telemetry.traces]\nheaders_file = \"headers\"");
    place.write("headers", "Authorization: Bearer hunter2\n\n");
    let (endpoint, requests) = collector();
    let enqueue = ["enqueue", "orders", "--text", "x", "--header"];
    place.run(&[&enqueue[..], &[PARENT]].concat()).succeeds();
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_SERVICE_NAME", "shop-relay")];
    let ran = place.run_in(&["relay", "--once"], &variables).succeeds();
    assert!(ran.stdout.contains("traceparent"), "{ran:?}");
    assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    let request = requests.recv_timeout(LIMIT).unwrap();
    assert!(request.starts_with(b"POST /v1/traces HTTP/1.1\r\n"));
    assert!(holds(&request, b"Bearer hunter2") && holds(&request, b"shop-relay"));
    assert!(holds(&request, &TRACE_ID.to_be_bytes()), "the writer's trace");

    place.run(&[&enqueue[..], &[PARENT]].concat()).succeeds();
    let off = [variables[0], ("OTEL_SDK_DISABLED", "true")];
    place.run_in(&["relay", "--once"], &off).succeeds();
    assert!(requests.try_recv().is_err(), "switched off");
}

#[test]
fn faulty_settings_of_traces_are_named_and_secrets_are_not() {
    let place = Place::with(
        "[database]\nurl = \"sqlite:log.db\"\n\
         [telemetry.traces]\nendpoint = \"collector:4318\"\nheaders = \"a=hunter2\"\n\
         queue_spans = 0\n",
    );
    let refused = place.run(&["config", "check"]).fails(2);
    for key in ["telemetry.traces.endpoint", "telemetry.traces.queue_spans"] {
        assert!(refused.stderr.contains(key), "{refused:?}");
    }
    let ratio = Place::with(
        "[database]\nurl = \"sqlite:log.db\"\n[telemetry.traces]\nsample_ratio = 1.5\n",
    );
    let ratio = ratio.run(&["config", "check"]).fails(2).stderr;
    assert!(ratio.contains("telemetry.traces.sample_ratio = 1.5"), "{ratio}");
    assert!(ratio.contains("must lie between 0 and 1"), "{ratio}");
    let shown = place.run(&["config", "show"]);
    assert!(!format!("{refused:?}{shown:?}").contains("hunter2"), "{shown:?}");
    let grpc = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    let refused = Place::migrated("").run_in(&["config", "check"], &grpc).fails(2);
    assert!(refused.stderr.contains("must be http/protobuf"), "{refused:?}");
}
