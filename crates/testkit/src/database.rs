//! A fresh database for one test.

use std::path::PathBuf;

use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

/// An empty database that no other test sees. It is not dropped: it goes away with its server.
#[derive(Debug, Clone)]
pub struct Database {
    name: String,
    url: String,
    /// Connections made here go through the server's socket, which asks for no password.
    config: Config,
}

impl Database {
    /// Where an application connects.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name, `t_` and a random number.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection as the superuser, without a password and without TLS whatever the server's
    /// options.
    ///
    /// # Panics
    ///
    /// When the server does not let us in.
    pub async fn connect(&self) -> Client {
        connect(&self.config).await
    }

    pub(crate) async fn create(
        socket_directory: PathBuf,
        port: u16,
        url: impl FnOnce(&str) -> String,
    ) -> Self {
        let name = format!("t_{}", Uuid::new_v4().simple());
        let mut config = Config::new();
        config.host_path(socket_directory).port(port).user("postgres").dbname("postgres");
        let client = connect(&config).await;
        let statement = format!("create database {name}");
        client.batch_execute(&statement).await.expect("a superuser may create a database");
        config.dbname(&name);
        Self { url: url(&name), name, config }
    }
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .unwrap_or_else(|error| panic!("{}", crate::postgres::chain(&error)));
    // The task ends with the client, or with the server; the client's next call reports the latter.
    tokio::spawn(connection);
    client
}
