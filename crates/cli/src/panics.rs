//! What a user sees of a panic: one line that asks for a report, never a backtrace.
//!
//! The hook only tells. A panic on the main task ends the process through `main`; one in a
//! relay's pipeline is handled by the relay, which starts the pipeline again.

use std::{io::Write as _, panic::PanicHookInfo};

use tracing::Level;

/// Replaces the default hook.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
        tell(&line(message(info), place.as_deref()));
    }));
}

/// A process that logs has it in its log: in the log's format, and with the request that it belongs to.
fn tell(line: &str) {
    if tracing::enabled!(Level::ERROR) {
        tracing::error!("{line}");
    } else {
        // A closed stderr must not turn the panic into an abort.
        let _ = writeln!(anstream::stderr(), "error: {line}");
    }
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload_as_str().unwrap_or("no message")
}

fn line(message: &str, place: Option<&str>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let message = message.lines().next().unwrap_or_default();
    let place = place.unwrap_or("an unknown place");
    format!(
        "this is a bug in posthaste {version}: {message} (at {place}); please report it with this \
         line"
    )
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn panic_is_one_line_with_version_and_place() {
        let text = line("index out of bounds\nmore", Some("src/a.rs:3"));
        assert_eq!(
            text,
            format!(
                "this is a bug in posthaste {}: index out of bounds (at src/a.rs:3); please \
                 report it with this line",
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn panic_of_a_process_that_logs_is_a_line_of_its_log_with_the_request() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
        tracing::subscriber::with_default(subscriber.finish(), || {
            let _request = tracing::error_span!("request", request_id = "r1").entered();
            tell("this is a bug");
        });
        let written = log.0.lock().unwrap().clone();
        let line: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(line["fields"]["message"], "this is a bug");
        assert_eq!(line["span"]["request_id"], "r1");
    }
}
