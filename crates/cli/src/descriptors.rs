//! File descriptors: every connection needs one, and a process has few unless it asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For everything but clients: the database, brokers, files, programs that handle jobs.
const OTHERS: u64 = 256;

/// Asks for descriptors for so many clients, and answers for how many there are: clients must not take those that
/// database and brokers need.
pub(crate) fn make_room(clients: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let (current, room) = plan(clients as u64, limit.current, limit.maximum);
    let raised = Rlimit { current, maximum: limit.maximum };
    let room = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => room,
        Err(error) => {
            tracing::warn!("ask for more file descriptors: {error}");
            plan(clients as u64, limit.current, limit.current).1
        }
    };
    if room < clients as u64 {
        tracing::warn!(
            connections = room,
            "a process may have {} file descriptors here, too few for server.connections_max = {clients}: raise the \
             hard limit (`LimitNOFILE=` of a unit, `ulimit -Hn`), or lower the setting",
            room + OTHERS
        );
    }
    usize::try_from(room).unwrap_or(clients)
}

/// The limit to ask for, and the clients that it has room for.
fn plan(clients: u64, current: Option<u64>, maximum: Option<u64>) -> (Option<u64>, u64) {
    let wanted = clients + OTHERS;
    let Some(current) = current.filter(|current| *current < wanted) else {
        return (current, clients);
    };
    let raised = maximum.map_or(wanted, |maximum| maximum.min(wanted)).max(current);
    (Some(raised), raised.saturating_sub(OTHERS).clamp(1, clients))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_asked_for_as_clients_and_others_need() {
        assert_eq!(plan(1_000, Some(1_024), Some(500_000)), (Some(1_256), 1_000));
        assert_eq!(plan(1_000, Some(1_024), None), (Some(1_256), 1_000));
        assert_eq!(plan(700, Some(1_024), Some(1_024)), (Some(1_024), 700), "there are enough");
        assert_eq!(plan(1_000, None, None), (None, 1_000));
    }

    #[test]
    fn clients_leave_the_others_theirs_where_there_are_too_few() {
        assert_eq!(plan(10_000, Some(1_024), Some(4_096)), (Some(4_096), 3_840));
        assert_eq!(plan(10_000, Some(100), Some(100)), (Some(100), 1));
    }
}
