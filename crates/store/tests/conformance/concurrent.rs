//! What only stores with several writers at once can show.

use posthaste_core::{Message, Place};

use super::{
    harness::{Application, Harness, commit, migrated},
    reader::{Reader, tick},
};

pub(crate) async fn long_transaction_delays_only_its_own_messages<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut ticker = store.ticker();
    let mut reader = Reader::at(Place::beginning());
    let mut long = harness.begin().await;
    let mut expected = Vec::new();
    let mut late = vec![long.insert(&Message::new("late")).await];
    for _ in 0..3 {
        expected.extend(commit(&harness, &["a", "b"]).await);
        tick(ticker.as_mut()).await;
        reader.drain(&*store).await;
        assert_eq!(reader.ids(), expected);
        late.push(long.insert(&Message::new("late")).await);
    }
    long.commit().await;
    expected.extend(late);
    tick(ticker.as_mut()).await;
    reader.drain(&*store).await;
    assert_eq!(reader.ids(), expected);
}
