//! What a user sees of a panic: one line that asks for a report, never a backtrace.
//!
//! The hook only prints. A panic on the main task ends the process through `main`; one in a
//! relay's pipeline is handled by the relay, which starts the pipeline again.

use std::{io::Write as _, panic::PanicHookInfo};

/// Replaces the default hook.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
        // A closed stderr must not turn the panic into an abort.
        let _ = writeln!(anstream::stderr(), "{}", line(message(info), place.as_deref()));
    }));
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload_as_str().unwrap_or("no message")
}

fn line(message: &str, place: Option<&str>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let message = message.lines().next().unwrap_or_default();
    let place = place.unwrap_or("an unknown place");
    format!(
        "error: this is a bug in posthaste {version}: {message} (at {place}); please report it \
         with this line"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_one_line_with_version_and_place() {
        let text = line("index out of bounds\nmore", Some("src/a.rs:3"));
        assert_eq!(
            text,
            format!(
                "error: this is a bug in posthaste {}: index out of bounds (at src/a.rs:3); \
                 please report it with this line",
                env!("CARGO_PKG_VERSION")
            )
        );
    }
}
