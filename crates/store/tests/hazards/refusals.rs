//! What a database says of rows that it refuses: their values, which nobody else may see.

use posthaste_core::{Message, describe};
use posthaste_store::{Store as _, StoreErrorKind};

use super::database::Log;

/// Defence: `errors.rs::Cause`, which leaves the server's detail out, and `describe`, which reads one line.
#[tokio::test]
async fn refused_row_is_not_told() {
    let log = Log::shared().await;
    let rule = "alter table posthaste.log add constraint a_rule check (topic <> 'refused')";
    log.writer().await.batch_execute(rule).await.unwrap();
    let message = Message::new("refused").key("hunter2-key").text("hunter2").header("h", "hunter2");
    let error = log.store.append(&[message]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid, "{error}");
    let told = format!("{} {error:?} {error}", describe(&error));
    assert!(told.contains("a_rule"), "{told}");
    // Bytes are shown as hexadecimal digits.
    for secret in ["hunter2", "68756e74657232"] {
        assert!(!told.contains(secret), "{told}");
    }
}
