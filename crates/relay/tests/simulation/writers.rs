//! Writers: transactions of every length, with early and late ids, locked keys, roll-backs,
//! synchronous and asynchronous commits.

use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    plan::TOPICS,
    world::{Body, State, World, millis},
};

/// Writes until the plan's duration has passed.
pub(crate) async fn write(world: World, mut dice: SmallRng) {
    loop {
        let pause = world.with(|state| {
            let goes_on = state.began.elapsed() < state.plan.duration;
            let high = state.plan.writer_pause_ms;
            goes_on.then(|| millis(&mut dice, 0, high))
        });
        let Some(pause) = pause else { return };
        sleep(pause).await;
        transaction(&world, &mut dice).await;
    }
}

/// One transaction; ends early when the database crashes.
async fn transaction(world: &World, dice: &mut SmallRng) {
    let is_away = world.with(|state| state.is_down);
    if is_away {
        return;
    }
    let handle = world.with(|state| state.database.begin());
    if dice.random_bool(0.4) {
        world.with(|state| state.database.take_xid(handle));
        think(dice).await;
    }
    let key = world.with(|state| lock_key(state, dice));
    for _ in 0..dice.random_range(1..5) {
        world.with(|state| {
            state.database.enqueue(handle, body(dice, key));
        });
        if dice.random_bool(0.3) {
            think(dice).await;
        }
    }
    world.with(|state| {
        if dice.random_bool(0.15) {
            state.database.abort(handle);
        } else {
            let is_synchronous = dice.random_bool(0.6);
            state.commit(handle, is_synchronous);
        }
        if let Some(key) = key {
            state.locked.remove(&key);
        }
    });
}

/// Mostly moments, sometimes seconds.
async fn think(dice: &mut SmallRng) {
    let high = if dice.random_bool(0.05) { 4_000 } else { 60 };
    sleep(millis(dice, 0, high)).await;
}

/// An earlier statement locks the key's row: the next writer of that key chooses another.
fn lock_key(state: &mut State, dice: &mut SmallRng) -> Option<u8> {
    let key = dice.random_range(0..8);
    (key < 6 && state.locked.insert(key)).then_some(key)
}

fn body(dice: &mut SmallRng, key: Option<u8>) -> Body {
    Body {
        id: Uuid::from_u128(dice.random()),
        topic: TOPICS.choose(dice).unwrap(),
        key: key.map(|key| format!("key-{key}")),
    }
}
