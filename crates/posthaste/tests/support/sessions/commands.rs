//! Commands over each of the sessions.

use std::time::Duration;

use posthaste::{Begun, Command, CommandError, Commands};

use super::{
    Rusqlite, Session, SqlxPostgres, SqlxSqlite, TokioPostgres,
    deadpool::Deadpool,
    diesel::Diesel,
    sea_orm::{SeaOrmPostgres, SeaOrmSqlite},
};

const LEASE: Duration = Duration::from_mins(1);

/// A session that begins and ends commands.
pub(crate) trait CommandSession: Session {
    async fn begin(&mut self, command: &Command) -> Result<Begun, CommandError>;
    async fn wait(&mut self, command: &Command, wait: Duration) -> Result<Begun, CommandError>;
    async fn complete(&mut self, command: &Command, response: &[u8]) -> Result<(), CommandError>;
    async fn renew(&mut self, command: &Command, lease: Duration) -> Result<(), CommandError>;
    async fn abandon(&mut self, command: &Command) -> Result<(), CommandError>;
}

macro_rules! over {
    ($($session:ty: |$this:ident| $connection:expr;)*) => {$(
        impl CommandSession for $session {
            async fn begin(&mut self, command: &Command) -> Result<Begun, CommandError> {
                let $this = self;
                Commands::default().begin($connection, command, LEASE).await
            }

            async fn wait(&mut self, command: &Command, wait: Duration) -> Result<Begun, CommandError> {
                let $this = self;
                Commands::default().begin_or_wait($connection, command, LEASE, wait).await
            }

            async fn complete(&mut self, command: &Command, response: &[u8]) -> Result<(), CommandError> {
                let $this = self;
                Commands::default().complete($connection, command, response).await
            }

            async fn renew(&mut self, command: &Command, lease: Duration) -> Result<(), CommandError> {
                let $this = self;
                Commands::default().renew($connection, command, lease).await
            }

            async fn abandon(&mut self, command: &Command) -> Result<(), CommandError> {
                let $this = self;
                Commands::default().abandon($connection, command).await
            }
        }
    )*};
}

over! {
    TokioPostgres: |it| &it.0;
    Deadpool: |it| &it.0;
    Diesel: |it| &mut it.0;
    SqlxPostgres: |it| &mut it.0;
    SqlxSqlite: |it| &mut it.0;
}

/// sea-orm's transactions are another type than its connections.
macro_rules! over_sea_orm {
    ($($session:ty)*) => {$(
        impl CommandSession for $session {
            async fn begin(&mut self, command: &Command) -> Result<Begun, CommandError> {
                let commands = Commands::default();
                match &self.0.transaction {
                    Some(transaction) => commands.begin(transaction, command, LEASE).await,
                    None => commands.begin(&self.0.database, command, LEASE).await,
                }
            }

            async fn wait(&mut self, command: &Command, wait: Duration) -> Result<Begun, CommandError> {
                Commands::default().begin_or_wait(&self.0.database, command, LEASE, wait).await
            }

            async fn complete(&mut self, command: &Command, response: &[u8]) -> Result<(), CommandError> {
                let commands = Commands::default();
                match &self.0.transaction {
                    Some(transaction) => commands.complete(transaction, command, response).await,
                    None => commands.complete(&self.0.database, command, response).await,
                }
            }

            async fn renew(&mut self, command: &Command, lease: Duration) -> Result<(), CommandError> {
                Commands::default().renew(&self.0.database, command, lease).await
            }

            async fn abandon(&mut self, command: &Command) -> Result<(), CommandError> {
                Commands::default().abandon(&self.0.database, command).await
            }
        }
    )*};
}

over_sea_orm!(SeaOrmPostgres SeaOrmSqlite);

impl CommandSession for Rusqlite {
    async fn begin(&mut self, command: &Command) -> Result<Begun, CommandError> {
        Commands::default().begin_blocking(&self.0, command, LEASE)
    }

    /// Not the blocking one, beside which nobody could complete on the same thread.
    async fn wait(&mut self, command: &Command, wait: Duration) -> Result<Begun, CommandError> {
        Commands::default().begin_or_wait(&self.0, command, LEASE, wait).await
    }

    async fn complete(&mut self, command: &Command, response: &[u8]) -> Result<(), CommandError> {
        Commands::default().complete_blocking(&self.0, command, response)
    }

    async fn renew(&mut self, command: &Command, lease: Duration) -> Result<(), CommandError> {
        Commands::default().renew_blocking(&self.0, command, lease)
    }

    async fn abandon(&mut self, command: &Command) -> Result<(), CommandError> {
        Commands::default().abandon_blocking(&self.0, command)
    }
}
