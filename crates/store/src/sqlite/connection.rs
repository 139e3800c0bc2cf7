//! Opens a database file: refuses paths and versions on which the guarantees would not hold, and
//! sets the pragmas that they rest on.

use std::{
    fmt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use posthaste_core::SchemaName;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{mounts::network_file_system, session::Session};
use crate::{Result, StoreError, StoreErrorKind};

/// The first version without the WAL-reset bug, which could corrupt the database when two
/// connections wrote or checkpointed at the same instant (<https://sqlite.org/wal.html#walresetbug>).
const OLDEST_VERSION: i32 = 3_051_003;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Ticks, settles, sweeps: everything that takes the write lock.
    Writer,
    /// Looks and pages.
    Reader,
    /// Status and other questions of people, which may take long and must not delay pages.
    Observer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Observer => "observer",
        })
    }
}

/// A checked path and how to open it.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    path: PathBuf,
    schema: SchemaName,
    create: bool,
    timeout: Duration,
}

impl Opening {
    /// Checks everything that can be known without opening the file.
    pub(super) fn new(
        path: &Path,
        schema: &SchemaName,
        create: bool,
        timeout: Duration,
    ) -> Result<Self> {
        check_version(rusqlite::version_number())?;
        if schema.as_str() == "sqlite" || schema.as_str().starts_with("sqlite_") {
            return Err(invalid(format!(
                "the schema name \"{schema}\" starts with sqlite, which SQLite reserves for \
                 itself; use another name, for example \"posthaste\""
            )));
        }
        let path = check_path(path, create)?;
        Ok(Self { path, schema: schema.clone(), create, timeout })
    }

    /// The absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file; called on the thread that keeps the connection.
    pub(super) fn open(&self, role: Role) -> Result<Session> {
        let doing = format!("open {} for the {role}", self.path.display());
        self.connect(role).map_err(|error| error.while_doing(&doing))
    }

    fn connect(&self, role: Role) -> Result<Session> {
        // One thread uses the connection, so SQLite's own mutex is not needed.
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, self.create);
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.timeout)?;
        // SQLite opens a file that it may not write to read-only, without a word.
        if connection.is_readonly("main")? {
            return Err(StoreError::new(
                StoreErrorKind::Privilege,
                "the file is read-only; ticks need to write to it and to its directory",
            ));
        }
        use_wal(&connection, Instant::now() + self.timeout)?;
        set_pragmas(&connection, role)?;
        Ok(Session::new(connection, self.schema.clone()))
    }
}

fn set_pragmas(connection: &Connection, role: Role) -> Result<()> {
    connection.pragma_update(None, "foreign_keys", true)?;
    // ATOMIC: with `full` a commit syncs the write-ahead log before anybody sees it. The log is
    // one file in commit order, so the sync of a tick's commit makes every earlier commit durable
    // too, whatever `synchronous` its own connection has. (With `synchronous = off` SQLite itself
    // promises nothing after a power failure; applications must not use it.)
    connection.pragma_update(None, "synchronous", "full")?;
    // On macOS only this passes the drive's cache; elsewhere it changes nothing.
    connection.pragma_update(None, "fullfsync", true)?;
    if role != Role::Writer {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(())
}

/// Switches to the write-ahead log, in which readers and the writer do not wait for each other.
/// Where two processes switch at once SQLite answers busy without calling the busy handler, so
/// the wait is here.
fn use_wal(connection: &Connection, deadline: Instant) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(5);
    loop {
        let mode = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(invalid(format!(
                    "the journal mode stays \"{mode}\" and must be \"wal\"; use a file on a local \
                     disk that the relay may write to"
                )));
            }
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn check_version(version: i32) -> Result<()> {
    if version >= OLDEST_VERSION {
        return Ok(());
    }
    let text = |v: i32| format!("{}.{}.{}", v / 1_000_000, v / 1000 % 1000, v % 1000);
    Err(invalid(format!(
        "this build links SQLite {}, which can corrupt a database in WAL mode; build with {} or later",
        text(version),
        text(OLDEST_VERSION)
    )))
}

fn check_path(path: &Path, create: bool) -> Result<PathBuf> {
    let shown = path.display();
    let text = path.to_string_lossy();
    if text.is_empty() || text == ":memory:" || text.starts_with("file:") {
        return Err(invalid(format!(
            "the SQLite path \"{shown}\" is not a plain file: a log in memory would not survive \
             the process; name a file, for example \"posthaste.db\""
        )));
    }
    if path.is_dir() {
        return Err(invalid(format!("the SQLite path \"{shown}\" is a directory; name a file")));
    }
    if !create && !path.exists() {
        return Err(StoreError::new(
            StoreErrorKind::MissingSchema,
            format!(
                "the SQLite file \"{shown}\" does not exist; correct the path, or let `posthaste \
                 migrate` create the file"
            ),
        ));
    }
    let resolved = resolve(path).map_err(|cause| {
        let doing = format!("the directory of the SQLite file \"{shown}\" cannot be opened");
        StoreError::caused(StoreErrorKind::Invalid, doing, cause)
    })?;
    match network_file_system(&resolved) {
        None => Ok(resolved),
        Some(kind) => Err(invalid(format!(
            "the SQLite file \"{shown}\" is on a network file system ({kind}), where SQLite can \
             lose data; move it to a local disk, or use PostgreSQL"
        ))),
    }
}

/// The absolute path without links; the file itself may still be missing.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    if path.exists() {
        return path.canonicalize();
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new(".")).canonicalize()?;
    Ok(directory.join(path.file_name().unwrap_or_default()))
}

