//! Pushes that meet each other, and readers that meet a push.

use posthaste_store::{ContractText, ContractsMark, Operations as _, Request, Store as _};

use super::database::Log;

#[tokio::test]
async fn push_waits_for_the_one_before_it_and_readers_wait_for_neither() {
    let log = Log::shared().await;
    let first = log.writer().await;
    let insert =
        "begin; insert into posthaste.contract (topic, version, schema) values ('t', 1, '{}')";
    first.batch_execute(insert).await.unwrap();
    let store = log.another_store();
    let second = tokio::spawn(async move {
        let request = Request { actor: "ann".to_owned(), is_dry_run: false, is_forced: false };
        let contract =
            ContractText { topic: "t".to_owned(), version: 1, schema: "true".to_owned() };
        store.push_contracts(&[contract], &request).await
    });
    log.somebody_waits().await;
    assert_eq!(log.store.contracts(&ContractsMark::default()).await.unwrap(), None);
    first.batch_execute("commit").await.unwrap();
    let told = second.await.unwrap().unwrap_err().to_string();
    assert!(told.contains("was pushed with another schema"), "{told}");
    assert_eq!(log.ask::<String>("select schema from posthaste.contract").await, "{}");
}
