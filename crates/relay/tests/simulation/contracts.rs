//! Contracts of a simulation: of one topic a version is pushed late. Nothing breaks them for good,
//! so all of it has to arrive.

use std::sync::LazyLock;

use posthaste_core::{CONTRACT_HEADER, Headers, Timestamp};
use posthaste_store::{ContractSet, ContractsMark, StoredContract};

use super::{
    plan::Plan,
    world::{Body, State},
};

/// The payload of every message: a JSON string.
pub(crate) const PAYLOAD: &[u8; 100] = &{
    let mut payload = [b'x'; 100];
    (payload[0], payload[99]) = (b'"', b'"');
    payload
};
const LATE: &str = "run.1";

/// The header that names version 1 or 2.
static NAMED: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    ["1", "2"].map(|version| {
        let mut headers = Vec::new();
        Headers::pack(&mut headers, CONTRACT_HEADER);
        Headers::pack(&mut headers, version);
        headers
    })
});

/// The headers of a message: where there are contracts, one in three names the late version.
pub(crate) fn headers(plan: &Plan, body: &Body) -> Headers<'static> {
    if !plan.has_contracts {
        return Headers::default();
    }
    let is_late = body.topic == LATE && body.id.as_u128().is_multiple_of(3);
    Headers::packed(&NAMED[usize::from(is_late)])
}

/// What the store has at this moment.
pub(crate) fn stored(state: &State) -> Option<ContractSet> {
    let contract = |topic: &str, version, schema: &str| StoredContract {
        topic: topic.to_owned(),
        version,
        schema: schema.to_owned(),
        pushed_at: Timestamp(0),
    };
    let is_late = state.began.elapsed() > state.plan.duration / 2;
    let mut contracts = vec![contract(LATE, 1, "true")];
    if is_late {
        contracts.push(contract(LATE, 2, "true"));
    }
    // A mark that is always news.
    let mark = ContractsMark::default();
    state.plan.has_contracts.then_some(ContractSet { mark, contracts })
}
