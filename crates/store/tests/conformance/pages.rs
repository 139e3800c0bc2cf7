//! Paging: BOUNDED pages in order, without gaps or repeats, filtered by topic.

use posthaste_core::{Message, PageLimit, Place, TickRef, TopicFilter};
use posthaste_store::Start;

use super::{
    harness::{Harness, commit, migrated},
    reader::{Reader, WIDE, publish_all, subscription, tick},
};
use crate::taking::taken;

pub(crate) async fn big_window_is_paged_in_order_without_gaps_or_repeats<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let messages: Vec<Message> =
        (0..600).map(|n| Message::new("a").bytes("a/b", vec![b'x'; n % 50])).collect();
    let expected = store.append(&messages).await.unwrap();
    tick(store.ticker().as_mut()).await;
    for (stride, bytes) in
        [(1, WIDE.bytes), (7, WIDE.bytes), (64, 200), (1_000, 1_000), (1_000, 1), (600, WIDE.bytes)]
    {
        let limit = PageLimit { stride, bytes };
        let mut reader = Reader { limit, ..Reader::at(Place::beginning()) };
        reader.drain(&*store).await;
        assert!(reader.ids() == expected, "{limit:?}");
        assert!(reader.received.is_sorted_by(|a, b| a.position < b.position), "{limit:?}");
    }
}

pub(crate) async fn page_keeps_its_byte_limit_and_an_oversize_message_stands_alone<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let sizes = [300, 300, 300, 5_000, 300, 5_000, 5_000, 300];
    let message = |size| Message::new("a").header("h", "v").bytes("a/b", vec![0; size]);
    store.append(&sizes.map(message)).await.unwrap();
    tick(store.ticker().as_mut()).await;
    let limit = PageLimit { stride: WIDE.stride, bytes: 1_000 };
    let window = store.window(TickRef::BEGINNING, None).await.unwrap().unwrap();
    let (mut after, mut pages) = (0, Vec::new());
    while let Some(page) = store.read(&window, after, &TopicFilter::all(), limit).await.unwrap() {
        let held: usize = page.iter().map(|message| message.payload.len() + 1 + 1).sum();
        assert!(held <= limit.bytes || page.len() == 1, "{} messages of {held} bytes", page.len());
        pages.push(page.iter().map(|message| message.payload.len()).collect::<Vec<_>>());
        after = page.through();
    }
    assert_eq!(pages.concat(), sizes);
    assert!(pages.contains(&vec![300, 300, 300]), "pages are filled: {pages:?}");
}

pub(crate) async fn filter_selects_exact_topics_and_prefixes<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let topics = ["orders", "orders.created", "order", "Orders", "run:7", "run", "run_x", "runs"];
    commit(&harness, &topics).await;
    tick(store.ticker().as_mut()).await;
    for (patterns, expected) in [
        (vec!["orders"], vec!["orders"]),
        (vec!["orders*"], vec!["orders", "orders.created"]),
        (vec!["order", "run:*"], vec!["order", "run:7"]),
        (vec!["run_*"], vec!["run_x"]),
        (vec!["*"], topics.to_vec()),
        (vec!["nothing"], vec![]),
    ] {
        let filter = TopicFilter::new(&patterns).unwrap();
        let mut reader = Reader { filter, ..Reader::at(Place::beginning()) };
        reader.drain(&*store).await;
        let received: Vec<&str> = reader.received.iter().map(|m| m.topic.as_str()).collect();
        assert_eq!(received, expected, "{patterns:?}");
    }
}

pub(crate) async fn pages_without_a_match_move_on<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    commit(&harness, &["other"; 100]).await;
    let expected = commit(&harness, &["wanted"]).await;
    commit(&harness, &["other"; 100]).await;
    tick(store.ticker().as_mut()).await;
    let filter = TopicFilter::new(&["wanted"]).unwrap();
    let limit = PageLimit { stride: 10, bytes: 1 };
    let mut reader = Reader { filter, limit, ..Reader::at(Place::beginning()) };
    let mut steps = 0;
    while reader.step(&*store).await {
        steps += 1;
        assert!(steps <= 40, "201 positions in strides of 10 take about 20 pages");
    }
    assert_eq!(reader.ids(), expected);
    assert_eq!(reader.place.message, Some(expected[0]));
}

pub(crate) async fn settled_reach_never_covers_what_commits_later<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    commit(&harness, &["a", "b"]).await;
    tick(store.ticker().as_mut()).await;
    let (epoch, place) = taken(&*store, "s", "one").await;
    let mut reader = Reader::at(place);
    reader.step(&*store).await;
    assert_eq!(reader.received.len(), 2);
    store.settle("s", epoch, &reader.place).await.unwrap();
    let later = commit(&harness, &["a", "b"]).await;
    assert_eq!(store.status().await.unwrap().subscriptions[0].backlog, 2);
    assert_eq!(publish_all(&*store, "s").await, later);
}
