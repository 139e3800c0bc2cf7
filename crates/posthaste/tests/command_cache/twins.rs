//! A hundred requests under one key at once, and a repeat of each: one effect and one answer,
//! whatever becomes of Redis.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use posthaste::Wait;

use super::*;

const TWINS: usize = 100;

#[derive(Clone, Copy)]
enum Mode {
    Atomic,
    Guarded,
}

/// What becomes of Redis.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    NeverThere,
    /// When half of the answers are there.
    Killed,
    /// When a quarter of the answers are there, and at each further one.
    Flushed,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_hundred_twins_atomic_with_redis_up() {
    hundred(Mode::Atomic, Trouble::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_hundred_twins_atomic_without_redis() {
    hundred(Mode::Atomic, Trouble::NeverThere).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_hundred_twins_atomic_with_redis_killed_midway() {
    hundred(Mode::Atomic, Trouble::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_hundred_twins_atomic_with_redis_flushed_midway() {
    hundred(Mode::Atomic, Trouble::Flushed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_hundred_twins_guarded_with_redis_up() {
    hundred(Mode::Guarded, Trouble::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_hundred_twins_guarded_without_redis() {
    hundred(Mode::Guarded, Trouble::NeverThere).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_hundred_twins_guarded_with_redis_killed_midway() {
    hundred(Mode::Guarded, Trouble::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_hundred_twins_guarded_with_redis_flushed_midway() {
    hundred(Mode::Guarded, Trouble::Flushed).await;
}

async fn hundred(mode: Mode, trouble: Trouble) {
    let redis = Arc::new(Redis::start());
    let app = if trouble == Trouble::NeverThere {
        App::with(&url_of_nobody(), &PATIENT).await
    } else {
        App::new(&redis).await
    };
    let before = app.counts();
    let app = Arc::new(app);
    let answered = Arc::new(AtomicUsize::new(0));
    let mut twins = JoinSet::new();
    for _ in 0..TWINS {
        let (app, redis, answered) = (app.clone(), redis.clone(), answered.clone());
        twins.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..2 {
                answers.push(app.request(mode).await);
                match (trouble, answered.fetch_add(1, Ordering::Relaxed) + 1) {
                    (Trouble::Killed, TWINS) => redis.kill(),
                    (Trouble::Flushed, 50 | 100 | 150) => flush(&redis).await,
                    _ => {}
                }
            }
            answers
        });
    }
    let answers = timeout(LIMIT, twins.join_all()).await.expect("all twins are answered").concat();
    assert_eq!(answers.len(), 2 * TWINS);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(app.place.orders().await, 1);

    let CacheCounts { hits, misses, fills, errors, .. } = app.counts();
    let (hits, misses) = (hits - before.hits, misses - before.misses);
    assert_eq!(hits + misses, 2 * TWINS as u64);
    match trouble {
        // Who filled it finds its own fill.
        Trouble::None => assert!(hits > 0 && fills > 0 && errors == 0),
        Trouble::Flushed => assert!(fills > 0 && errors == 0),
        Trouble::NeverThere => assert!(hits == 0 && fills == 0 && errors > 0),
        Trouble::Killed => assert!(fills > 0),
    }
}

async fn flush(redis: &Redis) {
    let mut redis = connection(redis).await;
    told::<()>(&mut redis, redis::cmd("FLUSHALL").arg("SYNC")).await;
}

/// A port on which nobody listens.
fn url_of_nobody() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    format!("redis://{}/", listener.local_addr().unwrap())
}

impl App {
    /// One request, as an application executes it.
    async fn request(&self, mode: Mode) -> Vec<u8> {
        let command = attempt();
        if let Some(answer) = self.commands.answer(&command).await.unwrap() {
            return answer;
        }
        match mode {
            Mode::Atomic => self.atomic(&command).await,
            Mode::Guarded => self.guarded(&command).await,
        }
    }

    async fn atomic(&self, command: &Command) -> Vec<u8> {
        let mut client = self.pool.get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        match self.commands.begin(&transaction, command, LEASE).await.unwrap() {
            Begun::First => {}
            Begun::Repeat(answer) => return answer,
            begun => panic!("{begun:?}"),
        }
        transaction.execute("insert into orders values (1)", &[]).await.unwrap();
        let answer = Uuid::now_v7().as_bytes().to_vec();
        self.commands.complete(&transaction, command, &answer).await.unwrap();
        transaction.commit().await.unwrap();
        answer
    }

    /// The effect is one that no transaction ties to the command.
    async fn guarded(&self, command: &Command) -> Vec<u8> {
        let mut wait = Wait::at_most(LIMIT);
        loop {
            match self.begin(command).await {
                Begun::First => break,
                Begun::Repeat(answer) => return answer,
                Begun::InProgress { lease_left } => {
                    tokio::time::sleep(wait.pause(lease_left).expect("the first ends")).await;
                }
                Begun::TakenOver => panic!("a lease has run out"),
            }
        }
        let client = self.pool.get().await.unwrap();
        client.execute("insert into orders values (1)", &[]).await.unwrap();
        let answer = Uuid::now_v7().as_bytes().to_vec();
        self.commands.complete(&client, command, &answer).await.unwrap();
        answer
    }
}
