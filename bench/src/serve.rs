//! `posthaste serve`, the release binary in a process of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use posthaste_testkit::failure::{During, Failure, Result};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

use crate::relay::LONG;

const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// A server that does not listen, or has not ended, by then is broken.
const LIMIT: Duration = Duration::from_secs(15);

/// A server that runs; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    program: PathBuf,
    directory: TempDir,
    address: SocketAddr,
}

impl Server {
    /// On a log that is there, with these settings behind those of `[server]`.
    pub(crate) async fn start(program: &Path, database: &str, settings: &str) -> Result<Self> {
        let directory = tempfile::tempdir().during("make a directory for the server")?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).during("find a free port")?;
        let address = free.local_addr().during("find a free port")?;
        drop(free);
        let configuration = format!(
            "[database]\nurl = {database:?}\nretention = {LONG:?}\n[server]\nlisten = \"{address}\"\n{settings}"
        );
        fs::write(directory.path().join("posthaste.toml"), configuration)
            .during("write the configuration")?;
        let child = spawn(program, &directory)?;
        let server = Self { child, program: program.to_owned(), directory, address };
        server.listening().await
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in order, and begins another one at the same address.
    pub(crate) async fn restart(mut self) -> Result<Self> {
        self.end().await?;
        self.child = spawn(&self.program, &self.directory)?;
        self.listening().await
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.end().await
    }

    async fn end(&mut self) -> Result<()> {
        let pid = self.pid().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().during("end the server")?;
        let deadline = Instant::now() + LIMIT;
        while self.child.try_wait().during("look at the server")?.is_none() {
            if Instant::now() > deadline {
                return Err(Failure::new("the server did not end"));
            }
            sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    async fn listening(mut self) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(self.address).await.is_err() {
            let ended = self.child.try_wait().during("look at the server")?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(log_file(&self.directory)).unwrap_or_default();
                return Err(Failure::new(format!("the server does not listen; it says:\n{log}")));
            }
            sleep(LOOK_INTERVAL).await;
        }
        Ok(self)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_file(directory: &TempDir) -> PathBuf {
    directory.path().join("log")
}

fn spawn(program: &Path, directory: &TempDir) -> Result<Child> {
    let log = fs::File::create(log_file(directory)).during("make the server's log")?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(directory.path().join("posthaste.toml"));
    // Variables of the caller would change what is measured.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTHASTE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().during("start the server")
}
