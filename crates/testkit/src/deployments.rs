//! Redis with replication: a primary watched by sentinels, and a cluster.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::account::Account;
use crate::error::TestkitError;
use crate::install::on_path;
use crate::postgres::chain;
use crate::redis::{Redis, RedisOptions};
use crate::server::Server;
use crate::wait::eventually;

/// Sentinels find each other within seconds, nodes of a cluster within less.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// An answer of a server on this machine, whatever else it does.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const SENTINELS: usize = 3;
const NODES: u16 = 3;
const SLOTS: u16 = 16_384;

/// A primary and a replica, watched by three sentinels that fail over after half a second.
#[derive(Debug)]
pub struct RedisSentinels {
    /// The first one begins as the primary.
    pub nodes: [Redis; 2],
    sentinels: Vec<Server>,
}

/// A cluster of three nodes without replicas, each with a third of the slots.
#[derive(Debug)]
pub struct RedisCluster {
    /// The nodes.
    pub nodes: Vec<Redis>,
}

// Every method panics with the cause where the servers cannot do what it says.
#[allow(clippy::missing_panics_doc)]
impl RedisSentinels {
    /// The name of the primary.
    pub const MASTER: &'static str = "mymaster";

    /// Starts all of it, and returns when a failover is possible.
    pub fn start() -> Self {
        let primary = Redis::start();
        let replica = with(&[("replicaof", &format!("127.0.0.1 {}", primary.port()))]);
        eventually("a replica in step", READY_LIMIT, || {
            ask(replica.port(), "INFO replication").contains("master_link_status:up")
        });
        let sentinel =
            |_| sentinel(primary.port()).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let sentinels: Vec<Server> = (0..SENTINELS).map(sentinel).collect();
        let found = Self { nodes: [primary, replica], sentinels };
        for sentinel in &found.sentinels {
            eventually("sentinels that know each other", READY_LIMIT, || {
                let known = ask(sentinel.port(), "INFO sentinel");
                known.contains(&format!("slaves=1,sentinels={SENTINELS}"))
            });
        }
        found
    }

    /// The sentinels, as `host:port`.
    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(|it| format!("127.0.0.1:{}", it.port())).collect()
    }

    /// Whether a node is a primary for itself.
    pub fn is_primary(&self, node: usize) -> bool {
        ask(self.nodes[node].port(), "INFO replication").contains("role:master")
    }

    /// Has the sentinels exchange primary and replica, as an operator does.
    pub fn fail_over(&self) {
        let answer = ask(self.sentinels[0].port(), &format!("SENTINEL FAILOVER {}", Self::MASTER));
        assert!(answer.starts_with("+OK"), "SENTINEL FAILOVER: {answer}");
    }
}

#[allow(clippy::missing_panics_doc)]
impl RedisCluster {
    /// Starts the nodes, and returns when they serve all slots.
    pub fn start() -> Self {
        let settings = [("cluster-enabled", "yes"), ("cluster-node-timeout", "2000")];
        let nodes: Vec<Redis> = (0..NODES).map(|_| with(&settings)).collect();
        for (node, n) in nodes.iter().zip(0..) {
            let (from, to) = (SLOTS * n / NODES, SLOTS * (n + 1) / NODES - 1);
            told(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1));
            told(node, &format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
            told(node, &format!("CLUSTER MEET 127.0.0.1 {}", nodes[0].port()));
        }
        let cluster = Self { nodes };
        cluster.serves();
        cluster
    }

    /// Returns when every node serves, or knows who does.
    pub fn serves(&self) {
        for node in &self.nodes {
            eventually("a cluster that serves all slots", READY_LIMIT, || {
                let info = ask(node.port(), "CLUSTER INFO");
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            });
        }
    }

    /// The number of the node that holds the slot of `name`.
    pub fn node_of(&self, name: &str) -> usize {
        let slot = self.slot_of(name);
        let holds =
            |node: &Redis| !ask(node.port(), &format!("EXISTS {name}")).starts_with("-MOVED");
        self.nodes.iter().position(holds).unwrap_or_else(|| panic!("nobody holds slot {slot}"))
    }

    /// Moves the slot of `name`, with what it holds, from its node to another one.
    pub fn move_slot_of(&self, name: &str, to: usize) {
        let (slot, from) = (self.slot_of(name), self.node_of(name));
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let id = |node: &Redis| {
            let answer = ask(node.port(), "CLUSTER MYID");
            answer.lines().nth(1).expect("an id").trim().to_owned()
        };
        let (source_id, target_id) = (id(source), id(target));
        told(target, &format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}"));
        told(source, &format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}"));
        loop {
            let names = ask(source.port(), &format!("CLUSTER GETKEYSINSLOT {slot} 100"));
            // `*count`, then a length and a name each.
            let names: Vec<&str> = names.lines().skip(2).step_by(2).collect();
            if names.is_empty() {
                break;
            }
            let (port, names) = (target.port(), names.join(" "));
            told(source, &format!("MIGRATE 127.0.0.1 {port} \"\" 0 5000 KEYS {names}"));
        }
        for node in [target, source] {
            told(node, &format!("CLUSTER SETSLOT {slot} NODE {target_id}"));
        }
    }

    fn slot_of(&self, name: &str) -> u16 {
        let answer = ask(self.nodes[0].port(), &format!("CLUSTER KEYSLOT {name}"));
        let number = answer.lines().next().and_then(|line| line.strip_prefix(':'));
        number.and_then(|number| number.parse().ok()).expect("the number of a slot")
    }
}

fn with(settings: &[(&str, &str)]) -> Redis {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let settings = settings.iter().map(own).collect();
    Redis::start_with(RedisOptions { settings, ..RedisOptions::default() })
}

/// A sentinel; it keeps what it learns in its own configuration file.
fn sentinel(primary: u16) -> Result<Server, TestkitError> {
    let program = on_path("redis-server").unwrap_or_else(|| "redis-server".into());
    let server = Server::prepare("Sentinel", Account::current()?, |root| {
        let file: OsString = root.join("sentinel.conf").into();
        vec![program.into(), file, "--sentinel".into()]
    })?;
    let configure = |port| {
        let (root, name) = (&server.root, RedisSentinels::MASTER);
        let lines = [
            "bind 127.0.0.1".to_owned(),
            format!("port {port}"),
            format!("dir {}", root.display()),
            format!("sentinel monitor {name} 127.0.0.1 {primary} 2"),
            format!("sentinel down-after-milliseconds {name} 500"),
            format!("sentinel failover-timeout {name} 3000"),
        ];
        server.account.write(&root.join("sentinel.conf"), &(lines.join("\n") + "\n"))
    };
    server.launch(configure, &|_, log| log.contains("+monitor master"))?;
    Ok(server)
}

fn told(node: &Redis, command: &str) {
    let answer = ask(node.port(), command);
    assert!(answer.starts_with('+'), "{command}: {answer}");
}

/// The raw answer to a command; empty when there is no server.
fn ask(port: u16, command: &str) -> String {
    let talk = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        // An inline command; the server closes the connection once it has answered.
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    talk().unwrap_or_default()
}
