//! Contracts: what payloads of topics must look like, as they were pushed.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use posthaste_store::ContractRow;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    filters::{Of, cursor},
    shown::as_json,
};
use crate::{
    app::App,
    clock,
    extract::{OfTopic, Parameters},
    problem::{Code, Problem},
};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// Which contracts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// How many at most; 50 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of contracts, by topic and version.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContractPage {
    /// The page.
    contracts: Vec<ContractBody>,
    /// What to send as `cursor` for the next page; null on the last one.
    next: Option<String>,
}

/// A contract, without its schema.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Contract)]
pub(crate) struct ContractBody {
    /// The topic.
    topic: String,
    /// The version, from 1.
    version: u32,
    /// How long its schema is.
    schema_bytes: u64,
    /// When it was pushed.
    #[schema(format = DateTime)]
    pushed_at: String,
}

impl ContractBody {
    fn of(row: &ContractRow) -> Self {
        Self {
            topic: row.topic.clone(),
            version: row.version,
            schema_bytes: row.schema_bytes,
            pushed_at: clock::rfc3339(row.pushed_at),
        }
    }
}

/// List contracts
///
/// By topic and version, page by page, without their schemas.
#[utoipa::path(get, path = "/api/v1/contracts", tag = "contracts", params(Listing),
    responses((status = 200, description = "A page", body = ContractPage)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Parameters(listing): Parameters<Listing>,
) -> Result<Response, Problem> {
    let limit = Of::Query.limit(listing.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let after = Of::Query.place('c', listing.cursor, place)?;
    let after = after.as_ref().map(|(topic, version)| (topic.as_str(), *version));
    let page = app.operations.contract_page(after, limit).await?;
    let is_full = page.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = page.last().filter(|_| is_full);
    let next = next.map(|last| cursor('c', &format!("{}/{}", last.version, last.topic)));
    let contracts = page.iter().map(ContractBody::of).collect();
    Ok(as_json(&ContractPage { contracts, next }).into_response())
}

fn place(text: &str) -> Option<(String, u32)> {
    let (version, topic) = text.split_once('/')?;
    let is_plain = !topic.chars().any(char::is_control);
    is_plain.then_some((topic.to_owned(), version.parse().ok()?))
}

/// Which version.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Version {
    /// The newest if not given.
    #[param(value_type = Option<u32>, minimum = 1)]
    version: Option<String>,
}

/// A contract with its schema.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeContract {
    /// The topic.
    topic: String,
    /// The version, from 1.
    version: u32,
    /// The JSON Schema.
    schema: Value,
    /// When it was pushed.
    #[schema(format = DateTime)]
    pushed_at: String,
    /// All versions of the topic, the newest first: at most 1,000.
    versions: Vec<u32>,
}

/// Show a contract
///
/// The newest of a topic, or one version of it.
#[utoipa::path(get, path = "/api/v1/contracts/{topic}", tag = "contracts",
    params(("topic" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The topic; a `/` in it is written as %2F"), Version),
    responses((status = 200, description = "The contract", body = WholeContract)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    OfTopic(topic): OfTopic,
    Parameters(asked): Parameters<Version>,
) -> Result<Response, Problem> {
    let version = asked.version.map(|text| {
        let version = text.parse().ok().filter(|version| *version > 0);
        version.ok_or_else(|| Of::Query.wrong("version", "a number from 1"))
    });
    let found = app.operations.contract(&topic, version.transpose()?).await?;
    let (contract, versions) = found.ok_or_else(|| {
        let detail = "/api/v1/contracts lists those that were pushed";
        Problem::new(Code::NoContract, detail)
    })?;
    let body = WholeContract {
        topic: contract.topic,
        version: contract.version,
        schema: serde_json::from_str(&contract.schema).unwrap_or_default(),
        pushed_at: clock::rfc3339(contract.pushed_at),
        versions,
    };
    Ok(as_json(&body).into_response())
}
