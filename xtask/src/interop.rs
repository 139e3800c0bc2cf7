//! The clients of other languages that `tests/interop` enqueues with, installed below that
//! directory.
//!
//! A language whose folder does not exist is skipped, and one that is installed already is not
//! installed again.

use std::path::{Path, PathBuf};

use crate::process::{Failure, command, root, run};

/// How one language's clients are installed; the argument is the language's folder.
type Install = fn(&Path) -> Result<(), Failure>;

/// Each language by the file in its folder that names its clients.
const LANGUAGES: [(&str, &str, Install); 3] = [
    ("python", "requirements.txt", install_python),
    ("node", "package-lock.json", install_node),
    ("go", "go.mod", install_go),
];

/// Installs the clients of every language in `tests/interop`.
pub(crate) fn install_clients() -> Result<(), Failure> {
    for (language, manifest, install) in LANGUAGES {
        let folder = folder(language);
        if folder.join(manifest).is_file() {
            eprintln!("setup: clients for {language}");
            install(&folder)?;
        }
    }
    Ok(())
}

/// The folder of a language; its Python environment is `.venv` there, Node's modules are
/// `node_modules`.
fn folder(language: &str) -> PathBuf {
    root().join("tests/interop").join(language)
}

fn install_python(folder: &Path) -> Result<(), Failure> {
    let python = folder.join(".venv/bin/python");
    if !python.is_file() {
        run(command(&["python3", "-m", "venv", ".venv"]).current_dir(folder))?;
    }
    let python = python.to_string_lossy();
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
        "requirements.txt",
    ];
    run(command(&[&python]).args(pip).current_dir(folder))
}

fn install_node(folder: &Path) -> Result<(), Failure> {
    // npm writes this copy of the lock file last, so it tells of a complete installation.
    let installed = folder.join("node_modules/.package-lock.json");
    if installed.is_file() && is_newer(&installed, &folder.join("package-lock.json")) {
        return Ok(());
    }
    run(command(&["npm", "ci", "--silent", "--no-audit", "--no-fund"]).current_dir(folder))
}

fn install_go(folder: &Path) -> Result<(), Failure> {
    run(command(&["go", "mod", "download"]).current_dir(folder))
}

fn is_newer(file: &Path, than: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    changed(file) >= changed(than)
}
