//! Brings the clients' dependencies to `target/interop/`, so that the tests run on a machine that
//! has only the languages. Parallel test processes take turns by a lock file; what is there and
//! still as pinned is not fetched again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::programs;

/// The interpreter of a virtual environment with psycopg.
pub(super) fn python() -> PathBuf {
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

/// The program beside its `node_modules`, which Node looks for next to the file.
pub(super) fn node() -> PathBuf {
    let source = programs().join("node");
    let place = prepared("node", &source.join("package-lock.json"), |place| {
        for file in ["package.json", "package-lock.json", ".npmrc"] {
            fs::copy(source.join(file), place.join(file)).unwrap();
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(place);
        run(&mut npm, "Node.js 18 or later with npm");
    });
    let program = place.join("enqueue.js");
    fs::copy(source.join("enqueue.js"), &program).unwrap();
    program
}

/// The built program of a directory below `go/`. Go itself knows what is up to date.
pub(super) fn go(name: &str) -> PathBuf {
    let place = directory("go");
    let _lock = lock(&place);
    let program = place.join(name);
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(format!("./{name}"));
    run(build.current_dir(programs().join("go")), "Go 1.25 or later");
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

/// Held until the file is dropped.
fn lock(place: &Path) -> File {
    let file = File::create(place.join("lock")).unwrap();
    file.lock().unwrap();
    file
}

fn run(command: &mut Command, needs: &str) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} did not start ({error}): install {needs}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed; it needs {needs}:\n{out}{err}");
}
