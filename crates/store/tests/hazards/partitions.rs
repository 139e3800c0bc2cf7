//! A network that is cut, so that neither side hears of the other again.

use std::{fs, time::Duration};

use posthaste_store::{
    Acquired, Store, StoreErrorKind,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{
    Postgres, eventually_async,
    proxy::{NetFault, Proxy},
};
use tokio_postgres::Config;

use super::database::{LIMIT, Log};

const LEASE: Duration = Duration::from_secs(1);

/// Sockets of this process that are open to `port` of this machine.
fn open_to(port: u16) -> usize {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let (peer, established) = (format!("0100007F:{port:04X}"), "01");
    let is_open = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&peer) && fields.next() == Some(established)
    };
    table.lines().filter(is_open).count()
}

#[tokio::test]
async fn transaction_that_is_cut_off_keeps_neither_its_socket_nor_its_locks() {
    let log = Log::on(Postgres::shared(), &PostgresOptions::default()).await;
    log.subscribe("mail").await;
    // The server's, or the pooler's before it.
    let address: Config = log.database.url().parse().unwrap();
    let proxy = Proxy::start(address.get_ports()[0]).await.unwrap();
    let options = PostgresOptions {
        operation_timeout: Duration::from_millis(500),
        ..PostgresOptions::default()
    };
    let away = PostgresStore::connect(&proxy.url(log.database.url()), &options).unwrap();

    let mut other = log.writer().await;
    let lock = other.transaction().await.unwrap();
    lock.query("select from posthaste.lease for update", &[]).await.unwrap();
    let waiting = async {
        log.somebody_waits().await;
        proxy.set(NetFault::HalfOpen);
        lock.rollback().await.unwrap();
    };
    let (taken, ()) = tokio::join!(away.acquire("mail", "away", LEASE), waiting);

    assert_eq!(taken.unwrap_err().kind(), StoreErrorKind::Timeout);
    eventually_async("a closed socket", LIMIT, async || open_to(proxy.port()) == 0).await;
    let taken = log.store.acquire("mail", "here", LEASE).await.unwrap();
    assert!(matches!(taken, Acquired::Taken(1, _)), "{taken:?}");
}
