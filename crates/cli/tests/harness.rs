//! Runs the program in a directory of its own, with nothing of the tester's environment, and
//! waits for what it prints.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest wait for anything that must happen; far above what it takes.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for an answer of a server under load.
const CALL_LIMIT: Duration = Duration::from_mins(2);

/// A working directory.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A directory with a `posthaste.toml`.
    pub(crate) fn with(configuration: &str) -> Self {
        let place = Self::new();
        place.write("posthaste.toml", configuration);
        place
    }

    /// A directory with a migrated `SQLite` log and one subscription `orders` to stdout;
    /// `more` is added to the configuration.
    pub(crate) fn migrated(more: &str) -> Self {
        let place = Self::with(&format!(
            "[database]\nurl = \"sqlite:log.db\"\n\
             [subscriptions.orders.sink]\nkind = \"stdout\"\n{more}"
        ));
        place.run(&["migrate"]).succeeds();
        place
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("a file in the directory");
        path
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.args(arguments).current_dir(self.path()).env_clear().stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_in(arguments, &[])
    }

    pub(crate) fn run_in(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let output = self
            .command(arguments)
            .envs(variables.iter().copied())
            .output()
            .expect("the program runs");
        Ran::of(arguments, &output)
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("a pipe to stdin");
        stdin.write_all(input).expect("the program reads stdin");
        drop(stdin);
        Ran::of(arguments, &child.wait_with_output().expect("the program ends"))
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.start_in(arguments, &[])
    }

    pub(crate) fn start_in(&self, arguments: &[&str], variables: &[(&str, OsString)]) -> Running {
        let mut command = self.command(arguments);
        let variables = variables.iter().map(|(name, value)| (name, value));
        let mut child = command
            .envs(variables)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Lines::of(child.stderr.take().expect("a pipe from stderr"));
        Running { child, log }
    }
}

/// What a run that has ended left.
#[derive(Debug)]
pub(crate) struct Ran {
    arguments: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(arguments: &[&str], output: &Output) -> Self {
        Self {
            arguments: arguments.join(" "),
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// The run must have ended with 0.
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// The run must have ended with `code`, and said why in lines that begin with `error:`.
    pub(crate) fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.stderr.contains("error"), "{self:#?}");
        self
    }

    /// Every line of stdout as JSON.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:#?}"));
        self.stdout.lines().map(parse).collect()
    }

    pub(crate) fn arguments(&self) -> &str {
        &self.arguments
    }
}

/// A run that has not ended. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) log: Lines,
}

impl Running {
    /// What it writes to stdout, from now on.
    pub(crate) fn stdout(&mut self) -> impl Read + Send + use<> {
        self.child.stdout.take().expect("stdout is taken once")
    }

    /// Its number among the system's processes.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end: exit code and the log lines that nobody has read yet.
    pub(crate) fn ends(&mut self) -> (Option<i32>, Vec<String>) {
        let rest = self.log.rest();
        (self.child.wait().expect("the program ends").code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of a stream, read on a thread of their own.
pub(crate) struct Lines {
    lines: Receiver<String>,
}

impl Lines {
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, lines) = sync_channel(10_000);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { lines }
    }

    /// The next line.
    pub(crate) fn next(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line within the limit")
    }

    /// Reads up to a line with `text`, and answers all lines read.
    pub(crate) fn until(&self, text: &str) -> Vec<String> {
        let until = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("no {text:?} ({error}) after {seen:#?}"),
            }
            if seen.last().is_some_and(|line| line.contains(text)) {
                return seen;
            }
        }
    }

    /// All lines up to the end of the stream.
    fn rest(&self) -> Vec<String> {
        let until = Instant::now() + LIMIT;
        let left = || until.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| self.lines.recv_timeout(left()).ok()).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// A port of this machine where nobody listens.
pub(crate) fn deserted_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its number").port()
}

/// What an HTTP server answers to a GET: status and body; `None` while nobody listens.
pub(crate) fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer within the limit");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Some((status.unwrap_or_else(|| panic!("{head:?}")), body.to_owned()))
}

/// What a server answers to the request that begins with `head`, such as `GET /livez`: status and body; `None` where it
/// is not there, or ends before it has answered.
pub(crate) fn call(address: &str, head: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(CALL_LIMIT)).ok()?;
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
