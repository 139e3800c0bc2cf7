//! Incidents: what somebody has been told of.

use std::{sync::Arc, time::Duration};

use posthaste_store::{IncidentKey, Incidents, Telling};
use tokio::time::sleep;

use super::harness::Harness;

const CLAIM: Duration = Duration::from_hours(1);
/// It has run out by the next statement.
const MOMENT: Duration = Duration::from_micros(1);

fn key() -> IncidentKey {
    IncidentKey { condition: "lag".to_owned(), subject: "mail".to_owned() }
}

async fn told(store: &Arc<dyn Incidents>) -> Vec<bool> {
    store.incidents().await.unwrap().iter().map(|incident| incident.is_told).collect()
}

pub(crate) async fn incident_is_told_by_one_and_ends_with_the_telling_of_its_end<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.incidents().await;
    store.migrate().await.unwrap();
    let other = harness.incidents().await;
    let since = store.open_incident(&key(), CLAIM).await.unwrap().expect("it is ours to tell");
    assert_eq!(other.open_incident(&key(), CLAIM).await.unwrap(), None);
    assert_eq!(told(&store).await, [false]);
    store.tell_incident(&key(), Telling::Begun).await.unwrap();
    let all = other.incidents().await.unwrap();
    assert_eq!((all.len(), &all[0].key, all[0].opened_at), (1, &key(), since));
    assert!(all[0].is_told);
    assert_eq!(other.open_incident(&key(), CLAIM).await.unwrap(), None, "it was told");
    assert_eq!(other.close_incident(&key(), CLAIM).await.unwrap(), Some(since));
    assert_eq!(store.close_incident(&key(), CLAIM).await.unwrap(), None);
    other.tell_incident(&key(), Telling::Over).await.unwrap();
    assert_eq!(store.incidents().await.unwrap(), []);
    assert_eq!(store.close_incident(&key(), CLAIM).await.unwrap(), None);
    let again = store.open_incident(&key(), CLAIM).await.unwrap().expect("another one");
    assert!(again > since);
}

pub(crate) async fn incident_is_known_to_hold_as_long_as_somebody_sees_it<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.incidents().await;
    store.migrate().await.unwrap();
    store.see_incident(&key()).await.unwrap();
    assert_eq!(store.incidents().await.unwrap(), [], "there is none to be seen");
    store.open_incident(&key(), CLAIM).await.unwrap();
    let seen = async || harness.incidents().await.incidents().await.unwrap()[0].seen_before;
    assert_eq!(seen().await, None);
    store.see_incident(&key()).await.unwrap();
    assert!(seen().await.is_some_and(|ago| ago < CLAIM));
}

pub(crate) async fn what_its_teller_has_left_untold_is_anothers_to_tell<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.incidents().await;
    store.migrate().await.unwrap();
    let since = store.open_incident(&key(), MOMENT).await.unwrap();
    sleep(Duration::from_millis(2)).await;
    assert!(since.is_some());
    assert_eq!(store.open_incident(&key(), MOMENT).await.unwrap(), since);
    store.tell_incident(&key(), Telling::Begun).await.unwrap();
    assert_eq!(store.close_incident(&key(), MOMENT).await.unwrap(), since);
    sleep(Duration::from_millis(2)).await;
    assert_eq!(store.close_incident(&key(), CLAIM).await.unwrap(), since);
}

pub(crate) async fn what_could_not_be_told_is_anybodys_to_tell_at_once<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.incidents().await;
    store.migrate().await.unwrap();
    let since = store.open_incident(&key(), CLAIM).await.unwrap();
    store.tell_incident(&key(), Telling::Failed).await.unwrap();
    assert_eq!(told(&store).await, [false]);
    assert_eq!(store.open_incident(&key(), CLAIM).await.unwrap(), since);
    store.tell_incident(&key(), Telling::Begun).await.unwrap();
    assert_eq!(store.close_incident(&key(), CLAIM).await.unwrap(), since);
    store.tell_incident(&key(), Telling::Failed).await.unwrap();
    assert_eq!(told(&store).await, [true]);
    assert_eq!(store.close_incident(&key(), CLAIM).await.unwrap(), since);
}

pub(crate) async fn incident_that_nobody_was_told_of_is_forgotten_at_its_end<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.incidents().await;
    store.migrate().await.unwrap();
    store.open_incident(&key(), CLAIM).await.unwrap();
    assert_eq!(store.close_incident(&key(), CLAIM).await.unwrap(), None);
    assert_eq!(told(&store).await, [false], "it is being told");
    let other = IncidentKey { subject: String::new(), ..key() };
    store.open_incident(&other, CLAIM).await.unwrap();
    store.tell_incident(&other, Telling::Failed).await.unwrap();
    assert_eq!(store.close_incident(&other, CLAIM).await.unwrap(), None);
    assert_eq!(told(&store).await.len(), 1);
    // Whoever was to tell it may have done so before it was gone.
    let since = store.open_incident(&other, MOMENT).await.unwrap();
    sleep(Duration::from_millis(2)).await;
    assert_eq!(store.close_incident(&other, CLAIM).await.unwrap(), since);
}
