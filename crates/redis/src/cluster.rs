//! Redis Cluster: which node a name belongs to.
//!
//! A script may touch names of one hash slot only, so one node serves a whole sink or source: the one that
//! holds the slot of the hash tag that all its names begin with. Nothing here follows a redirection:
//! after `MOVED` or `ASK` its user connects anew and asks again where the slot is. The rules are
//! those of the cluster specification
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

use redis::{Cmd, Value};

use crate::RedisConnection;
use crate::{ConnectionError, ConnectionErrorKind};

/// Slots of every cluster.
const SLOTS: u16 = 16_384;
const DOING: &str = "finding the cluster's node for the sink's names";

/// The part of a name that decides on its slot, if not all of it does: what stands between the first
/// `{` and the next `}`.
pub fn hash_tag(name: &str) -> Option<&str> {
    let (_, rest) = name.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

fn slot_of(name: &str) -> u16 {
    crc16(hash_tag(name).unwrap_or(name).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM: polynomial 0x1021, from 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

impl RedisConnection {
    /// Whether the server is a node of a cluster. One that keeps `INFO` to itself is taken for none.
    pub(super) async fn is_node(&self) -> bool {
        let info = self.query(redis::cmd("INFO").arg("cluster")).await;
        let text = info.ok().and_then(|info| redis::from_redis_value::<String>(info).ok());
        text.is_some_and(|text| text.lines().any(|line| line.trim() == "cluster_enabled:1"))
    }

    /// The address of the node that holds the slot of `name`; no host where it is that of this
    /// connection.
    pub(super) async fn node_of(
        &self,
        name: &str,
    ) -> Result<(Option<String>, u16), ConnectionError> {
        let slot = slot_of(name);
        let answer = self.query(Cmd::new().arg("CLUSTER").arg("SLOTS")).await;
        let answer = answer.map_err(|error| self.fault(DOING, error))?;
        find(answer, slot).ok_or_else(|| {
            let doing = format!("{DOING}: no node of the cluster holds slot {slot} at the moment");
            ConnectionError::new(ConnectionErrorKind::Unavailable, doing)
        })
    }
}

/// The first node of the range that `slot` lies in: `[[from, to, [host, port, …], …], …]`.
fn find(answer: Value, slot: u16) -> Option<(Option<String>, u16)> {
    let ranges: Vec<Vec<Value>> = redis::from_redis_value(answer).ok()?;
    let range = ranges.into_iter().find(|range| {
        let bound = |at: usize| match range.get(at) {
            Some(Value::Int(bound)) => Some(*bound),
            _ => None,
        };
        let (from, to) = (bound(0), bound(1));
        from.zip(to).is_some_and(|(from, to)| (from..=to).contains(&i64::from(slot)))
    })?;
    let primary: Vec<Value> = redis::from_redis_value(range.into_iter().nth(2)?).ok()?;
    let mut primary = primary.into_iter();
    let host: Option<String> = redis::from_redis_value(primary.next()?).ok()?;
    let port = redis::from_redis_value(primary.next()?).ok()?;
    // A node that does not know its own address says nothing, or "?".
    Some((host.filter(|host| !host.is_empty() && host != "?"), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(hash_tag("foo{}{bar}"), None);
        assert_eq!(hash_tag("foo{{bar}}zap"), Some("{bar"));
        assert_eq!(hash_tag("foo{bar}{zap}"), Some("bar"));
        assert_eq!(hash_tag("{open"), None);
    }

    #[test]
    fn node_of_a_slot_is_the_first_of_its_range() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |host, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |from, to, nodes: Vec<Value>| {
            Value::Array([vec![Value::Int(from), Value::Int(to)], nodes].concat())
        };
        let answer = || {
            Value::Array(vec![
                range(0, 99, vec![node(text("a"), 1), node(text("b"), 2)]),
                range(100, 199, vec![node(Value::Nil, 3)]),
            ])
        };
        assert_eq!(find(answer(), 99), Some((Some("a".to_owned()), 1)));
        assert_eq!(find(answer(), 100), Some((None, 3)));
        assert_eq!(find(answer(), 200), None);
    }
}
