//! Reaching PostgreSQL: TLS modes, passwords, and what an operator is told when it fails.

use std::{error::Error, path::PathBuf, time::Duration};

use posthaste_store::{
    Store, StoreError, StoreErrorKind,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{Auth, Postgres, PostgresOptions as ServerOptions, Tls};
use tempfile::NamedTempFile;

const PASSWORD: &str = "s3cret-of-the-test";

fn secured() -> Postgres {
    let auth = Auth::Scram(PASSWORD.to_owned());
    Postgres::start_with(ServerOptions { auth, tls: Some(Tls::generate()), ..Default::default() })
}

/// Connects with `sslmode` to `host` and migrates.
async fn connect(
    server: &Postgres,
    host: &str,
    mode: &str,
    password: &str,
    ca_file: Option<PathBuf>,
) -> Result<(), StoreError> {
    let port = server.port();
    let url =
        format!("postgres://postgres@{host}:{port}/postgres?sslmode={mode}&hostaddr=127.0.0.1");
    let options = PostgresOptions {
        password: Some(password.into()),
        ca_file,
        operation_timeout: Duration::from_secs(20),
        ..PostgresOptions::default()
    };
    PostgresStore::connect(&url, &options)?.migrate().await.map(|_| ())
}

fn chain(error: &StoreError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text} {error} {error:?}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn tls_modes_check_what_libpq_says_they_check() {
    let server = secured();
    let ca = Some(server.ca_file());
    let elsewhere = NamedTempFile::new().unwrap();
    std::fs::write(elsewhere.path(), Tls::generate().ca_pem()).unwrap();
    let other_ca = Some(elsewhere.path().to_owned());
    for (host, mode, ca_file, expected) in [
        ("127.0.0.1", "verify-full", ca.clone(), None),
        ("localhost", "verify-full", ca.clone(), None),
        ("127.0.0.1", "verify-ca", ca.clone(), None),
        ("127.0.0.1", "require", None, None),
        ("127.0.0.1", "prefer", None, None),
        ("127.0.0.1", "verify-full", other_ca.clone(), Some(StoreErrorKind::Authentication)),
        ("127.0.0.1", "verify-ca", other_ca, Some(StoreErrorKind::Authentication)),
        ("127.0.0.1", "verify-full", None, Some(StoreErrorKind::Authentication)),
        // A name that is not in the certificate.
        ("other.example", "verify-full", ca.clone(), Some(StoreErrorKind::Authentication)),
        ("other.example", "verify-ca", ca.clone(), None),
        // The server takes no plain connections.
        ("127.0.0.1", "disable", None, Some(StoreErrorKind::Authentication)),
    ] {
        let result = connect(&server, host, mode, PASSWORD, ca_file).await;
        let kind = result.as_ref().err().map(StoreError::kind);
        assert_eq!(kind, expected, "{host} {mode}: {result:?}");
    }
}

#[tokio::test]
async fn wrong_password_is_an_authentication_error_that_keeps_the_secret() {
    let server = secured();
    let wrong = "wr0ng-of-the-test";
    let error = connect(&server, "127.0.0.1", "require", wrong, None).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Authentication, "{error:?}");
    assert!(!chain(&error).contains(wrong), "{}", chain(&error));
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", server.port());
    let store = PostgresStore::connect(&url, &PostgresOptions::default()).unwrap();
    store.migrate().await.unwrap();
    assert!(!format!("{store:?} {}", store.describe()).contains(PASSWORD));
}

#[tokio::test]
async fn faulty_urls_and_files_name_the_value_and_the_remedy() {
    let options = PostgresOptions::default();
    for (url, part) in [
        ("mysql://localhost/db", "\"mysql\" is not postgres"),
        ("postgres://localhost/db?sslmode=maybe", "sslmode \"maybe\" is not one of"),
        ("postgres://localhost/db?nonsense=1", "nonsense"),
        ("not a url", "use postgres://user@host:5432/database"),
    ] {
        let error = PostgresStore::connect(url, &options).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Invalid, "{url}");
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
    let options = PostgresOptions {
        ca_file: Some("/nonexistent/ca.pem".into()),
        ..PostgresOptions::default()
    };
    let error =
        PostgresStore::connect("postgres://h/db?sslmode=verify-full", &options).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
}

#[tokio::test]
async fn missing_database_role_privilege_and_schema_are_told_apart() {
    // A pooler would answer for the server.
    let server = Postgres::start();
    let database = server.database().await;
    let admin = database.connect().await;
    let role = format!("r_{}", database.name());
    admin.batch_execute(&format!("create role {role} login")).await.unwrap();
    let open = |url: &str| PostgresStore::connect(url, &PostgresOptions::default()).unwrap();
    let store = open(database.url());
    assert_eq!(store.check().await.unwrap_err().kind(), StoreErrorKind::MissingSchema);
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    let as_role = database.url().replace("postgres@", &format!("{role}@"));
    let stranger = open(&as_role);
    let denied = stranger.append(&[posthaste_core::Message::new("a")]).await.unwrap_err();
    assert_eq!(denied.kind(), StoreErrorKind::Privilege, "{denied:?}");
    let nowhere = open(&database.url().replace(database.name(), "no_such_database"));
    let error = nowhere.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid, "{error:?}");
    assert!(error.to_string().contains("no_such_database"), "{error}");
    let nobody = open(&database.url().replace("postgres@", "no_such_role@"));
    assert_eq!(nobody.check().await.unwrap_err().kind(), StoreErrorKind::Authentication);
    let away = open("postgres://postgres@127.0.0.1:1/postgres");
    assert_eq!(away.check().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn paused_server_is_a_timeout_and_the_store_recovers() {
    let server = Postgres::start();
    let options = PostgresOptions {
        operation_timeout: Duration::from_millis(500),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::connect(&server.url("postgres"), &options).unwrap();
    let long = PostgresOptions::default();
    PostgresStore::connect(&server.url("postgres"), &long).unwrap().migrate().await.unwrap();
    store.check().await.unwrap();
    server.pause();
    let error = store.status().await.unwrap_err();
    server.resume();
    assert_eq!(error.kind(), StoreErrorKind::Timeout, "{error:?}");
    store.check().await.unwrap();
}