fn invalid(doing: String) -> StoreError {
    StoreError::new(StoreErrorKind::Invalid, doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn refusal(path: &Path, create: bool) -> StoreError {
        Opening::new(path, &SchemaName::default(), create, SECOND)
            .and_then(|opening| opening.open(Role::Writer))
            .unwrap_err()
    }

    fn pragma(session: &Session, name: &str) -> i64 {
        session.connection().pragma_query_value(None, name, |row| row.get(0)).unwrap()
    }

    #[test]
    fn pragmas_that_durability_rests_on_are_set() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let opening = Opening::new(&path, &SchemaName::default(), true, SECOND).unwrap();
        let session = opening.open(Role::Writer).unwrap();
        assert_eq!(pragma(&session, "synchronous"), 2);
        assert_eq!(pragma(&session, "foreign_keys"), 1);
        assert_eq!(pragma(&session, "fullfsync"), 1);
        assert_eq!(pragma(&session, "busy_timeout"), 1000);
        let mode: String = session
            .connection()
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .unwrap();
        assert_eq!(mode, "wal");
        let reader = opening.open(Role::Reader).unwrap();
        assert!(reader.connection().execute_batch("create table a (b)").is_err());
    }

    #[test]
    fn paths_without_durability_are_refused_and_named() {
        for path in ["", ":memory:", "file:a.db?mode=memory", "/"] {
            let error = refusal(Path::new(path), true);
            assert_eq!(error.kind(), StoreErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(&format!("\"{path}\"")), "{error}");
        }
    }

    #[test]
    fn missing_file_is_created_only_on_demand() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing.db");
        let error = refusal(&path, false);
        assert_eq!(error.kind(), StoreErrorKind::MissingSchema);
        assert!(error.to_string().contains("missing.db"), "{error}");
        assert!(!path.exists());
        let error = refusal(&directory.path().join("missing/a.db"), true);
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
    }

    #[test]
    fn file_of_another_kind_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        std::fs::write(&path, "not a database, only some text. ".repeat(100)).unwrap();
        let error = refusal(&path, false);
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
        assert!(error.to_string().contains("notes.txt"), "{error}");
    }

    #[test]
    fn version_with_the_wal_reset_bug_is_refused() {
        assert!(check_version(3_051_003).is_ok());
        let error = check_version(3_051_002).unwrap_err().to_string();
        assert!(error.contains("3.51.2") && error.contains("3.51.3"), "{error}");
    }

    #[test]
    fn schema_names_that_sqlite_reserves_are_refused() {
        for (name, allowed) in [("sqlite", false), ("sqlite_a", false), ("sqlitea", true)] {
            let schema = name.parse().unwrap();
            let opening = Opening::new(Path::new("a.db"), &schema, true, SECOND);
            assert_eq!(opening.is_ok(), allowed, "{name}");
        }
    }
}
