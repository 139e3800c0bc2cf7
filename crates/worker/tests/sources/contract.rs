//! What every source promises, and what every source on a server does.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use posthaste_testkit::{
    eventually_async,
    proxy::{NetFault, Proxy},
};
use posthaste_worker::source::{Fate, Source};
use tokio::time::timeout;

use super::{Kind, Queue, Taken, WAIT, collect, numbers, read};
use crate::support::LIMIT;

macro_rules! contract {
    ($($kind:ident $variant:ident: $($test:ident)*;)*) => {$(
        mod $kind {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(super::Kind::$variant)).await;
            }
        )*}
    )*};
}

macro_rules! on_servers {
    ($($kind:ident $variant:ident;)*) => {
        contract! {$(
            $kind $variant:
                messages_come_in_order_and_never_more_than_asked_for
                take_waits_for_the_first
                settled_messages_never_come_again
                given_back_messages_come_again
                buried_messages_stand_in_the_dead_letters_with_their_reason
                r28_what_a_dead_worker_held_comes_to_another_once_and_not_while_it_lives
                worker_that_lost_its_messages_can_neither_give_them_back_nor_bury_them
                what_is_in_hand_is_not_handed_out_again_after_a_silence
                two_sources_share_a_queue_without_sharing_a_message
                lost_reply_of_take_loses_nothing
                call_that_arrives_late_loses_nothing
                dropped_take_loses_nothing
                lost_reply_of_settle_settles_once
                what_is_unreadable_says_so_and_can_be_buried
                closed_source_leaves_what_it_holds_to_others_at_once
                server_that_comes_back_is_found_again
                forgotten_scripts_are_sent_again
            ;
        )*}
    };
}

contract! {
    local Local:
        messages_come_in_order_and_never_more_than_asked_for
        take_waits_for_the_first
        settled_messages_never_come_again
        given_back_messages_come_again
        buried_messages_stand_in_the_dead_letters_with_their_reason
    ;
}
contract! {
    list_in_a_cluster ClusteredList:
        messages_come_in_order_and_never_more_than_asked_for
        settled_messages_never_come_again
        given_back_messages_come_again
        buried_messages_stand_in_the_dead_letters_with_their_reason
        r28_what_a_dead_worker_held_comes_to_another_once_and_not_while_it_lives
        two_sources_share_a_queue_without_sharing_a_message
        closed_source_leaves_what_it_holds_to_others_at_once
    ;
    stream_in_a_cluster ClusteredStream:
        messages_come_in_order_and_never_more_than_asked_for
        settled_messages_never_come_again
        given_back_messages_come_again
        buried_messages_stand_in_the_dead_letters_with_their_reason
        r28_what_a_dead_worker_held_comes_to_another_once_and_not_while_it_lives
        two_sources_share_a_queue_without_sharing_a_message
        closed_source_leaves_what_it_holds_to_others_at_once
    ;
    bullmq_in_a_cluster ClusteredBullmq:
        messages_come_in_order_and_never_more_than_asked_for
        settled_messages_never_come_again
        given_back_messages_come_again
        buried_messages_stand_in_the_dead_letters_with_their_reason
        r28_what_a_dead_worker_held_comes_to_another_once_and_not_while_it_lives
        two_sources_share_a_queue_without_sharing_a_message
        closed_source_leaves_what_it_holds_to_others_at_once
    ;
}
on_servers! {
    list List;
    list_of_events ListOfEvents;
    stream Stream;
    bullmq Bullmq;
}

/// The same fate for all.
fn all(taken: &Taken, fate: &Fate) -> Vec<(posthaste_worker::source::Token, Fate)> {
    taken.iter().map(|(token, _)| (token.clone(), fate.clone())).collect()
}

fn because(reason: &str) -> Fate {
    Fate::Bury { reason: reason.to_owned() }
}

/// Whatever is handed out next is a message that is written now.
async fn assert_nothing_before(queue: &Queue, source: &dyn Source, number: i64) {
    queue.write([number]).await;
    let next = collect(source, 1).await;
    assert_eq!(numbers(&next), [number]);
    source.settle(&all(&next, &Fate::Done)).await.unwrap();
}

async fn messages_come_in_order_and_never_more_than_asked_for(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let source = queue.source();
    queue.write(0..25).await;
    let mut taken = Taken::new();
    while taken.len() < 25 {
        let next = timeout(LIMIT, source.take(4, WAIT)).await.unwrap().unwrap();
        assert!(next.len() <= 4, "{}", next.len());
        taken.extend(read(next));
    }
    assert_eq!(numbers(&taken), (0..25).collect::<Vec<_>>());
}

