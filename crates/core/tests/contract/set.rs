//! Which contract a message must keep.

use posthaste_core::contract::{CONTRACT_HEADER, Checked, Contract, Contracts};
use serde_json::json;

fn contracts() -> Contracts {
    let contract = |version| {
        let schema = json!({ "type": "object", "properties": { "n": { "minimum": version } } });
        Contract::new("jobs", version, schema).unwrap()
    };
    Contracts::new([contract(2), contract(1), contract(10)]).unwrap()
}

#[test]
fn r31_message_is_judged_under_the_version_that_it_names() {
    let contracts = contracts();
    assert_eq!(
        contracts.check("jobs", Some("1"), br#"{"n":1}"#),
        Ok(Checked::Valid { version: 1 })
    );
    assert_eq!(contracts.check("jobs", Some("10"), b"{}"), Ok(Checked::Valid { version: 10 }));
    assert_eq!(contracts.check("other", None, b"not JSON"), Ok(Checked::Uncontracted));
    assert_eq!(contracts.check("other", Some("x"), b""), Ok(Checked::Uncontracted));
}

#[test]
fn r31_each_breach_has_its_code_and_says_what_to_do() {
    let long = "9".repeat(80);
    for (version, payload, code, said) in [
        (
            None,
            "{}",
            "no-version",
            "name the version in the header posthaste-contract (known: 1, 2, 10)",
        ),
        (Some("3"), "{}", "unknown-version", "version 3 is not known here (known: 1, 2, 10)"),
        (Some(""), "{}", "bad-version", "is \"\""),
        (Some("0"), "{}", "bad-version", "a number from 1"),
        (Some("01"), "{}", "bad-version", "leading zeros"),
        (Some("+1"), "{}", "bad-version", "sign"),
        (Some(" 1"), "{}", "bad-version", "decimal"),
        (Some("1\n"), "{}", "bad-version", "\"1\\u{a}\""),
        (Some("4294967296"), "{}", "bad-version", ""),
        (Some(long.as_str()), "{}", "bad-version", "99999…\""),
        (
            Some("2"),
            r#"{"n":1}"#,
            "violation",
            "does not keep contract version 2: /n: less than the minimum of 2",
        ),
        (Some("2"), "", "violation", "requires a body"),
    ] {
        let breach = contracts().check("jobs", version, payload.as_bytes()).unwrap_err();
        assert_eq!(breach.code(), code, "{breach}");
        assert!(breach.to_string().contains(said), "{breach}");
        assert!(breach.to_string().contains("topic \"jobs\""), "{breach}");
    }
    assert_eq!(CONTRACT_HEADER, "posthaste-contract");
}

#[test]
fn contract_that_is_given_twice_is_refused() {
    let one = || Contract::new("jobs", 1, json!(true)).unwrap();
    let error = Contracts::new([one(), one()]).unwrap_err();
    assert_eq!((error.topic.as_str(), error.version), ("jobs", 1));
    assert!(error.to_string().contains("given twice"), "{error}");
}

#[test]
fn contracts_are_found_by_topic_and_version() {
    let contracts = contracts();
    assert_eq!(contracts.get("jobs", 2).map(Contract::version), Some(2));
    assert!(contracts.get("jobs", 3).is_none() && contracts.get("other", 1).is_none());
    let versions: Vec<u32> = contracts.iter().map(Contract::version).collect();
    assert_eq!(versions, [1, 2, 10]);
    assert!(!contracts.is_empty() && Contracts::default().is_empty());
}

#[test]
fn declared_topic_is_contracted_and_has_no_version() {
    let mut contracts = contracts();
    contracts.declare("orders");
    contracts.declare("jobs");
    let breach = contracts.check("orders", Some("1"), b"{}").unwrap_err();
    assert_eq!(breach.code(), "unknown-version");
    assert!(breach.to_string().contains("(known: none)"), "{breach}");
    assert_eq!(
        contracts.check("jobs", Some("1"), br#"{"n":1}"#),
        Ok(Checked::Valid { version: 1 })
    );
}
