//! The exit codes of the binary, in one place: `--help`, the reference and the tests read them
//! here. Nothing else in the program names a number.

use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; a drained relay ends like this too.
    Ok,
    /// Something failed at run time.
    Failed,
    /// The command line or the configuration is wrong. Nothing was started.
    Usage,
    /// The database or a sink cannot be reached, or refuses the login.
    Unreachable,
    /// The schema is missing, or older or newer than this build.
    Schema,
    /// A signal ended it before it was done.
    Interrupted,
}

impl Exit {
    /// Every way to end, for the help text and the reference.
    pub(crate) const ALL: [Self; 6] =
        [Self::Ok, Self::Failed, Self::Usage, Self::Unreachable, Self::Schema, Self::Interrupted];

    /// The number that the shell sees. 130 is 128 + SIGINT, as shells report it.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Schema => 4,
            Self::Interrupted => 130,
        }
    }

    /// The word for it in JSON errors.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::Schema => "schema",
            Self::Interrupted => "interrupted",
        }
    }

    /// One line for people.
    pub(crate) const fn about(self) -> &'static str {
        match self {
            Self::Ok => "done; also a relay that was told to stop and has drained",
            Self::Failed => "failed at run time",
            Self::Usage => "wrong command line or configuration; nothing was started",
            Self::Unreachable => "database or sink unreachable, or it refuses the login",
            Self::Schema => "schema missing, or older or newer than this build",
            Self::Interrupted => {
                "a signal ended it before it was done; for a relay, a second signal"
            }
        }
    }

    /// The table below `posthaste --help`.
    pub(crate) fn help() -> String {
        let lines = Self::ALL.map(|exit| format!("  {:>3}  {}", exit.code(), exit.about()));
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_all_listed() {
        let help = Exit::help();
        let mut codes = Exit::ALL.map(Exit::code).to_vec();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 130]);
        for exit in Exit::ALL {
            assert!(help.contains(&format!("{:>3}  {}", exit.code(), exit.about())), "{help}");
        }
    }
}
