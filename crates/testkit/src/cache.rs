//! What is prepared once and used by every test process: fetched programs and database templates.
//!
//! Entries appear whole, by a rename, so parallel processes never see half of one. A lock only
//! saves the work of preparing the same entry twice.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::account::Account;
use crate::error::TestkitError;

/// A cached directory named `name`, made with `fill` when it is not there yet.
///
/// `fill` gets an empty directory beside the final place, which belongs to `account`.
pub(crate) fn entry(
    account: Account,
    name: &str,
    fill: impl FnOnce(&Path) -> Result<(), TestkitError>,
) -> Result<PathBuf, TestkitError> {
    let cache = directory(account)?;
    let place = cache.join(name);
    let _lock = lock(&cache.join(format!("{name}.lock")))?;
    if place.exists() {
        return Ok(place);
    }
    let draft = cache.join(format!(".{name}-{}", Uuid::new_v4().simple()));
    let outcome = create(account, &draft).and_then(|()| fill(&draft)).and_then(|()| {
        fs::rename(&draft, &place).map_err(TestkitError::io(format!("name {}", place.display())))
    });
    if outcome.is_err() {
        // The reason above is the one to report; a left-over draft only costs disk space.
        let _ = fs::remove_dir_all(&draft);
    }
    outcome.map(|()| place)
}

/// Holds a lock across processes until the file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File, TestkitError> {
    let file = File::create(path).map_err(TestkitError::io(format!("open {}", path.display())))?;
    file.lock().map_err(TestkitError::io(format!("lock {}", path.display())))?;
    Ok(file)
}

/// The build's target directory or, where `account` cannot enter that, one below the temporary
/// directory.
pub(crate) fn directory(account: Account) -> Result<PathBuf, TestkitError> {
    let in_target = target().join("testkit");
    make_enterable(&in_target)?;
    if account.can_enter(&in_target) {
        return Ok(in_target);
    }
    let own = Account::current()?.uid;
    let place = temporary(account).join(format!("posthaste-testkit-{own}"));
    make_enterable(&place)?;
    match fs::metadata(&place) {
        Ok(found) if found.uid() == own => Ok(place),
        _ => Err(TestkitError::Missing(format!(
            "{} belongs to somebody else: remove it, or set CARGO_TARGET_DIR to a directory that \
             all users may enter",
            place.display()
        ))),
    }
}

/// The directory for servers' data: the usual temporary one where `account` can enter it, else
/// `/tmp`.
pub(crate) fn temporary(account: Account) -> PathBuf {
    let usual = env::temp_dir();
    if account.can_enter(&usual) { usual } else { PathBuf::from("/tmp") }
}

fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let workspace = workspace.canonicalize().unwrap_or(workspace);
    match env::var_os("CARGO_TARGET_DIR") {
        Some(named) => workspace.join(named),
        None => workspace.join("target"),
    }
}

fn make_enterable(path: &Path) -> Result<(), TestkitError> {
    fs::create_dir_all(path).map_err(TestkitError::io(format!("make {}", path.display())))?;
    // Fails only where the directory is somebody else's, which the callers look at themselves.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    Ok(())
}

fn create(account: Account, path: &Path) -> Result<(), TestkitError> {
    make_enterable(path)?;
    account.own(path)
}
