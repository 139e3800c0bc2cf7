//! Contracts made from Rust types: whatever serde writes of a type keeps its contract.

use std::collections::BTreeMap;

use posthaste_core::contract::Contract;
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Order {
    placed_by: u64,
    state: State,
    total: f64,
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coupon: Option<String>,
    lines: Vec<Line>,
    labels: BTreeMap<String, i8>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum State {
    Open,
    PaidIn { instalments: u8 },
}

/// A product, or several in one.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Line {
    Product { sku: String },
    Bundle { of: Vec<Line> },
}

fn contract() -> Contract {
    Contract::of::<Order>("orders.created", 1).unwrap()
}

fn line() -> impl Strategy<Value = Line> {
    let product = ".*".prop_map(|sku| Line::Product { sku });
    product.prop_recursive(3, 8, 3, |line| {
        prop::collection::vec(line, 0..3).prop_map(|of| Line::Bundle { of })
    })
}

fn order() -> impl Strategy<Value = Order> {
    let state = prop_oneof![
        Just(State::Open),
        any::<u8>().prop_map(|instalments| State::PaidIn { instalments })
    ];
    let fields = (
        any::<u64>(),
        state,
        -1e300..1e300,
        any::<Option<String>>(),
        any::<Option<String>>(),
        prop::collection::vec(line(), 0..3),
        prop::collection::btree_map(".*", any::<i8>(), 0..3),
    );
    fields.prop_map(|(placed_by, state, total, note, coupon, lines, labels)| Order {
        placed_by,
        state,
        total,
        note,
        coupon,
        lines,
        labels,
    })
}

proptest! {
    #[test]
    fn r31_what_serde_writes_of_a_type_keeps_the_contract_of_the_type(order in order()) {
        let payload = serde_json::to_vec(&order).unwrap();
        prop_assert_eq!(contract().check(&payload), Ok(()));
    }
}

#[test]
fn another_payload_breaks_the_contract_of_the_type() {
    let good = json!({
        "placedBy": 17, "state": { "is": "open" }, "total": 1.5, "note": null, "lines": [],
        "labels": {},
    });
    let changed = |name: &str, value| {
        let mut payload = good.clone();
        payload[name] = value;
        contract()
            .check(&serde_json::to_vec(&payload).unwrap())
            .err()
            .map(|found| found.to_string())
    };
    assert_eq!(changed("placedBy", json!(17)), None);
    let cases = [
        ("placedBy", json!("17"), "/placedBy: not of type integer"),
        ("placedBy", json!(-1), "/placedBy: less than the minimum of 0"),
        ("note", json!(1), "/note: of none of the types null, string"),
        ("coupon", json!(1), "/coupon: of none of the types null, string"),
        ("labels", json!({ "a": 128 }), "/labels/a: greater than the maximum of 127"),
    ];
    for (name, value, violation) in cases {
        assert_eq!(changed(name, value).as_deref(), Some(violation), "{name}");
    }
    // A reader could do without a note, but serde writes one in any case.
    for name in ["state", "note"] {
        let mut lacking = good.clone();
        lacking.as_object_mut().unwrap().remove(name);
        let violation = contract().check(&serde_json::to_vec(&lacking).unwrap()).unwrap_err();
        assert_eq!(violation.to_string(), format!("payload: lacks {name:?}"));
    }
}
