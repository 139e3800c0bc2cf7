//! What the indexes cost a writer: the same writers on a log whose sealed slots are indexed beside them, on one without
//! indexes, and on one that has them from the beginning, in turns. The sweep runs beside all of them.

use std::{sync::Arc, time::Duration};

use posthaste_testkit::failure::{During, Result};
use tokio::time::sleep;

use crate::{
    Options,
    enqueue::{
        DIFFERENT_MESSAGES,
        contestants::{Contestant, Way},
        turn,
    },
    messages::{Messages, PAYLOAD_BYTES},
    progress,
    report::Spread,
    servers::{Log, Servers, connect},
};

/// Long enough for a bulk writer to fill several slots.
const SECONDS: u64 = 6;
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

const WRITERS: [(&str, &str, Contestant); 3] = [
    ("single", "one at a time × 1", Contestant { way: Way::Outbox, connections: 1 }),
    ("clients", "one at a time × 8", Contestant { way: Way::Outbox, connections: 8 }),
    ("bulk", "a thousand at a time × 1", Contestant { way: Way::OutboxBulk, connections: 1 }),
];

/// How slots are indexed.
const LOGS: [&str; 3] =
    ["without indexes", "slots indexed when they are sealed", "indexes from the beginning"];

const NOBODY_INDEXES: &str = "create or replace function posthaste.index_slot(slot int, until bigint) returns boolean \
                              language sql as 'select false'";
const INDEX_ALL: &str =
    "select posthaste.index_slot(n, 9223372036854775807) from generate_series(0, 31) n";

/// Messages per second of a way to write, on each of [`LOGS`].
pub(super) struct Cost {
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    pub(super) rates: [(&'static str, Spread); LOGS.len()],
}

pub(super) async fn measure(options: &Options, servers: &Servers) -> Result<Vec<Cost>> {
    let logs = [servers.log().await?, servers.log().await?, servers.log().await?];
    connect(&logs[0].url).await?.batch_execute(NOBODY_INDEXES).await.during("keep indexes out")?;
    connect(&logs[2].url).await?.batch_execute(INDEX_ALL).await.during("index all slots")?;
    let messages: Vec<_> = Messages::new(PAYLOAD_BYTES)
        .take(DIFFERENT_MESSAGES)
        .into_iter()
        .enumerate()
        .map(|(nth, message)| message.correlation_id(format!("request-{}", nth / 3)))
        .collect();
    let messages = Arc::new(messages);
    let time = Duration::from_secs(options.seconds.unwrap_or(SECONDS));
    let mut rates = [[(); LOGS.len()]; WRITERS.len()].map(|logs| logs.map(|()| Vec::new()));
    for number in 0..=options.runs as usize {
        for ((_, name, contestant), rates) in WRITERS.iter().zip(&mut rates) {
            // Whoever goes first finds the disk at rest.
            for at in (0..LOGS.len()).map(|nth| (nth + number) % LOGS.len()) {
                empty(&logs[at], at == 2).await?;
                let turn = turn(&logs[at], *contestant, Arc::clone(&messages), time);
                let turn = tokio::select! {
                    turn = turn => turn?,
                    failed = sweep(&logs[at]) => return failed.map(|()| Vec::new()),
                };
                if number > 0 {
                    progress(format_args!("{name}, {}: {:.0}/s", LOGS[at], turn.rate));
                    rates[at].push(turn.rate);
                }
            }
        }
    }
    let cost = |((key, name, _), rates): ((_, _, _), [Vec<f64>; LOGS.len()])| {
        let mut names = LOGS.into_iter();
        let rates = rates.map(|rates| (names.next().unwrap_or_default(), Spread::of(rates)));
        Cost { key, name, rates }
    };
    Ok(WRITERS.into_iter().zip(rates).map(cost).collect())
}

/// Sweeps, as a relay does.
async fn sweep(log: &Log) -> Result<()> {
    loop {
        log.store.sweep().await.during("sweep")?;
        sleep(SWEEP_PAUSE).await;
    }
}

/// No turn writes into a larger log than another.
async fn empty(log: &Log, keeps_indexes: bool) -> Result<()> {
    let client = connect(&log.url).await?;
    if !keeps_indexes {
        let sql = "select posthaste.unindex_slot(n) from generate_series(0, 31) n";
        client.batch_execute(sql).await.during("drop the indexes")?;
    }
    let sql = "truncate posthaste.log; alter sequence posthaste.log_position_seq restart; \
               checkpoint";
    client.batch_execute(sql).await.during("empty the log")
}
