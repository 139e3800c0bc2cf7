//! Log lines on stderr: compact for people, JSON for machines. Results never go here.

use std::io::{self, IsTerminal as _};

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    config::{LogFormat, LogSettings},
    exit::Exit,
    failure::{Failure, Result},
};

/// Starts logging for the rest of the process.
pub(crate) fn start(settings: &LogSettings) -> Result {
    let filter = EnvFilter::try_new(&settings.level)
        .map_err(|error| Failure::caused(Exit::Usage, "log.level is not valid", error))?;
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    let json = match settings.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    if json {
        builder.json().flatten_event(true).init();
    } else {
        let colours = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
        builder.compact().with_target(false).with_ansi(colours).init();
    }
    Ok(())
}
