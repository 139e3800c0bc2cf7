//! What operators do to a `PostgreSQL` server that turns its time back: a dump that is loaded
//! elsewhere, and files that are put back.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster;
use crate::database::Database;
use crate::error::{TestkitError, run};
use crate::postgres::{Postgres, chain};

/// A dump of one database; it goes away with the server that it was taken from.
#[derive(Debug)]
pub struct Dump(PathBuf);

// Every method panics with the cause where the server cannot do what it says.
#[allow(clippy::missing_panics_doc)]
impl Postgres {
    /// Dumps a database, as `pg_dump` does it beside writers.
    pub fn dump(&self, database: &Database) -> Dump {
        let file = self.server.root.join(format!("{}.dump", database.name()));
        let dump = || {
            let mut command = self.tool("pg_dump")?;
            run(command.args(["-Fc", "-f"]).arg(&file).arg(database.name())).map(drop)
        };
        dump().unwrap_or_else(|error| panic!("{}", chain(&error)));
        Dump(file)
    }

    /// Loads a dump, of this server or of another one, into an empty database.
    pub fn load(&self, dump: &Dump, database: &Database) {
        let load = || {
            let mut command = self.tool("pg_restore")?;
            run(command.args(["--exit-on-error", "-d", database.name()]).arg(&dump.0)).map(drop)
        };
        load().unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    /// Keeps a copy of all files as they are now; stops the server for it, and starts it again.
    pub fn save_files(&self) {
        self.stop();
        self.copy(&self.data_dir(), &self.saved());
        self.restart();
    }

    /// Puts the files back that [`Postgres::save_files`] has kept, and starts again with them.
    pub fn restore_files(&self) {
        self.stop();
        self.copy(&self.saved(), &self.data_dir());
        self.restart();
    }

    fn saved(&self) -> PathBuf {
        self.server.root.join("saved")
    }

    fn copy(&self, from: &Path, to: &Path) {
        let account = self.server.account;
        let copy = || {
            run(cluster::command(account, "rm").arg("-rf").arg(to))?;
            run(cluster::command(account, "cp").args(["-a", "--reflink=auto"]).arg(from).arg(to))
        };
        copy().map_or_else(|error| panic!("{}", chain(&error)), drop);
    }

    /// A client program of the server's version, which connects through the socket.
    fn tool(&self, name: &str) -> Result<Command, TestkitError> {
        let program = self.bin.join(name);
        if !program.is_file() {
            return Err(TestkitError::Missing(format!(
                "{} does not hold {name} (the npm packages have none): use PgVersion::Debian",
                self.bin.display()
            )));
        }
        let mut command = cluster::command(self.server.account, program);
        command.args(["-U", "postgres", "-h"]).arg(&self.server.root);
        command.arg("-p").arg(self.port().to_string());
        Ok(command)
    }
}
