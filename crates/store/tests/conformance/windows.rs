//! Ticks and windows: COMPLETE, and the detection of a rewound source.

use posthaste_core::{Message, PageLimit, Place, TickRef, TopicFilter};
use posthaste_store::StoreErrorKind;

use super::{
    harness::{Application, Harness, LONG, commit, migrated},
    reader::{Reader, WIDE, read_all, tick},
};

pub(crate) async fn window_holds_exactly_what_committed_between_two_ticks<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut ticker = store.ticker();
    let mut bounds = vec![(TickRef::BEGINNING, Vec::new())];
    for count in 1..=3 {
        let ids = commit(&harness, &vec!["a"; count]).await;
        bounds.push((tick(ticker.as_mut()).await, ids));
    }
    let all = TopicFilter::all();
    for pair in bounds.windows(2) {
        let [(base, _), (head, expected)] = pair else { unreachable!() };
        let window = store.window(*base, Some(*head)).await.unwrap().unwrap();
        let page = store.read(&window, 0, &all, WIDE).await.unwrap().unwrap();
        assert!(page.iter().map(|message| message.id).eq(expected.iter().copied()));
        assert!(store.read(&window, page.through(), &all, WIDE).await.unwrap().is_none());
    }
}

pub(crate) async fn no_tick_is_taken_without_a_message<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut ticker = store.ticker();
    assert_eq!(tick(ticker.as_mut()).await, TickRef::BEGINNING);
    commit(&harness, &[]).await;
    let mut application = harness.begin().await;
    application.insert(&Message::new("rolled-back")).await;
    application.rollback().await;
    assert_eq!(tick(ticker.as_mut()).await, TickRef::BEGINNING);
    commit(&harness, &["a"]).await;
    let first = tick(ticker.as_mut()).await;
    assert_eq!(first.n, 1);
    commit(&harness, &[]).await;
    assert_eq!(tick(ticker.as_mut()).await, first);
    assert_eq!(tick(store.ticker().as_mut()).await, first, "a new ticker has nothing to tick");
}

pub(crate) async fn ticks_are_numbered_consecutively_and_two_tickers_agree<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let other = harness.open(LONG).await;
    let mut tickers = [store.ticker(), other.ticker()];
    for n in 1..=6 {
        commit(&harness, &["a"]).await;
        tickers.reverse();
        let taken = tick(tickers[0].as_mut()).await;
        assert_eq!(taken.n, n);
        assert_eq!(tick(tickers[1].as_mut()).await, taken);
    }
    assert_eq!(store.status().await.unwrap().tick.n, 6);
}

pub(crate) async fn tickers_that_tick_at_once_lose_and_repeat_nothing<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut expected = Vec::new();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let mut ticker = harness.open(LONG).await.ticker();
        tasks.push(tokio::spawn(async move {
            for _ in 0..20 {
                ticker.advance().await.unwrap();
            }
        }));
    }
    for _ in 0..20 {
        expected.extend(commit(&harness, &["a", "b"]).await);
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    let received = read_all(&*store).await;
    assert!(received.iter().map(|message| message.id).eq(expected));
}

pub(crate) async fn interrupted_window_is_resumed_at_its_place<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut ticker = store.ticker();
    let mut expected = commit(&harness, &["a"; 10]).await;
    let head = tick(ticker.as_mut()).await;
    let narrow = PageLimit { stride: 4, bytes: WIDE.bytes };
    let mut reader = Reader { limit: narrow, ..Reader::at(Place::beginning()) };
    reader.step(&*store).await;
    assert_eq!(reader.place.within.map(|within| within.head), Some(head));
    // Another tick must not widen the window that the place is in.
    expected.extend(commit(&harness, &["a"; 10]).await);
    tick(ticker.as_mut()).await;
    let mut reader = reader.clone();
    reader.drain(&*harness.open(LONG).await).await;
    assert_eq!(reader.ids(), expected);
    assert_eq!(reader.place.within, None);
}

pub(crate) async fn no_window_follows_the_newest_tick<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    assert!(store.window(TickRef::BEGINNING, None).await.unwrap().is_none());
    commit(&harness, &["a"]).await;
    let newest = tick(store.ticker().as_mut()).await;
    assert!(store.window(newest, None).await.unwrap().is_none());
    let window = store.window(TickRef::BEGINNING, None).await.unwrap().unwrap();
    assert_eq!((window.base.at, window.head.at), (TickRef::BEGINNING, newest));
    assert!(!window.is_empty());
}

pub(crate) async fn tick_with_another_id_is_rewound<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut ticker = store.ticker();
    commit(&harness, &["a"]).await;
    let first = tick(ticker.as_mut()).await;
    commit(&harness, &["a"]).await;
    let second = tick(ticker.as_mut()).await;
    harness.exchange_tick(first.n).await;
    let error = store.window(first, None).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");
    harness.exchange_tick(second.n).await;
    let error = store.window(TickRef::BEGINNING, Some(second)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");
}

pub(crate) async fn tick_that_is_missing_is_rewound<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut ticker = store.ticker();
    commit(&harness, &["a"]).await;
    let first = tick(ticker.as_mut()).await;
    commit(&harness, &["a"]).await;
    tick(ticker.as_mut()).await;
    harness.remove_tick(first.n).await;
    for missing in [first, TickRef { n: 99, id: first.id }] {
        let error = store.window(missing, None).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");
    }
}
