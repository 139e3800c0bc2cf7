//! The database goes back to a backup: what was published since the backup has never happened for it,
//! and positions, ticks and transaction ids are handed out again.

use std::{path::Path, process::Command, sync::PoisonError, time::Duration};

use posthaste_testkit::{
    Postgres,
    failure::{During, Failure, Result},
};
use tokio::{
    task::{JoinSet, block_in_place},
    time::{sleep, timeout},
};

use crate::{
    nemesis::Nemesis,
    run::{Inbox, finish},
    stage::{SUBSCRIPTIONS, Server},
    writers::{self, Setup},
};

/// Writing after the backup, and, for longer, after it was put back: so that everything that was
/// handed out before is handed out again.
const FORGOTTEN: Duration = Duration::from_secs(1);
const INSTEAD: Duration = Duration::from_secs(4);
/// A relay that comes up finds it within this.
const HALT_LIMIT: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What is on its way to the consumer arrives within this.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(1);

/// Puts a backup back behind the relay's back, and has each subscription rebased that stops for it.
/// Everything has arrived before, and the backup's part of it counts.
pub(crate) async fn restore(
    nemesis: &mut Nemesis<'_>,
    setup: &Setup,
    inbox: &Inbox,
    is_forgetful: bool,
) -> Result<()> {
    let Some(Server { postgres, .. }) = &nemesis.stage.server else {
        return Err(Failure::new("there is no server to restore"));
    };
    let (data, backup) = (postgres.data_dir(), nemesis.stage.backup());
    block_in_place(|| {
        postgres.stop();
        copy(&data, &backup)?;
        postgres.restart();
        Ok::<_, Failure>(())
    })?;
    let saved = inbox.lock().unwrap_or_else(PoisonError::into_inner).save()?;
    let committed = setup.written.committed();
    write_for(setup, FORGOTTEN).await;
    finish(nemesis, setup, is_forgetful).await?;

    nemesis.stop().await?;
    block_in_place(|| put_back(postgres, &backup, &data))?;
    sleep(ARRIVAL_LIMIT).await;
    inbox.lock().unwrap_or_else(PoisonError::into_inner).go_back(saved)?;
    setup.written.set_committed(committed);
    nemesis.replace().await?;
    write_for(setup, INSTEAD).await;
    for name in SUBSCRIPTIONS {
        if is_halted(nemesis, name).await? {
            nemesis.rebase(name).await?;
        }
    }
    nemesis.replace().await
}

/// Whether the subscription waits for somebody to look.
async fn is_halted(nemesis: &Nemesis<'_>, name: &str) -> Result<bool> {
    let book = nemesis.stage.book().await?;
    let sql = format!(
        "select count(*) from posthaste.lease l join posthaste.subscription s on s.id = \
         l.subscription where s.name = '{name}' and l.rewound is not null"
    );
    let halted = async {
        while book.count("look at the leases", &sql).await? == 0 {
            sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    };
    timeout(HALT_LIMIT, halted).await.map_or(Ok(false), |halted| halted.map(|()| true))
}

async fn write_for(setup: &Setup, time: Duration) {
    setup.written.go_on();
    let mut writing = JoinSet::new();
    writing.spawn(writers::write(setup.clone()));
    sleep(time).await;
    setup.written.end();
    writing.join_all().await;
}

fn put_back(postgres: &Postgres, backup: &Path, data: &Path) -> Result<()> {
    postgres.kill();
    std::fs::remove_dir_all(data).during("remove the data")?;
    copy(backup, data)?;
    postgres.restart();
    Ok(())
}

/// With owners and times.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    if copied.during("run `cp`")?.success() {
        return Ok(());
    }
    Err(Failure::new(format!("cannot copy {} to {}", from.display(), to.display())))
}