async fn take_waits_for_the_first(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let source = match kind {
        Kind::Local => queue.source(),
        // It waits for longer than for an answer.
        _ => queue.source_at(&queue.url(), &[("operation_timeout", "1s")]),
    };
    let waiting = Arc::clone(&source);
    let waiting = tokio::spawn(async move { waiting.take(10, LIMIT).await });
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    queue.write([7]).await;
    let taken = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(numbers(&read(taken)), [7]);
}

async fn settled_messages_never_come_again(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let mut source = queue.source();
    queue.write(0..20).await;
    let taken = collect(&*source, 20).await;
    source.settle(&all(&taken, &Fate::Done)).await.unwrap();
    // Again: as after an answer that got lost.
    source.settle(&all(&taken, &Fate::Done)).await.unwrap();
    assert_nothing_before(&queue, &*source, 20).await;
    if kind != Kind::Local {
        queue.pass_lease().await;
        source = queue.source();
        assert_nothing_before(&queue, &*source, 21).await;
    }
    assert!(queue.dead().await.is_empty());
}

async fn given_back_messages_come_again(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let source = queue.source();
    queue.write(0..5).await;
    let taken = collect(&*source, 5).await;
    let mut fates = all(&taken, &Fate::Done);
    fates[1].1 = Fate::GiveBack;
    fates[3].1 = Fate::GiveBack;
    source.settle(&fates).await.unwrap();
    let again = collect(&*source, 2).await;
    assert_eq!(numbers(&again), [1, 3]);
    source.settle(&all(&again, &Fate::Done)).await.unwrap();
    assert_nothing_before(&queue, &*source, 5).await;
}

async fn buried_messages_stand_in_the_dead_letters_with_their_reason(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let source = queue.source();
    queue.write(0..3).await;
    let taken = collect(&*source, 3).await;
    let mut fates = all(&taken, &Fate::Done);
    fates[1].1 = because("nobody wants \"1\"");
    source.settle(&fates).await.unwrap();
    assert_nothing_before(&queue, &*source, 3).await;
    assert_eq!(queue.dead().await, [("1".to_owned(), "nobody wants \"1\"".to_owned())]);
}

async fn r28_what_a_dead_worker_held_comes_to_another_once_and_not_while_it_lives(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let first = queue.source();
    queue.write(0..10).await;
    let taken = collect(&*first, 10).await;
    first.settle(&all(&taken[..2].to_vec(), &Fate::Done)).await.unwrap();
    // It is silent for a while, and is heard of in time.
    queue.pass_lease().await;
    first.beat().await.unwrap();
    let second = queue.source();
    assert_nothing_before(&queue, &*second, 10).await;
    // Now it is dead.
    queue.pass_lease().await;
    queue.write([11]).await;
    let third = queue.source();
    let taken = collect(&*third, 9).await;
    assert_eq!(numbers(&taken), [2, 3, 4, 5, 6, 7, 8, 9, 11], "before what is new, in order");
    let fourth = queue.source();
    assert_nothing_before(&queue, &*fourth, 12).await;
    third.settle(&all(&taken, &Fate::Done)).await.unwrap();
    queue.pass_lease().await;
    assert_nothing_before(&queue, &*queue.source(), 13).await;
}

async fn worker_that_lost_its_messages_can_neither_give_them_back_nor_bury_them(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let first = queue.source();
    queue.write(0..4).await;
    let lost = collect(&*first, 4).await;
    queue.pass_lease().await;
    let second = queue.source();
    let taken = collect(&*second, 4).await;
    let mut fates = all(&lost, &Fate::GiveBack);
    fates[2].1 = because("late");
    first.settle(&fates).await.unwrap();
    assert_nothing_before(&queue, &*queue.source(), 4).await;
    assert!(queue.dead().await.is_empty());
    second.settle(&all(&taken, &Fate::Done)).await.unwrap();
    queue.pass_lease().await;
    assert_nothing_before(&queue, &*queue.source(), 5).await;
}

