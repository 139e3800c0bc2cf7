//! Steps of machines, and jobs, over each of the sessions.

use posthaste::{Attempt, CommandError, JobId, Jobs, Machines, NewJob, Receipt, Step, Taken};

use super::{
    Rusqlite, Session, SqlxPostgres, SqlxSqlite, TokioPostgres,
    deadpool::Deadpool,
    diesel::Diesel,
    sea_orm::{SeaOrmPostgres, SeaOrmSqlite},
};

/// A session that takes steps, and submits and completes jobs.
pub(crate) trait MachineSession: Session {
    async fn start(&mut self, machines: &Machines, step: &Step) -> Result<Taken, CommandError>;
    async fn go(&mut self, machines: &Machines, step: &Step) -> Result<Taken, CommandError>;
    async fn submit(&mut self, jobs: &Jobs, job: &NewJob) -> Result<JobId, CommandError>;
    async fn complete(
        &mut self,
        jobs: &Jobs,
        attempt: Attempt,
        receipt: Option<&Receipt>,
    ) -> Result<(), CommandError>;
}

macro_rules! over {
    ($($session:ty: |$this:ident| $connection:expr;)*) => {$(
        impl MachineSession for $session {
            async fn start(&mut self, machines: &Machines, step: &Step) -> Result<Taken, CommandError> {
                let $this = self;
                machines.start($connection, step).await
            }

            async fn go(&mut self, machines: &Machines, step: &Step) -> Result<Taken, CommandError> {
                let $this = self;
                machines.transition($connection, step).await
            }

            async fn submit(&mut self, jobs: &Jobs, job: &NewJob) -> Result<JobId, CommandError> {
                let $this = self;
                jobs.submit($connection, job).await
            }

            async fn complete(
                &mut self,
                jobs: &Jobs,
                attempt: Attempt,
                receipt: Option<&Receipt>,
            ) -> Result<(), CommandError> {
                let $this = self;
                jobs.complete($connection, attempt, receipt).await
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
        impl MachineSession for $session {
            async fn start(&mut self, machines: &Machines, step: &Step) -> Result<Taken, CommandError> {
                match &self.0.transaction {
                    Some(transaction) => machines.start(transaction, step).await,
                    None => machines.start(&self.0.database, step).await,
                }
            }

            async fn go(&mut self, machines: &Machines, step: &Step) -> Result<Taken, CommandError> {
                match &self.0.transaction {
                    Some(transaction) => machines.transition(transaction, step).await,
                    None => machines.transition(&self.0.database, step).await,
                }
            }

            async fn submit(&mut self, jobs: &Jobs, job: &NewJob) -> Result<JobId, CommandError> {
                match &self.0.transaction {
                    Some(transaction) => jobs.submit(transaction, job).await,
                    None => jobs.submit(&self.0.database, job).await,
                }
            }

            async fn complete(
                &mut self,
                jobs: &Jobs,
                attempt: Attempt,
                receipt: Option<&Receipt>,
            ) -> Result<(), CommandError> {
                match &self.0.transaction {
                    Some(transaction) => jobs.complete(transaction, attempt, receipt).await,
                    None => jobs.complete(&self.0.database, attempt, receipt).await,
                }
            }
        }
    )*};
}

over_sea_orm!(SeaOrmPostgres SeaOrmSqlite);

impl MachineSession for Rusqlite {
    async fn start(&mut self, machines: &Machines, step: &Step) -> Result<Taken, CommandError> {
        machines.start_blocking(&self.0, step)
    }

    async fn go(&mut self, machines: &Machines, step: &Step) -> Result<Taken, CommandError> {
        machines.transition_blocking(&self.0, step)
    }

    async fn submit(&mut self, jobs: &Jobs, job: &NewJob) -> Result<JobId, CommandError> {
        jobs.submit_blocking(&self.0, job)
    }

    async fn complete(
        &mut self,
        jobs: &Jobs,
        attempt: Attempt,
        receipt: Option<&Receipt>,
    ) -> Result<(), CommandError> {
        jobs.complete_blocking(&self.0, attempt, receipt)
    }
}
