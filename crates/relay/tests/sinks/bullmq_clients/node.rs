//! `tests/interop/bullmq/driver.js` in a process of its own, and the packages that it needs, which
//! are brought to `target/interop/bullmq`.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use posthaste_testkit::Redis;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

/// Longest wait for what must come, on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);
/// Lines that the process may be ahead.
const LINES_MAX: usize = 10_000;

/// A process with BullMQ. It is killed when this is dropped.
pub(super) struct Node {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<Value>,
    /// Events that nobody has waited for yet, in order.
    events: VecDeque<Value>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    /// Starts the process with one of the packages that `package.json` names.
    pub(super) fn start(package: &str, redis: &Redis) -> Self {
        let mut node = Command::new("node");
        node.arg(installed().join("driver.js")).env("BULLMQ", package);
        node.env("REDIS_URL", redis.url()).env("PREFIX", "bull");
        let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel(LINES_MAX);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str(&line) else { panic!("{line}") };
                if sender.blocking_send(value).is_err() {
                    break;
                }
            }
        });
        Self { child, input, lines, events: VecDeque::new() }
    }

    async fn next(&mut self, what: &str) -> Value {
        let line = timeout(LIMIT, self.lines.recv()).await;
        let line =
            line.unwrap_or_else(|_| panic!("no {what} in time; there are {:?}", self.events));
        let line = line.unwrap_or_else(|| panic!("the process ended instead of {what}"));
        assert_ne!(line["event"], "error", "{line}");
        line
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.input, "{command}").unwrap();
        loop {
            let mut line = self.next(&command.to_string()).await;
            if let Some(answer) = line.get_mut("answer") {
                return answer.take();
            }
            assert!(line.get("event").is_some(), "{command}: {line}");
            self.events.push_back(line);
        }
    }

    /// Runs a method of a queue.
    pub(super) async fn call(&mut self, queue: &str, method: &str, args: Value) -> Value {
        let command = json!({ "do": "call", "queue": queue, "method": method, "args": args });
        self.ask(&command).await
    }

    /// Runs a method of a job.
    pub(super) async fn of_job(&mut self, queue: &str, id: &str, method: &str) -> Value {
        self.ask(&json!({ "do": "ofJob", "queue": queue, "id": id, "method": method })).await
    }

    /// Waits for an event that has these members, and takes it.
    pub(super) async fn event(&mut self, expected: &Value) -> Value {
        let is_it = |event: &Value| {
            expected.as_object().unwrap().iter().all(|(name, value)| event.get(name) == Some(value))
        };
        if let Some(at) = self.events.iter().position(is_it) {
            return self.events.remove(at).unwrap();
        }
        loop {
            let line = self.next(&expected.to_string()).await;
            if is_it(&line) {
                return line;
            }
            self.events.push_back(line);
        }
    }

    /// Events of this kind that nobody has taken so far, in order.
    pub(super) fn seen(&self, event: &str) -> Vec<&Value> {
        self.events.iter().filter(|it| it["event"] == event).collect()
    }
}

/// The directory of the program and its packages. Parallel test processes take turns; what is there
/// as pinned is not fetched again.
fn installed() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/bullmq");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("interop/bullmq");
    fs::create_dir_all(&place).unwrap();
    let lock = File::create(place.join("lock")).unwrap();
    lock.lock().unwrap();
    let wanted = fs::read(source.join("package-lock.json")).unwrap();
    let stamp = place.join("installed");
    if !fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        for file in ["package.json", "package-lock.json", ".npmrc"] {
            fs::copy(source.join(file), place.join(file)).unwrap();
        }
        let mut npm = Command::new("npm");
        // Not `ci`, which insists on packages for other systems that the lock file has no entry of.
        npm.args(["install", "--no-save", "--omit=optional", "--no-audit", "--no-fund"]);
        npm.arg("--ignore-scripts").current_dir(&place);
        let output = npm.output().expect("Node.js 18 or later with npm is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Last: a broken installation has no stamp.
        fs::write(&stamp, wanted).unwrap();
    }
    // In one step, for another test process may be reading it.
    let draft = place.join("driver.draft");
    fs::copy(source.join("driver.js"), &draft).unwrap();
    fs::rename(draft, place.join("driver.js")).unwrap();
    place
}
