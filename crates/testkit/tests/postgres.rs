//! Life cycle, separation, authentication, TLS and standby of private `PostgreSQL` servers.

use std::{sync::Arc, time::Duration};

use posthaste_testkit::{
    Auth, Disk, PgVersion, Postgres, PostgresOptions, Tls, eventually, eventually_async,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::time::timeout;
use tokio_postgres::{NoTls, error::SqlState};

const LIMIT: Duration = Duration::from_secs(10);
/// Long enough that an answer would have come, and too short to decide anything but that none did.
const NO_ANSWER: Duration = Duration::from_millis(300);

#[tokio::test]
async fn killed_postgres_keeps_committed_rows_over_a_restart() {
    let postgres = Postgres::start();
    let database = postgres.database().await;
    let client = database.connect().await;
    client.batch_execute("create table t (n int); insert into t values (7)").await.unwrap();
    let (port, first_pid) = (postgres.port(), postgres.pid());
    postgres.kill();
    assert!(client.simple_query("select 1").await.is_err(), "the connection outlived the kill");
    postgres.restart();
    assert_eq!(postgres.port(), port);
    assert_ne!(postgres.pid(), first_pid);
    let row = database.connect().await.query_one("select n from t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
}

#[tokio::test]
async fn stopped_postgres_refuses_connections_until_its_restart() {
    let postgres = Postgres::start();
    postgres.stop();
    assert!(tokio_postgres::connect(&postgres.url("postgres"), NoTls).await.is_err());
    postgres.restart();
    drop(tokio_postgres::connect(&postgres.url("postgres"), NoTls).await.unwrap());
    // A second restart finds it running.
    postgres.restart();
    drop(tokio_postgres::connect(&postgres.url("postgres"), NoTls).await.unwrap());
}

#[tokio::test]
async fn postgres_on_a_full_disk_writes_nothing_new_until_it_is_freed() {
    let disk = Arc::new(Disk::new());
    let options = PostgresOptions { disk: Some(Arc::clone(&disk)), ..PostgresOptions::default() };
    let postgres = Postgres::start_with(options);
    let client = postgres.database().await.connect().await;
    client.batch_execute("create table t (n int); insert into t values (7)").await.unwrap();
    disk.fill(&postgres.data_dir().join("base"));
    client.batch_execute("update t set n = 8").await.expect("the page has room");
    let grow = "insert into t select 9 from generate_series(1, 10000)";
    let error = client.batch_execute(grow).await.unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("53100"), "{error:?}");
    disk.free();
    client.batch_execute(grow).await.unwrap();
    let row = client.query_one("select count(*), min(n) from t", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (10_001, 8));
}

#[tokio::test]
async fn paused_postgres_answers_after_its_resume_on_the_same_connection() {
    let postgres = Postgres::start();
    let client = postgres.database().await.connect().await;
    postgres.pause();
    let answer = client.query_one("select 1", &[]);
    tokio::pin!(answer);
    assert!(timeout(NO_ANSWER, &mut answer).await.is_err(), "a paused server answered");
    postgres.resume();
    timeout(LIMIT, answer).await.expect("a resumed server answers").unwrap();
}

#[tokio::test]
async fn databases_are_separate() {
    let (one, other) = (Postgres::shared().database().await, Postgres::shared().database().await);
    assert_ne!(one.name(), other.name());
    one.connect().await.batch_execute("create table t ()").await.unwrap();
    let found = other.connect().await.query_one("select to_regclass('t') is null", &[]).await;
    assert!(found.unwrap().get::<_, bool>(0));
    let (client, connection) = tokio_postgres::connect(one.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("select from t").await.unwrap();
}

#[test]
#[should_panic(expected = "`kill` on the shared PostgreSQL would break the tests beside this one")]
fn shared_postgres_cannot_be_killed() {
    Postgres::shared().kill();
}

#[test]
fn settings_override_and_a_wrong_one_is_shown_with_the_log() {
    let start = |name: &str, value: &str| {
        let settings = vec![(name.to_owned(), value.to_owned())];
        Postgres::try_start_with(PostgresOptions { settings, ..PostgresOptions::default() })
    };
    start("max_connections", "20").expect("a valid setting");
    let error = start("max_connections", "many").expect_err("an invalid one").to_string();
    assert!(error.contains("exited") && error.contains("many"), "{error}");
}

#[test]
fn dropped_postgres_leaves_no_directory_and_no_process() {
    let postgres = Postgres::start();
    let (directory, pid) = (postgres.data_dir(), postgres.pid());
    drop(postgres);
    assert!(!directory.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn scram_server_asks_for_the_password() {
    let auth = Auth::Scram("se'cret".into());
    let postgres = Postgres::start_with(PostgresOptions { auth, ..PostgresOptions::default() });
    let without = format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port());
    assert!(tokio_postgres::connect(&without, NoTls).await.is_err());
    drop(tokio_postgres::connect(&postgres.url("postgres"), NoTls).await.unwrap());
}

#[tokio::test]
async fn tls_server_takes_only_encrypted_connections() {
    let tls = Tls::generate();
    let authority = CertificateDer::from_pem_slice(tls.ca_pem().as_bytes()).unwrap();
    let postgres =
        Postgres::start_with(PostgresOptions { tls: Some(tls), ..PostgresOptions::default() });
    assert!(postgres.ca_file().exists());
    assert!(tokio_postgres::connect(&postgres.url("postgres"), NoTls).await.is_err());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let tls = tokio_postgres_rustls::MakeRustlsConnect::new(config);
    let url = format!("{}?sslmode=require", postgres.url("postgres"));
    drop(tokio_postgres::connect(&url, tls).await.unwrap());
}

#[tokio::test]
async fn standby_follows_and_takes_reads_only() {
    // The npm packages have no pg_basebackup.
    let version = PgVersion::Debian;
    let primary = Postgres::start_with(PostgresOptions { version, ..PostgresOptions::default() });
    let database = primary.database().await;
    let standby = Postgres::standby_of(&primary);
    database.connect().await.batch_execute("create table t (n int)").await.unwrap();
    let url = standby.url(database.name());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    eventually_async("the standby has the table", LIMIT, async || {
        client.query("select n from t", &[]).await.is_ok()
    })
    .await;
    assert!(client.batch_execute("insert into t values (1)").await.is_err());
}

#[test]
fn parallel_starts_all_get_a_port() {
    let starts: Vec<_> = (0..4).map(|_| std::thread::spawn(Postgres::start)).collect();
    let servers: Vec<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    let mut ports: Vec<u16> = servers.iter().map(Postgres::port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), servers.len());
    eventually("the log tells of readiness", LIMIT, || servers[0].log_tail().contains("ready"));
}
