//! The system account a server runs as, and files that it may read.
//!
//! `PostgreSQL` refuses to run as root. Where the tests run as root (containers do), its server and
//! its guard run as `postgres` or, without that account, as `nobody`; everywhere else as whoever
//! runs the tests.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::error::TestkitError;

const ROOT: u32 = 0;

/// A system account by its numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    gid: u32,
    /// Whether this process is root and has to become the account.
    switches: bool,
}

impl Account {
    /// Whoever runs this process.
    pub(crate) fn current() -> Result<Self, TestkitError> {
        let own = fs::metadata("/proc/self").map_err(TestkitError::io("read /proc/self"))?;
        Ok(Self { uid: own.uid(), gid: own.gid(), switches: false })
    }

    /// The account that may run `PostgreSQL`.
    pub(crate) fn for_postgres() -> Result<Self, TestkitError> {
        let current = Self::current()?;
        if current.uid != ROOT {
            return Ok(current);
        }
        let passwd = fs::read_to_string("/etc/passwd")
            .map_err(TestkitError::io("read the accounts in /etc/passwd"))?;
        find(&passwd, "postgres").or_else(|| find(&passwd, "nobody")).ok_or_else(|| {
            TestkitError::Missing(
                "PostgreSQL does not run as root, and there is neither an account `postgres` \
                 nor `nobody`: add one, or run the tests as another user"
                    .into(),
            )
        })
    }

    /// Whether this process is root.
    pub(crate) fn is_root(self) -> bool {
        self.uid == ROOT
    }

    /// Makes `command` run as this account.
    pub(crate) fn apply(self, command: &mut Command) -> &mut Command {
        if self.switches { command.uid(self.uid).gid(self.gid) } else { command }
    }

    /// Gives `path` to this account.
    pub(crate) fn own(self, path: &Path) -> Result<(), TestkitError> {
        if !self.switches {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid)).map_err(TestkitError::io(format!(
            "give {} to user {}",
            path.display(),
            self.uid
        )))
    }

    /// Writes a file that only this account may read: servers refuse keys that others can read.
    pub(crate) fn write(self, path: &Path, content: &str) -> Result<(), TestkitError> {
        fs::write(path, content)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
            .map_err(TestkitError::io(format!("write {}", path.display())))?;
        self.own(path)
    }

    /// Whether this account may enter `directory` and all directories above it.
    pub(crate) fn can_enter(self, directory: &Path) -> bool {
        !self.switches
            || directory.ancestors().filter_map(|part| fs::metadata(part).ok()).all(|part| {
                let bit = if part.uid() == self.uid { 0o100 } else { 0o001 };
                part.mode() & bit != 0
            })
    }
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, ..] = fields[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (found == name).then_some(Account { uid, gid, switches: true })
    })
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        let passwd = "postgres2:x:7:7::/:/bin/sh\npostgres:x:101:104::/:/bin/bash\n";
        let found = find(passwd, "postgres").map(|account| (account.uid, account.gid));
        assert_eq!(found, Some((101, 104)));
        assert!(find(passwd, "nobody").is_none());
    }
}