/// Its second delivery would be dropped, and settled, while the first is in hand: if the worker died
/// then, the message would be lost.
async fn what_is_in_hand_is_not_handed_out_again_after_a_silence(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let first = queue.source();
    queue.write(0..4).await;
    let in_hand = collect(&*first, 4).await;
    queue.pass_lease().await;
    // Somebody finds it dead, and takes one of them.
    let second = queue.source();
    let taken = collect(&*second, 1).await;
    assert_eq!(numbers(&taken), [0]);
    // It was only silent: it goes on, and finds its own in the queue.
    first.beat().await.unwrap();
    assert_nothing_before(&queue, &*first, 4).await;
    first.settle(&all(&in_hand[..2].to_vec(), &Fate::Done)).await.unwrap();
    // Now it dies with the other two in hand.
    queue.pass_lease().await;
    let third = queue.source();
    let mut rest = numbers(&collect(&*third, if kind == Kind::Stream { 2 } else { 3 }).await);
    rest.sort_unstable();
    // An acknowledgement in a stream counts, whoever sends it.
    assert_eq!(rest, if kind == Kind::Stream { vec![2, 3] } else { vec![0, 2, 3] });
}

async fn two_sources_share_a_queue_without_sharing_a_message(kind: Kind) {
    const COUNT: usize = 300;
    let queue = Queue::shared(kind).await;
    queue.write(0..COUNT as i64).await;
    let total = Arc::new(AtomicUsize::new(0));
    let work = |source: Arc<dyn Source>, total: Arc<AtomicUsize>| async move {
        let mut all_taken = Vec::new();
        while total.load(Ordering::Relaxed) < COUNT {
            let taken = read(source.take(7, Duration::from_millis(100)).await.unwrap());
            total.fetch_add(taken.len(), Ordering::Relaxed);
            source.settle(&all(&taken, &Fate::Done)).await.unwrap();
            all_taken.extend(numbers(&taken));
        }
        all_taken
    };
    let both = [queue.source(), queue.source()]
        .map(|source| tokio::spawn(work(source, Arc::clone(&total))));
    let mut seen = Vec::new();
    for one in both {
        let taken = timeout(LIMIT, one).await.unwrap().unwrap();
        assert!(taken.is_sorted(), "each gets them in order: {taken:?}");
        seen.extend(taken);
    }
    assert_eq!(seen.len(), COUNT);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), COUNT);
}

/// A source behind a proxy, with open connections, that has looked for what is held; and five messages.
async fn behind_a_proxy(kind: Kind) -> (Queue, Proxy, Arc<dyn Source>) {
    let queue = Queue::shared(kind).await;
    let proxy = Proxy::start(queue.redis().port()).await.unwrap();
    let settings = [("operation_timeout", "300ms")];
    let source = queue.source_at(&proxy.url(&queue.redis().url()), &settings);
    assert_nothing_before(&queue, &*source, 0).await;
    assert!(source.take(1, Duration::from_millis(1)).await.unwrap().is_empty());
    queue.write(1..=5).await;
    eventually_async("five messages", LIMIT, async || queue.waiting().await == 5).await;
    (queue, proxy, source)
}

async fn lost_reply_of_take_loses_nothing(kind: Kind) {
    let (queue, proxy, source) = behind_a_proxy(kind).await;
    proxy.set(NetFault::ReplyLost);
    assert!(source.take(3, Duration::from_millis(10)).await.is_err());
    assert_eq!((proxy.hits(), queue.waiting().await), (1, 2), "three are held");
    let taken = collect(&*source, 5).await;
    assert_eq!(numbers(&taken), [1, 2, 3, 4, 5]);
    source.settle(&all(&taken, &Fate::Done)).await.unwrap();
    assert!(queue.is_settled().await);
    assert_nothing_before(&queue, &*source, 6).await;
}

async fn call_that_arrives_late_loses_nothing(kind: Kind) {
    let (queue, proxy, source) = behind_a_proxy(kind).await;
    proxy.set(NetFault::HoldBack);
    assert!(source.take(3, Duration::from_millis(10)).await.is_err());
    // It connects anew, looks at what it holds, and finds nothing but what is new: the call is still held back.
    let mut taken = read(timeout(LIMIT, source.take(1, WAIT)).await.unwrap().unwrap());
    eventually_async("the late call", LIMIT, async || queue.waiting().await == 1).await;
    taken.extend(collect(&*source, 4).await);
    assert_eq!(proxy.hits(), 1);
    taken.sort_by_key(|(_, number)| *number);
    assert_eq!(numbers(&taken), [1, 2, 3, 4, 5]);
    source.settle(&all(&taken, &Fate::Done)).await.unwrap();
    assert!(queue.is_settled().await);
    assert_nothing_before(&queue, &*source, 6).await;
}

