//! Brings the clients' dependencies to `target/interop/`, so that the tests run on a machine that
//! has only the languages. Parallel test processes take turns by a lock file; what is there and
//! still as pinned is not fetched again.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use super::programs;
use crate::clients::libraries;

/// The interpreter of a virtual environment with psycopg.
pub(crate) fn python() -> PathBuf {
    let requirements = programs().join("python/requirements.txt");
    let place = prepared("python", &requirements, |place| {
        let environment = place.join("venv");
        run(
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment),
            "Python 3.10 or later with its venv module (Debian: python3-venv)",
        );
        let install = ["-m", "pip", "install", "--quiet", "--requirement"];
        let mut pip = Command::new(environment.join("bin/python"));
        run(pip.args(install).arg(&requirements), "pip in the virtual environment");
    });
    place.join("venv/bin/python")
}

/// The program of `tests/interop`, beside the driver.
pub(super) fn node() -> PathBuf {
    let program = programs().join("node/enqueue.js");
    node_program("enqueue.js", &fs::read_to_string(program).unwrap())
}

/// A program beside its `node_modules`, which Node looks for next to the file: `pg`, and
/// `posthaste` from `clients/node`.
pub(crate) fn node_program(name: &str, text: &str) -> PathBuf {
    let source = programs().join("node");
    let place = prepared("node", &source.join("package-lock.json"), |place| {
        for file in ["package.json", "package-lock.json", ".npmrc"] {
            fs::copy(source.join(file), place.join(file)).unwrap();
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(place);
        run(&mut npm, "Node.js 18 or later with npm");
    });
    let _lock = lock(&place);
    link(&libraries().join("node"), &place.join("node_modules/posthaste"));
    let program = place.join(name);
    write(&program, text);
    program
}

/// The built program of a directory of `module`. Go itself knows what is up to date.
pub(crate) fn go(module: &Path, name: &str) -> PathBuf {
    let place = directory("go");
    let _lock = lock(&place);
    go_build(module, name, &place, &[])
}

/// The same for a `text` that stands in no file of the module's.
pub(crate) fn go_program(module: &Path, name: &str, text: &str) -> PathBuf {
    let place = directory("go");
    let _lock = lock(&place);
    let (source, overlay) = (place.join(format!("{name}.go")), place.join("overlay.json"));
    write(&source, text);
    let file = module.join(name).join("main.go");
    write(
        &overlay,
        &serde_json::json!({ "Replace": { file.to_str().unwrap(): source } }).to_string(),
    );
    go_build(module, name, &place, &["-overlay".as_ref(), overlay.as_os_str()])
}

fn go_build(module: &Path, name: &str, place: &Path, options: &[&OsStr]) -> PathBuf {
    let programs = place.join(module.file_name().unwrap());
    fs::create_dir_all(&programs).unwrap();
    let program = programs.join(name);
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-o"]).arg(&program).args(options);
    run(build.arg(format!("./{name}")).current_dir(module), "Go 1.25 or later");
    program
}

/// Only looks whether it is there: it comes with PostgreSQL's packages.
pub(super) fn psql() {
    run(Command::new("psql").arg("--version"), "psql (Debian: postgresql-client)");
}

/// Runs `install` in the directory `name`, unless it was run there for these very `pins`.
fn prepared(name: &str, pins: &Path, install: impl FnOnce(&Path)) -> PathBuf {
    let place = directory(name);
    let _lock = lock(&place);
    let (stamp, wanted) = (place.join("installed"), fs::read(pins).unwrap());
    if !fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        install(&place);
        // Last: a broken installation has no stamp.
        fs::write(stamp, wanted).unwrap();
    }
    place
}

fn directory(name: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("interop").join(name);
    fs::create_dir_all(&place).unwrap();
    place
}

/// Points `link` to `target`; left alone where it does, for a program may be looking through it.
fn link(target: &Path, link: &Path) {
    if fs::read_link(link).is_ok_and(|present| present == target) {
        return;
    }
    let _ = fs::remove_file(link);
    symlink(target, link).unwrap();
}

/// In one step, for the program may be running in another test process.
fn write(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, path).unwrap();
}

/// Held until the file is dropped.
fn lock(place: &Path) -> File {
    let file = File::create(place.join("lock")).unwrap();
    file.lock().unwrap();
    file
}

pub(crate) fn run(command: &mut Command, needs: &str) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} did not start ({error}): install {needs}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed; it needs {needs}:\n{out}{err}");
}