async fn dropped_take_loses_nothing(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let source = queue.source();
    assert_nothing_before(&queue, &*source, 0).await;
    for number in 1..20 {
        let waiting = source.take(10, LIMIT);
        let _ = timeout(Duration::from_millis(5), waiting).await;
        queue.write([number]).await;
        let next = collect(&*source, 1).await;
        assert_eq!(numbers(&next), [number]);
        source.settle(&all(&next, &Fate::Done)).await.unwrap();
    }
}

async fn lost_reply_of_settle_settles_once(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let proxy = Proxy::start(queue.redis().port()).await.unwrap();
    let source = queue.source_at(&proxy.url(&queue.redis().url()), &[]);
    queue.write(0..4).await;
    let taken = collect(&*source, 4).await;
    let mut fates = all(&taken, &Fate::Done);
    fates[0].1 = because("once");
    fates[1].1 = Fate::GiveBack;
    proxy.set(NetFault::ReplyLost);
    assert!(source.settle(&fates).await.is_err());
    assert_eq!(proxy.hits(), 1);
    source.settle(&fates).await.unwrap();
    assert_eq!(queue.dead().await, [("0".to_owned(), "once".to_owned())]);
    assert_eq!(numbers(&collect(&*source, 1).await), [1]);
    assert_nothing_before(&queue, &*source, 4).await;
}

async fn what_is_unreadable_says_so_and_can_be_buried(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let source = queue.source();
    queue.spoil().await;
    let taken = timeout(LIMIT, source.take(10, LIMIT)).await.unwrap().unwrap();
    let said = taken[0].message.as_ref().unwrap_err().to_string();
    let expected = match kind {
        Kind::Stream => "id must be present",
        Kind::Bullmq => "parentKey must be absent",
        _ => "set format = \"envelope\" for the relay's sink",
    };
    assert!(said.contains(expected), "{said}");
    source.settle(&[(taken[0].token.clone(), because("unreadable"))]).await.unwrap();
    assert_nothing_before(&queue, &*source, 1).await;
    let (element, reason) = queue.dead().await.remove(0);
    let expected = match kind {
        Kind::Stream | Kind::Bullmq => "{\"order\":17}\u{fffd}",
        _ => "eyJvcmRlciI6MTd9/w==",
    };
    assert_eq!((element.as_str(), reason.as_str()), (expected, "unreadable"));
}

async fn closed_source_leaves_what_it_holds_to_others_at_once(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let first = queue.source();
    queue.write(0..6).await;
    let taken = collect(&*first, 6).await;
    first.settle(&all(&taken[..2].to_vec(), &Fate::Done)).await.unwrap();
    first.close().await.unwrap();
    let second = queue.source();
    let taken = collect(&*second, 4).await;
    assert_eq!(numbers(&taken), [2, 3, 4, 5]);
    second.settle(&all(&taken, &Fate::Done)).await.unwrap();
    second.close().await.unwrap();
    assert_eq!(queue.workers().await, [""; 0]);
}

async fn server_that_comes_back_is_found_again(kind: Kind) {
    let queue = Queue::alone(kind).await;
    let source = queue.source();
    queue.write(0..6).await;
    let before = collect(&*source, 3).await;
    queue.redis().kill();
    assert!(source.take(3, WAIT).await.is_err());
    assert!(source.beat().await.is_err());
    assert!(source.settle(&all(&before, &Fate::Done)).await.is_err());
    queue.redis().restart();
    source.settle(&all(&before, &Fate::Done)).await.unwrap();
    let after = collect(&*source, 3).await;
    assert_eq!(numbers(&after), [3, 4, 5]);
    source.beat().await.unwrap();
}

async fn forgotten_scripts_are_sent_again(kind: Kind) {
    let queue = Queue::alone(kind).await;
    let source = queue.source();
    queue.write(0..2).await;
    let taken = collect(&*source, 2).await;
    let flush = || async {
        let mut client = queue.client().await;
        redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut client).await.unwrap();
    };
    flush().await;
    source.settle(&all(&taken, &Fate::Done)).await.unwrap();
    flush().await;
    source.beat().await.unwrap();
    flush().await;
    assert_nothing_before(&queue, &*source, 2).await;
    flush().await;
    source.close().await.unwrap();
}
